//! Random settings of proxies.

use palisade_model::listener::TlsLimits;
use palisade_model::settings::{
    ClientAddress, ConnectionSettings, EscapedSlashes, ForwardClientCert, OutboundPolicy, PathNormalization, ProxyKind,
    ProxySettings, UnderscoreHeaders,
};
use proptest::{option, prelude::*, sample::select};

use super::{
    scalar::{duration, identity, ip, list, set, text, trust_domain},
    tls_algorithms, tls_version, workload,
};

pub(super) fn settings() -> BoxedStrategy<ProxySettings> {
    use PathNormalization as P;
    let who = (select(vec![ProxyKind::Gateway, ProxyKind::Sidecar]), workload(), identity(), list(ip()));
    let mesh = (
        trust_domain(),
        set(trust_domain()),
        select(vec![P::None, P::Base, P::MergeSlashes, P::DecodeAndMergeSlashes]),
        any::<bool>(),
        (any::<u32>(), any::<bool>()),
        set(text()),
    );
    let mesh_tls =
        (tls_version(), tls_algorithms()).prop_map(|(min_version, algorithms)| TlsLimits { min_version, algorithms });
    let edge = (
        select(vec![
            ForwardClientCert::Sanitize,
            ForwardClientCert::ForwardOnly,
            ForwardClientCert::AppendForward,
            ForwardClientCert::SanitizeSet,
            ForwardClientCert::AlwaysForwardOnly,
        ]),
        select(vec![OutboundPolicy::AllowAny, OutboundPolicy::RegistryOnly]),
        set(any::<u16>()),
        set(any::<u16>()),
        text(),
        // A set that is named must be there: tests of its own name one.
        Just(None),
        option::of(connection_settings()).boxed(),
    );
    (who.boxed(), mesh.boxed(), edge.boxed(), mesh_tls.boxed())
        .prop_map(|(who, mesh, edge, mesh_tls)| {
            let (kind, workload, identity, addresses) = who;
            let (trust_domain, trust_domain_aliases, path_normalization, reject_path_parameters, client, telling) =
                mesh;
            let (forward_client_cert, outbound, outbound_http_ports, outbound_tls_ports, ..) = edge;
            let (.., cluster_domain, egress_policies, connections) = edge;
            ProxySettings {
                kind,
                workload,
                identity,
                addresses,
                trust_domain,
                trust_domain_aliases,
                path_normalization,
                reject_path_parameters,
                client_address: ClientAddress { trusted_hops: client.0, proxy_protocol: client.1 },
                forward_client_cert,
                outbound,
                outbound_http_ports,
                outbound_tls_ports,
                cluster_domain,
                egress_policies,
                connections,
                telling_namespaces: telling,
                mesh_tls,
            }
        })
        .boxed()
}

fn connection_settings() -> impl Strategy<Value = ConnectionSettings> {
    use {EscapedSlashes as E, UnderscoreHeaders as U};
    let paths = (
        option::of(any::<bool>()),
        option::of(select(vec![E::Keep, E::Reject, E::UnescapeAndRedirect, E::UnescapeAndForward])),
        option::of(select(vec![U::Allow, U::Reject, U::Drop])),
    );
    let times = (
        option::of(duration()),
        option::of(duration()),
        option::of(duration()),
        option::of(duration()),
        option::of(duration()),
    );
    let counts = (option::of(any::<u32>()), option::of(any::<u32>()), option::of(any::<u32>()));
    (paths, times, counts).prop_map(|(paths, times, counts)| {
        let (merge_slashes, escaped_slashes, underscores) = paths;
        let (stream_idle, max_stream, idle, headers, max_age) = times;
        let (max_streams, stream_window, max_connections) = counts;
        ConnectionSettings {
            merge_slashes,
            escaped_slashes,
            underscores,
            stream_idle,
            max_stream,
            idle,
            headers,
            max_age,
            max_streams,
            stream_window,
            max_connections,
        }
    })
}
