//! Gateways that the same pods serve: what an older one has on a port, a younger one cannot have.

use std::{collections::BTreeMap, sync::Arc};

use super::{ResolvedGateway, status};
use crate::{
    infrastructure::{named_services, object_name},
    inputs::Inputs,
    object::{ObjectKey, cmp_age},
};

/// A listener that stands: its port, what is spoken on the socket, and its hosts.
type Standing = (u16, u8, String);

/// Decides conflicts between Gateways that lead to the same Service.
pub(super) fn settle(inputs: &Inputs, gateways: &mut BTreeMap<ObjectKey, ResolvedGateway>) {
    let mut by_service: BTreeMap<ObjectKey, Vec<ObjectKey>> = BTreeMap::new();
    for key in gateways.keys() {
        let Some(document) = inputs.api_gateways.get(key) else { continue };
        let named = named_services(inputs, document);
        let own = || {
            let name = object_name(&key.name, &document.spec.gateway_class_name);
            ObjectKey::new(Arc::clone(&key.namespace), name.as_str())
        };
        let services =
            if named.is_empty() { vec![own()] } else { named.into_iter().filter_map(|(_, service)| service).collect() };
        for service in services {
            by_service.entry(service).or_default().push(key.clone());
        }
    }
    for mut sharing in by_service.into_values().filter(|sharing| sharing.len() > 1) {
        let age = |a: &ObjectKey, b: &ObjectKey| match (gateways.get(a), gateways.get(b)) {
            (Some(a), Some(b)) => cmp_age(&a.head, &b.head),
            _ => a.cmp(b),
        };
        sharing.sort_by(age);
        let mut standing: Vec<Standing> = Vec::new();
        for key in sharing {
            if let Some(gateway) = gateways.get_mut(&key) {
                standing.extend(stand_beside(gateway, &standing));
            }
        }
    }
}

/// Takes down what cannot stand beside the listeners of older Gateways, and gives what does.
fn stand_beside(gateway: &mut ResolvedGateway, standing: &[Standing]) -> Vec<Standing> {
    let mut own = Vec::new();
    for (listener, told) in gateway.listeners.iter_mut().zip(&mut gateway.status.listeners) {
        if !listener.is_accepted {
            continue;
        }
        let (transport, host) = (listener.protocol.transport(), listener.hostname.to_string());
        let on_port = || standing.iter().filter(|(port, ..)| *port == listener.port);
        let conflict = if on_port().any(|(_, other, _)| *other != transport) {
            Some("ProtocolConflict")
        } else if on_port().any(|(.., other)| *other == host) {
            Some("HostnameConflict")
        } else {
            None
        };
        match conflict {
            Some(reason) => {
                listener.is_accepted = false;
                told.conflict = Some(reason);
                told.accepted = status::refused("Accepted", reason, "an older Gateway that the same pods serve has it");
            }
            None => own.push((listener.port, transport, host)),
        }
    }
    own
}
