//! GatewayClasses and Gateways.

use std::{collections::BTreeMap, sync::Arc};

use palisade_crds::gateway_api::{FrontendValidationMode, Gateway};

use super::{
    Body, Condition, GatewayStatus, ListenerStatus, ObjectStatus, StatusOptions, Trouble,
    addresses::{self, Addresses},
};
use crate::{
    infrastructure,
    inputs::{CONTROLLER, Inputs},
    object::Object,
    reports::ObjectName,
    resolve::{
        Resolved,
        gateway_api::{BackendCertificate, ResolvedGateway, status},
    },
};

/// Releases of the Gateway API whose CRDs are understood.
const VERSIONS: [&str; 7] = ["v1.0", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6"];

/// GatewayClasses with our controller.
pub(super) fn classes(
    resolved: &Resolved,
    options: &StatusOptions,
    objects: &mut BTreeMap<ObjectName, Arc<ObjectStatus>>,
) {
    for class in resolved.inputs.gateway_classes.values().filter(|class| class.spec.controller_name == CONTROLLER) {
        let accepted = match infrastructure::of_class(&resolved.inputs, &class.spec) {
            Ok(_) => Condition::holds("Accepted", "Accepted"),
            Err(message) => Condition::fails("Accepted", "InvalidParameters", message),
        };
        let version = options.gateway_api_version.as_deref().map(|version| {
            let is_known = VERSIONS.iter().any(|known| {
                version.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
            });
            match is_known {
                true => Condition::holds("SupportedVersion", "SupportedVersion")
                    .saying(format!("the Gateway API {version} is installed")),
                false => Condition::fails(
                    "SupportedVersion",
                    "UnsupportedVersion",
                    format!("the Gateway API {version} is installed; v1.0 to v1.6 are known"),
                ),
            }
        });
        let conditions = std::iter::once(accepted).chain(version).collect();
        let status = ObjectStatus { origin: class.head.origin(), body: Body::Class { conditions } };
        objects.insert(ObjectName::of(&class.head), Arc::new(status));
    }
}

/// Gateways of our classes.
pub(super) fn gateways(
    resolved: &Resolved,
    options: &StatusOptions,
    objects: &mut BTreeMap<ObjectName, Arc<ObjectStatus>>,
) {
    for gateway in resolved.gateway_api.gateways() {
        let Some(document) = resolved.inputs.api_gateways.get(&gateway.head.key) else { continue };
        let body = Body::Gateway(one(resolved, gateway, document, options.troubles.get(&gateway.head.key)));
        objects.insert(ObjectName::of(&gateway.head), Arc::new(ObjectStatus { origin: gateway.head.origin(), body }));
    }
}

fn one(
    resolved: &Resolved,
    gateway: &ResolvedGateway,
    document: &Object<Gateway>,
    trouble: Option<&Trouble>,
) -> GatewayStatus {
    let listeners: Vec<ListenerStatus> = gateway.status.listeners.iter().map(listener).collect();
    let addresses = addresses::of(resolved, document);
    let accepted = accepted(&resolved.inputs, document, &gateway.status.listeners, trouble);
    let unresolved: Vec<&str> = gateway
        .status
        .listeners
        .iter()
        .filter(|listener| !listener.resolved_refs.is_true)
        .map(|listener| &*listener.name)
        .collect();
    let resolved_refs = match (unresolved.as_slice(), &gateway.backend_certificate) {
        (_, BackendCertificate::Unusable(condition)) => Condition::resolved(condition),
        ([], _) => Condition::holds("ResolvedRefs", "ResolvedRefs"),
        (names, _) => {
            Condition::fails("ResolvedRefs", "ListenersNotResolved", format!("listeners {}", names.join(", ")))
        }
    };
    let obstacle = obstacle(document, &accepted, &listeners, &addresses, trouble);
    let addresses = addresses.found;
    let mut conditions = vec![accepted, resolved_refs];
    conditions.extend(tolerates_invalid_clients(document).then(|| {
        Condition::holds("InsecureFrontendValidationMode", "ConfigurationChanged")
            .saying("clients whose certificates are missing or wrong are served: backends have to tell them apart")
    }));
    GatewayStatus { conditions, obstacle, addresses, listeners, key: gateway.head.key.clone() }
}

/// Whether `spec.tls.frontend` asks for certificates without insisting on them, on any port.
fn tolerates_invalid_clients(document: &Object<Gateway>) -> bool {
    let Some(frontend) = document.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) else { return false };
    let of_ports = frontend.per_port.iter().map(|own| &own.tls);
    std::iter::once(&frontend.default)
        .chain(of_ports)
        .filter_map(|settings| settings.validation.as_ref())
        .any(|validation| validation.mode == FrontendValidationMode::AllowInsecureFallback)
}

fn accepted(
    inputs: &Inputs,
    document: &Object<Gateway>,
    listeners: &[status::ListenerStatus],
    trouble: Option<&Trouble>,
) -> Condition {
    let is_known_type = |kind: &str| matches!(kind, "IPAddress" | "Hostname");
    let refused = trouble.filter(|trouble| trouble.is_parameters).map(|trouble| trouble.message.clone());
    if let Some(message) = infrastructure::of_gateway(inputs, document).err().or(refused) {
        return Condition::fails("Accepted", "InvalidParameters", message);
    }
    if let Some(address) = document.spec.addresses.iter().find(|address| !is_known_type(&address.address_type)) {
        let message = format!("addresses of type `{}` are not served", address.address_type);
        return Condition::fails("Accepted", "UnsupportedAddress", message);
    }
    let refused: Vec<&str> =
        listeners.iter().filter(|listener| !listener.accepted.is_true).map(|listener| &*listener.name).collect();
    match refused.len() {
        0 => Condition::holds("Accepted", "Accepted"),
        all if all == listeners.len() => {
            Condition::fails("Accepted", "ListenersNotValid", "none of its listeners can be served")
        }
        _ => Condition::holds("Accepted", "ListenersNotValid")
            .saying(format!("these listeners are not served: {}", refused.join(", "))),
    }
}

/// Why a Gateway cannot be programmed, whatever proxies say.
fn obstacle(
    document: &Object<Gateway>,
    accepted: &Condition,
    listeners: &[ListenerStatus],
    addresses: &Addresses,
    trouble: Option<&Trouble>,
) -> Option<Condition> {
    if !accepted.is_true() {
        return Some(Condition::fails("Programmed", "Invalid", "the Gateway is not accepted"));
    }
    if let Some(trouble) = trouble {
        return Some(Condition::fails("Programmed", "NoResources", trouble.message.clone()));
    }
    if let Some(message) = addresses.unusable(document) {
        return Some(Condition::fails("Programmed", "AddressNotUsable", message));
    }
    if !listeners.iter().any(|listener| listener.is_valid) {
        return Some(Condition::fails("Programmed", "Invalid", "none of its listeners can be served"));
    }
    addresses.found.is_empty().then(|| Condition::fails("Programmed", "AddressNotAssigned", "it has no address yet"))
}

fn listener(listener: &status::ListenerStatus) -> ListenerStatus {
    let status::ListenerStatus { name, attached_routes, conflict, overlaps, kinds, accepted, resolved_refs } = listener;
    let conflicted = match conflict {
        Some(reason) => Condition::holds("Conflicted", reason).saying("another listener of the port stands in the way"),
        None => Condition::fails("Conflicted", "NoConflicts", ""),
    };
    let overlapping = overlaps.as_ref().map(|other| {
        Condition::holds("OverlappingTLSConfig", "OverlappingHostnames")
            .saying(format!("listener `{other}` terminates TLS for some of the same hosts on this port"))
    });
    let mut conditions = vec![Condition::resolved(accepted), conflicted, Condition::resolved(resolved_refs)];
    conditions.extend(overlapping);
    ListenerStatus {
        name: Arc::clone(name),
        kinds: kinds.clone(),
        attached_routes: *attached_routes,
        conditions,
        is_valid: accepted.is_true && resolved_refs.is_true,
    }
}
