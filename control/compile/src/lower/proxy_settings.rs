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
    let proxy = client.proxy;
    let (client_address, forward_client_cert) = match proxy.kind {
        ProxyKind::Sidecar => {
            (ClientAddress { trusted_hops: 0, proxy_protocol: false }, ForwardClientCert::AppendForward)
        }
        ProxyKind::Gateway => (
            ClientAddress {
                trusted_hops: settings.gateway_trusted_hops,
                proxy_protocol: settings.gateway_proxy_protocol,
            },
            settings.gateway_forward_client_cert,
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
        outbound: client.scope.and_then(|scope| scope.outbound).unwrap_or(settings.outbound),
        outbound_http_ports,
        outbound_tls_ports,
        cluster_domain: Arc::clone(&settings.cluster_domain),
        egress_policies,
        connections: connections::of(settings.connections.as_ref(), proxy.kind),
    }
}
