//! What a proxy is told about itself and its mesh.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    identity::{SpiffeId, TrustDomain},
    listener::TlsLimits,
};

/// Which of the two proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyKind {
    /// Listeners from the snapshot.
    Gateway,
    /// Fixed listeners beside one workload.
    Sidecar,
}

/// A workload instance (a pod) by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkloadRef {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Pod name.
    pub name: Arc<str>,
}

/// The proxy-wide part of a snapshot; exactly one per snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxySettings {
    /// Gateway or sidecar.
    pub kind: ProxyKind,
    /// The pod that the proxy runs in.
    pub workload: WorkloadRef,
    /// The identity that its certificate carries.
    pub identity: SpiffeId,
    /// The pod's addresses; inbound traffic is addressed to one of them.
    pub addresses: Arc<[IpAddr]>,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// Further trust domains whose certificates are accepted from peers (`trustDomainAliases`).
    pub trust_domain_aliases: BTreeSet<TrustDomain>,
    /// How paths are normalised before anything reads them.
    pub path_normalization: PathNormalization,
    /// Answer 400 to paths with `;` parameters in a segment.
    pub reject_path_parameters: bool,
    /// How the client's address is found.
    pub client_address: ClientAddress,
    /// What happens to forwarded client certificate headers.
    pub forward_client_cert: ForwardClientCert,
    /// Calls to hosts that no registry knows (sidecar).
    pub outbound: OutboundPolicy,
    /// Ports on which some service visible to this proxy speaks HTTP or is auto-detected: outbound bytes on any other
    /// unknown address and port are relayed without waiting for the client's first byte.
    pub outbound_http_ports: BTreeSet<u16>,
    /// Ports on which some service visible to this proxy is told apart by the server name of TLS alone: connections to
    /// unknown addresses on them are inspected.
    pub outbound_tls_ports: BTreeSet<u16>,
    /// DNS domain of the cluster, for example `cluster.local`.
    pub cluster_domain: Arc<str>,
    /// Key of the policy set that decides what the workload may reach outside the mesh; `None` = no policy restricts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_policies: Option<Arc<str>>,
    /// Namespaces whose policies are named to callers inside the mesh that they deny. Only those are here whose policies can apply.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub telling_namespaces: BTreeSet<Arc<str>>,
    /// Bounds of TLS between the mesh's proxies (`meshMTLS`).
    #[serde(default, skip_serializing_if = "TlsLimits::is_default")]
    pub mesh_tls: TlsLimits,
    /// What is said about clients' connections and their requests beside the mesh's other settings; `None` = nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<ConnectionSettings>,
}

/// Settings of clients' connections (ProxyConfig `connectionSettings`); what is unset is as the process was started with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionSettings {
    /// Whether runs of slashes are merged, whatever the path mode says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge_slashes: Option<bool>,
    /// What becomes of `%2F` and `%5C` in paths, whatever the path mode says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escaped_slashes: Option<EscapedSlashes>,
    /// Header names with `_`; unset = they pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underscores: Option<UnderscoreHeaders>,
    /// How long nothing may move on a request; zero = for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_idle: Option<Duration>,
    /// How long a request may take in all; zero = for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_stream: Option<Duration>,
    /// How long a connection may stay without a request; zero = for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
    /// How long the header section of a request may take; zero = for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Duration>,
    /// Age at which a connection is given up at its next pause; zero = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// Concurrent streams of an HTTP/2 connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_streams: Option<u32>,
    /// Receive window of an HTTP/2 stream in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_window: Option<u32>,
    /// Connections open at once on one listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
}

/// What becomes of encoded slashes in a path (Envoy's `path_with_escaped_slashes_action`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EscapedSlashes {
    /// They stay.
    Keep,
    /// The request is answered 400.
    Reject,
    /// The client is sent to the path without them.
    UnescapeAndRedirect,
    /// They are decoded, and the request goes on.
    UnescapeAndForward,
}

/// What becomes of header names with `_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnderscoreHeaders {
    /// They pass.
    Allow,
    /// The request is answered 400.
    Reject,
    /// They are removed.
    Drop,
}

/// Path normalisation modes (MeshConfig `pathNormalization`; istio-semantics 1.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PathNormalization {
    /// Only the fragment is removed.
    None,
    /// RFC 3986 normalisation, and `\` read as `/`.
    Base,
    /// `BASE`, and runs of slashes merged.
    MergeSlashes,
    /// `%2F` and `%5C` decoded first, then `MERGE_SLASHES`.
    DecodeAndMergeSlashes,
}

/// Where the client's address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientAddress {
    /// Trusted proxies in front of a gateway (`numTrustedProxies`); 0 = the TCP peer. Unused by sidecars.
    pub trusted_hops: u32,
    /// Connections start with a PROXY protocol header.
    pub proxy_protocol: bool,
}

/// `x-forwarded-client-cert` modes (Envoy names).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardClientCert {
    /// Remove.
    Sanitize,
    /// Pass on unchanged when the connection is mutual TLS.
    ForwardOnly,
    /// Append this hop's certificate.
    AppendForward,
    /// Replace by this hop's certificate.
    SanitizeSet,
    /// Pass on always.
    AlwaysForwardOnly,
}

/// MeshConfig `outboundTrafficPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundPolicy {
    /// Unknown hosts are dialled where the application dialled them.
    AllowAny,
    /// Unknown hosts are refused.
    RegistryOnly,
}
