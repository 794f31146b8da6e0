//! What clients' connections may take: the process's own limits, and what the configuration says instead.

use std::{num::NonZeroUsize, time::Duration};

use palisade_model::settings::ConnectionSettings;

use super::RuntimeSettings;
use crate::transport::{H1Limits, H2Limits, H2Windows, NEVER};

/// Limits in force for connections that begin now; those that are open keep theirs.
#[derive(Debug, Clone)]
pub struct ClientLimits {
    /// HTTP/1 connections.
    pub h1: H1Limits,
    /// HTTP/2 connections.
    pub h2: H2Limits,
    /// A request on which nothing moves for this long is ended. `None`: never.
    pub stream_idle: Option<Duration>,
    /// A request that takes longer is ended. `None`: only its route's timeout counts.
    pub max_stream: Option<Duration>,
    /// Connections open at once on one listener of a gateway. `None`: no limit.
    pub max_connections: Option<NonZeroUsize>,
}

impl ClientLimits {
    /// The limits of a process under a configuration.
    pub fn of(process: &RuntimeSettings, written: Option<&ConnectionSettings>) -> Self {
        let mut limits = Self {
            h1: process.h1.clone(),
            h2: process.h2.clone(),
            stream_idle: process.stream_idle_timeout,
            max_stream: None,
            max_connections: process.max_connections,
        };
        let Some(written) = written else { return limits };
        let ConnectionSettings {
            merge_slashes: _,
            escaped_slashes: _,
            underscores: _,
            stream_idle,
            max_stream,
            idle,
            headers,
            max_age,
            max_streams,
            stream_window,
            max_connections,
        } = written;
        // Zero lifts a limit.
        let lifted = |limit: Duration| (!limit.is_zero()).then_some(limit);
        let bounded = |limit: Duration| lifted(limit).unwrap_or(NEVER).min(NEVER);
        let ClientLimits { h1, h2, .. } = &mut limits;
        if let Some(idle) = idle {
            (h1.idle_timeout, h2.idle_timeout) = (bounded(*idle), bounded(*idle));
        }
        if let Some(headers) = headers {
            h1.header_timeout = bounded(*headers);
        }
        if let Some(age) = max_age {
            (h1.max_age, h2.max_age) = (lifted(*age), lifted(*age));
        }
        let windows = h2.windows;
        h2.windows = H2Windows {
            streams: max_streams.unwrap_or(windows.streams),
            // RFC 9113 section 6.9.1.
            stream_bytes: stream_window.unwrap_or(windows.stream_bytes).min(i32::MAX.unsigned_abs()),
        };
        if let Some(stream_idle) = stream_idle {
            limits.stream_idle = lifted(*stream_idle);
            (limits.h1.stream_idle_timeout, limits.h2.stream_idle_timeout) = (limits.stream_idle, limits.stream_idle);
        }
        limits.max_stream = max_stream.and_then(lifted);
        let own = max_connections.and_then(|limit| NonZeroUsize::new(usize::try_from(limit).unwrap_or(usize::MAX)));
        limits.max_connections = own.or(limits.max_connections);
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_configuration_says_wins_and_zero_lifts() {
        let process = RuntimeSettings::new("a/b");
        let own = ClientLimits::of(&process, Some(&ConnectionSettings::default()));
        assert_eq!(format!("{own:?}"), format!("{:?}", ClientLimits::of(&process, None)));
        let written = ConnectionSettings {
            stream_idle: Some(Duration::from_secs(7)),
            idle: Some(Duration::ZERO),
            max_age: Some(Duration::from_secs(60)),
            max_streams: Some(3),
            stream_window: Some(65_536),
            max_connections: Some(9),
            ..ConnectionSettings::default()
        };
        let limits = ClientLimits::of(&process, Some(&written));
        assert_eq!(limits.h2.stream_idle_timeout, Some(Duration::from_secs(7)));
        assert_eq!((limits.h1.idle_timeout, limits.h1.max_age), (NEVER, Some(Duration::from_secs(60))));
        assert_eq!(limits.h2.windows, H2Windows { streams: 3, stream_bytes: 65_536 });
        assert_eq!(limits.max_connections.map(NonZeroUsize::get), Some(9));
        assert_eq!(limits.h1.header_timeout, process.h1.header_timeout);
    }
}
