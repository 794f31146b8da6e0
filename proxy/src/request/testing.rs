//! Hand-made settings, snapshots and requests for the pipeline's tests.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use palisade_model::{
    cluster::{Cluster, Discovery, LoadBalancer, MeshTls, UpstreamProtocol, UpstreamTls},
    endpoint::{Address, Endpoint, EndpointHealth, Endpoints, PeerProxy},
    resource::{Entry, Meta, Resource},
    route::{Fault, HeaderMutations, RouteAction, RouteRule},
    settings::{
        ClientAddress, ForwardClientCert, OutboundPolicy, PathNormalization, ProxyKind, ProxySettings, WorkloadRef,
    },
    snapshot::Snapshot,
};

use crate::index::RuntimeIndex;

pub(crate) fn settings(kind: ProxyKind) -> ProxySettings {
    ProxySettings {
        kind,
        workload: WorkloadRef { namespace: "foo".into(), name: "a-0".into() },
        identity: "spiffe://cluster.local/ns/foo/sa/a".parse().unwrap(),
        addresses: ["10.0.0.9".parse().unwrap()].into(),
        trust_domain: "cluster.local".parse().unwrap(),
        trust_domain_aliases: BTreeSet::new(),
        path_normalization: PathNormalization::Base,
        reject_path_parameters: false,
        client_address: ClientAddress { trusted_hops: 0, proxy_protocol: false },
        forward_client_cert: match kind {
            ProxyKind::Gateway => ForwardClientCert::SanitizeSet,
            ProxyKind::Sidecar => ForwardClientCert::AppendForward,
        },
        outbound: OutboundPolicy::AllowAny,
        outbound_http_ports: [9080].into(),
        outbound_tls_ports: BTreeSet::new(),
        cluster_domain: "cluster.local".into(),
        egress_policies: None,
        telling_namespaces: BTreeSet::new(),
        mesh_tls: Default::default(),
        connections: None,
    }
}

pub(crate) fn cluster(name: &str, discovery: Discovery) -> Cluster {
    Cluster {
        name: name.into(),
        discovery,
        protocol: UpstreamProtocol::Http1,
        tls: UpstreamTls::Auto(MeshTls { sni: "outbound_.9080_._.b".into(), subject_alt_names: Arc::new([]) }),
        load_balancer: LoadBalancer::LeastRequest { choices: 2 },
        connect_timeout: std::time::Duration::from_secs(10),
        max_requests_per_connection: 0,
        tcp_keepalive: None,
        idle_timeout: None,
        traffic: Default::default(),
        is_external: false,
    }
}

pub(crate) fn endpoint(address: &str, weight: u32) -> Endpoint {
    Endpoint {
        address: Address::Socket(address.parse::<SocketAddr>().unwrap()),
        weight,
        priority: 0,
        health: EndpointHealth::Healthy,
        labels: Default::default(),
        locality: None,
        peer: PeerProxy::Palisade,
        workload: None,
    }
}

pub(crate) fn endpoints(key: &str, endpoints: Vec<Endpoint>) -> Endpoints {
    Endpoints { key: key.into(), endpoints: endpoints.into(), identities: BTreeSet::new() }
}

pub(crate) fn snapshot(resources: Vec<Resource>) -> Arc<Snapshot> {
    let entries = resources.into_iter().map(|resource| Arc::new(Entry::new(resource, Meta::default()).unwrap()));
    Arc::new(Snapshot::from_entries(entries).unwrap())
}

pub(crate) fn index(resources: Vec<Resource>) -> RuntimeIndex {
    RuntimeIndex::build(snapshot(resources), None).unwrap()
}

/// A route rule that no index can be built of: it sets a header that no message can carry.
pub(crate) fn unbuildable() -> Resource {
    Resource::Route(RouteRule {
        key: "broken".into(),
        source: "VirtualService foo/broken".into(),
        name: None,
        rule: 0,
        matches: [].into(),
        fault: Fault::default(),
        cors: None,
        action: RouteAction::DirectResponse { status: 200, body: Bytes::new(), content_type: None },
        response_headers: HeaderMutations { set: [("x y".into(), "1".into())].into(), ..HeaderMutations::default() },
    })
}
