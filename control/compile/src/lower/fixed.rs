//! Clusters that no document makes: what unknown destinations and the pod itself get.

use std::{sync::Arc, time::Duration};

use palisade_model::{
    cluster::{Cluster, Discovery, LoadBalancer, TrafficPolicy, UpstreamProtocol, UpstreamTls},
    listener::Protocol,
};

use crate::resolve::destination_rules::ConnectionPool;

/// Unknown destinations, dialled where the application dialled them.
pub(crate) const PASSTHROUGH: &str = "PassthroughCluster";
/// Inbound ports that nothing declares.
pub(crate) const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// Unknown destinations that are refused.
pub(crate) const BLACK_HOLE: &str = "BlackHoleCluster";

fn plain(name: Arc<str>, discovery: Discovery, protocol: UpstreamProtocol) -> Cluster {
    Cluster {
        name,
        discovery,
        protocol,
        tls: UpstreamTls::Off,
        load_balancer: LoadBalancer::RoundRobin,
        connect_timeout: Duration::from_secs(10),
        max_requests_per_connection: 0,
        tcp_keepalive: None,
        idle_timeout: Some(Duration::from_secs(3600)),
        traffic: TrafficPolicy::default(),
        is_external: false,
    }
}

/// The clusters that every sidecar has.
pub(crate) fn of_sidecar() -> [Cluster; 3] {
    [
        plain(PASSTHROUGH.into(), Discovery::OriginalDestination, UpstreamProtocol::Client),
        plain(INBOUND_PASSTHROUGH.into(), Discovery::Workload { port: None }, UpstreamProtocol::Client),
        plain(BLACK_HOLE.into(), Discovery::BlackHole, UpstreamProtocol::Tcp),
    ]
}

/// The cluster of one of the pod's own ports.
pub(crate) fn inbound(port: u16, protocol: Protocol) -> Cluster {
    inbound_at(port, protocol, Discovery::Workload { port: Some(port) })
}

/// The cluster of one of the pod's own ports whose application listens somewhere else.
pub(crate) fn inbound_at(port: u16, protocol: Protocol, discovery: Discovery) -> Cluster {
    let upstream = match protocol {
        Protocol::Http => UpstreamProtocol::Http1,
        Protocol::Http2 => UpstreamProtocol::Http2,
        Protocol::Tcp | Protocol::Tls => UpstreamProtocol::Tcp,
        Protocol::Auto => UpstreamProtocol::Client,
    };
    plain(inbound_name(port), discovery, upstream)
}

/// The same with the limits that a document sets.
pub(crate) fn limited(cluster: Cluster, pool: ConnectionPool) -> Cluster {
    let ConnectionPool {
        limits,
        connection,
        connect_timeout,
        keepalive,
        max_requests_per_connection,
        idle_timeout,
        uses_client_protocol: _,
        http2: _,
    } = pool;
    Cluster {
        connect_timeout: connect_timeout.unwrap_or(cluster.connect_timeout),
        max_requests_per_connection,
        tcp_keepalive: keepalive.or(cluster.tcp_keepalive),
        idle_timeout: idle_timeout.map_or(cluster.idle_timeout, |idle| (!idle.is_zero()).then_some(idle)),
        traffic: TrafficPolicy { limits, connection, ..cluster.traffic },
        ..cluster
    }
}

/// The name of the cluster of one of the pod's own ports.
pub(crate) fn inbound_name(port: u16) -> Arc<str> {
    format!("inbound|{port}||").into()
}
