//! Listeners that share pods: what older ones have on a port, younger ones cannot have.

use std::{collections::BTreeMap, sync::Arc};

use super::{ListenerProtocol, ResolvedGateway, ResolvedListener, status};
use crate::{
    infrastructure::{named_services, object_name},
    inputs::Inputs,
    object::{ObjectKey, cmp_age},
};

/// A listener that stands: its port, what is spoken on the socket, and its hosts.
pub(super) type Standing = (u16, u8, String);

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
                take_down(gateway.with_statuses(), &standing, "an older Gateway that the same pods serve has it");
                standing.extend(standing_of(&gateway.listeners));
            }
        }
    }
}

/// What stands of some listeners.
pub(super) fn standing_of(listeners: &[ResolvedListener]) -> Vec<Standing> {
    let standing = listeners.iter().filter(|listener| listener.is_accepted);
    standing.map(|own| (own.port, own.protocol.transport(), own.hostname.to_string())).collect()
}

/// Takes down what cannot stand beside others.
pub(super) fn take_down<'a>(
    listeners: impl Iterator<Item = (&'a mut ResolvedListener, &'a mut status::ListenerStatus)>,
    standing: &[Standing],
    message: &str,
) {
    let udp = ListenerProtocol::Udp.transport();
    for (listener, told) in listeners.filter(|(listener, _)| listener.is_accepted) {
        let (transport, host) = (listener.protocol.transport(), listener.hostname.to_string());
        // UDP sockets are apart from TCP sockets.
        let rivals = || {
            standing.iter().filter(|(port, other, _)| *port == listener.port && (*other == udp) == (transport == udp))
        };
        let reason = if rivals().any(|(_, other, _)| *other != transport) {
            "ProtocolConflict"
        } else if rivals().any(|(.., other)| *other == host) {
            "HostnameConflict"
        } else {
            continue;
        };
        listener.is_accepted = false;
        told.conflict = Some(reason);
        told.accepted = status::refused("Accepted", reason, message);
    }
}
