//! Settings of single upstream connections; connections are shared only where they are equal.

use std::{sync::Arc, time::Duration};

use palisade_model::cluster::{Cluster, ConnectionPolicy, Ping, TcpKeepalive};
use socket2::SockRef;

use crate::transport::limits::PingKeepalive;

/// Idle time of connections where no document says (Envoy).
const DEFAULT_IDLE: Duration = Duration::from_secs(3600);

/// Settings of single upstream connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ConnectionOptions {
    /// TCP keepalive: idle time before the first probe, time between probes, probes; `None` = the kernel's. Absent = off.
    pub keepalive: Option<(Option<Duration>, Option<Duration>, Option<u32>)>,
    /// Longest life; `None` = unlimited. A connection takes no further requests after it.
    pub max_duration: Option<Duration>,
    /// Streams on one HTTP/2 connection; `None` = the connector's.
    pub max_streams: Option<u32>,
    /// Idle time after which an HTTP/2 connection is closed; `None` = the connector's.
    pub idle: Option<Duration>,
    /// HTTP/2 keepalive pings; `None` = the connector's.
    pub ping: Option<(Duration, Duration)>,
    /// Bytes that come before everything else, TLS included: a PROXY protocol header. Empty = none.
    pub preamble: Arc<[u8]>,
}

impl ConnectionOptions {
    /// What a cluster says about its connections; `None` = nothing out of the ordinary.
    pub fn of(cluster: &Cluster) -> Option<Self> {
        let ConnectionPolicy { max_duration, relay_idle: _, max_streams, ping, proxy_protocol: _ } =
            &cluster.traffic.connection;
        let options = Self {
            keepalive: cluster.tcp_keepalive.map(|TcpKeepalive { time, interval, probes }| (time, interval, probes)),
            max_duration: *max_duration,
            max_streams: *max_streams,
            // Written times count; the default is for HTTP/1 pools, and the connector has its own for HTTP/2.
            idle: match cluster.idle_timeout {
                Some(DEFAULT_IDLE) => None,
                Some(idle) => Some(idle),
                None => Some(Duration::MAX),
            },
            ping: ping.map(|Ping { interval, timeout }| (interval, timeout)),
            preamble: Arc::new([]),
        };
        (options != Self::default()).then_some(options)
    }

    /// The pings to send.
    pub(super) fn ping(&self) -> Option<PingKeepalive> {
        self.ping.map(|(interval, timeout)| PingKeepalive { interval, timeout })
    }

    /// Sets what the kernel is to know about a socket.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn prepare(&self, socket: SockRef<'_>) -> std::io::Result<()> {
        let Some((time, interval, probes)) = self.keepalive else { return Ok(()) };
        socket.set_keepalive(true)?;
        // The kernel counts in whole seconds.
        let whole = |duration: Duration| duration.max(Duration::from_secs(1));
        let mut settings = socket2::TcpKeepalive::new();
        settings = time.into_iter().fold(settings, |settings, time| settings.with_time(whole(time)));
        settings = interval.into_iter().fold(settings, |settings, interval| settings.with_interval(whole(interval)));
        settings = probes.into_iter().fold(settings, socket2::TcpKeepalive::with_retries);
        socket.set_tcp_keepalive(&settings)
    }
}
