//! Mirrors `palisade_model::settings`.

use palisade_model::settings::{
    ClientAddress, ConnectionSettings, EscapedSlashes, ForwardClientCert, OutboundPolicy, PathNormalization, ProxyKind,
    ProxySettings, UnderscoreHeaders, WorkloadRef,
};

use crate::{
    field::{wire_enum, wire_struct},
    proto::v1,
};

wire_enum!(ProxyKind => v1::ProxyKind { Gateway, Sidecar });
wire_struct!(WorkloadRef => v1::WorkloadRef { namespace: plain, name: plain });
wire_struct!(ProxySettings => v1::ProxySettings {
    kind: plain,
    workload: required,
    identity: plain,
    addresses: list,
    trust_domain: plain,
    trust_domain_aliases: set,
    path_normalization: plain,
    reject_path_parameters: same,
    client_address: required,
    forward_client_cert: plain,
    outbound: plain,
    outbound_http_ports: set,
    outbound_tls_ports: set,
    cluster_domain: plain,
    egress_policies: optional,
    telling_namespaces: set,
    mesh_tls: or_default,
    connections: optional,
});
wire_struct!(ConnectionSettings => v1::ConnectionSettings {
    merge_slashes: optional,
    escaped_slashes: optional,
    underscores: optional,
    stream_idle: optional,
    max_stream: optional,
    idle: optional,
    headers: optional,
    max_age: optional,
    max_streams: optional,
    stream_window: optional,
    max_connections: optional,
});
wire_enum!(EscapedSlashes => v1::EscapedSlashes { Keep, Reject, UnescapeAndRedirect, UnescapeAndForward });
wire_enum!(UnderscoreHeaders => v1::UnderscoreHeaders { Allow, Reject, Drop });
wire_enum!(PathNormalization => v1::PathNormalization { None, Base, MergeSlashes, DecodeAndMergeSlashes });
wire_struct!(ClientAddress => v1::ClientAddress { trusted_hops: same, proxy_protocol: same });
wire_enum!(ForwardClientCert => v1::ForwardClientCert {
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
});
wire_enum!(OutboundPolicy => v1::OutboundPolicy { AllowAny, RegistryOnly });
