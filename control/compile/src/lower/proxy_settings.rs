//! The proxy-wide part of a snapshot.

use std::{collections::BTreeSet, sync::Arc};

use palisade_model::settings::{ClientAddress, ForwardClientCert, ProxyKind, ProxySettings, WorkloadRef};

use crate::{lower::client::Client, settings::connections};

/// What a proxy is told about itself and its mesh.
pub(crate) fn of(
    client: Client<'_>,
    outbound_http_ports: BTreeSet<u16>,
    outbound_tls_ports: BTreeSet<u16>,
    egress_policies: Option<Arc<str>>,
) -> ProxySettings {
    let settings = &client.resolved.settings;
    let proxy = client.proxy();
    let topology = proxy.topology.unwrap_or(settings.gateway_topology);
    let (client_address, forward_client_cert) = match proxy.kind {
        ProxyKind::Sidecar => {
            (ClientAddress { trusted_hops: 0, proxy_protocol: false }, ForwardClientCert::AppendForward)
        }
        ProxyKind::Gateway => (
            ClientAddress { trusted_hops: topology.trusted_hops, proxy_protocol: topology.proxy_protocol },
            topology.forward_client_cert,
        ),
    };
    ProxySettings {
        kind: proxy.kind,
        workload: WorkloadRef { namespace: Arc::clone(&proxy.namespace), name: Arc::clone(&proxy.name) },
        identity: proxy.identity.clone(),
        addresses: proxy.addresses.as_slice().into(),
        trust_domain: settings.trust_domain.clone(),
        trust_domain_aliases: settings.trust_domain_aliases.clone(),
        path_normalization: settings.path_normalization,
        reject_path_parameters: settings.reject_path_parameters,
        client_address,
        forward_client_cert,
        outbound: client.scope().and_then(|scope| scope.outbound).unwrap_or(settings.outbound),
        outbound_http_ports,
        outbound_tls_ports,
        cluster_domain: Arc::clone(&settings.cluster_domain),
        egress_policies,
        telling_namespaces: telling_namespaces(client),
        mesh_tls: settings.mesh_tls.clone(),
        connections: connections::of(settings.connections.as_ref(), proxy.kind),
    }
}

/// Annotation of a namespace: callers inside the mesh may know which of its policies denied them.
const NAME_POLICIES: &str = "palisade.dev/name-policies-in-denials";

/// The namespaces that say so, of those whose policies can apply to the proxy.
fn telling_namespaces(client: Client<'_>) -> BTreeSet<Arc<str>> {
    let (resolved, proxy) = (client.resolved, client.proxy());
    let of_gateways = proxy.gateways.iter().map(|gateway| &gateway.namespace);
    let namespaces = [&proxy.namespace, &resolved.settings.root_namespace].into_iter().chain(of_gateways);
    let tells = |name: &&Arc<str>| {
        let namespace = resolved.inputs.namespaces.get(*name);
        namespace.is_some_and(|namespace| namespace.annotations.get(NAME_POLICIES).is_some_and(|text| text == "true"))
    };
    namespaces.filter(tells).cloned().collect()
}
