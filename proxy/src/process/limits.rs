//! Limits of one proxy process against clients that send too much, too slowly, or nothing; each a flag and a variable.

use std::{num::NonZeroUsize, time::Duration};

use clap::Args;

use crate::{
    runtime::RuntimeSettings,
    transport::{H2Windows, PingKeepalive},
};

/// What clients may take. 0 = no limit, where that is allowed. `docs/reference/limits.md` gives the reason of each default.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitOptions {
    /// Client connections open at once on one listener; more are reset when they arrive. 0 = no limit.
    #[arg(long, env = "PALISADE_MAX_CONNECTIONS", value_name = "NUMBER", default_value_t = 0)]
    pub max_connections: usize,
    /// Bytes of a request's header section; more are answered 431.
    #[arg(long, env = "PALISADE_MAX_HEADER_BYTES", value_name = "BYTES", default_value_t = 61_440,
          value_parser = clap::value_parser!(u32).range(1024..=1_048_575))]
    pub max_header_bytes: u32,
    /// Field lines of a request's header section; more are answered 431.
    #[arg(long, env = "PALISADE_MAX_HEADERS", value_name = "NUMBER", default_value_t = 100,
          value_parser = clap::value_parser!(u16).range(8..=256))]
    pub max_headers: u16,
    /// Bytes of a request's body; more are answered 413. 0 = no limit.
    #[arg(long, env = "PALISADE_MAX_BODY_BYTES", value_name = "BYTES", default_value_t = 0)]
    pub max_body_bytes: u64,
    /// Seconds that an HTTP/1 request's header section may take to arrive; then 408.
    #[arg(long, env = "PALISADE_HEADER_SECONDS", value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub header_seconds: u64,
    /// Seconds that the first bytes of a connection may take where its protocol is detected; it then counts as opaque bytes.
    #[arg(long, env = "PALISADE_DETECTION_SECONDS", value_name = "SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub detection_seconds: u64,
    /// Seconds that a TLS handshake, or a PROXY protocol header, may take.
    #[arg(long, env = "PALISADE_HANDSHAKE_SECONDS", value_name = "SECONDS", default_value_t = 15,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub handshake_seconds: u64,
    /// Seconds that a connection may stay without a request or stream.
    #[arg(long, env = "PALISADE_IDLE_SECONDS", value_name = "SECONDS", default_value_t = 3600,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub idle_seconds: u64,
    /// Seconds that a request, stream or upgraded tunnel may stay without a byte in either direction. 0 = no limit.
    #[arg(long, env = "PALISADE_STREAM_IDLE_SECONDS", value_name = "SECONDS", default_value_t = 0)]
    pub stream_idle_seconds: u64,
    /// Seconds that an opaque connection may stay without a byte in either direction. 0 = no limit.
    #[arg(long, env = "PALISADE_TCP_IDLE_SECONDS", value_name = "SECONDS", default_value_t = 3600)]
    pub tcp_idle_seconds: u64,
    /// Seconds after which a connection is given up at its next pause (HTTP/2: GOAWAY). 0 = no limit.
    #[arg(long, env = "PALISADE_MAX_CONNECTION_SECONDS", value_name = "SECONDS", default_value_t = 0)]
    pub max_connection_seconds: u64,
    /// Requests after which a connection is given up. 0 = no limit.
    #[arg(long, env = "PALISADE_MAX_REQUESTS_PER_CONNECTION", value_name = "NUMBER", default_value_t = 0)]
    pub max_requests_per_connection: u64,
    /// Concurrent streams of one HTTP/2 connection; times 128 KiB is what a connection can make the proxy hold.
    #[arg(long, env = "PALISADE_MAX_STREAMS", value_name = "NUMBER", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_streams: u32,
    /// Streams that the client of one HTTP/2 connection may reset within a second of opening them; the connection is closed
    /// once there are so many and they are more than half of all.
    #[arg(long, env = "PALISADE_MAX_EARLY_RESETS", value_name = "NUMBER", default_value_t = 500,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_early_resets: u32,
    /// Seconds between keepalive pings on HTTP/2 connections of clients. 0 = none.
    #[arg(long, env = "PALISADE_PING_SECONDS", value_name = "SECONDS", default_value_t = 0)]
    pub ping_seconds: u64,
}

/// How long the answer to a keepalive ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

impl LimitOptions {
    /// Puts the limits in force for a process that has not begun.
    pub fn apply(&self, settings: &mut RuntimeSettings) {
        let Self {
            max_connections,
            max_header_bytes,
            max_headers,
            max_body_bytes,
            header_seconds,
            detection_seconds,
            handshake_seconds,
            idle_seconds,
            stream_idle_seconds,
            tcp_idle_seconds,
            max_connection_seconds,
            max_requests_per_connection,
            max_streams,
            max_early_resets,
            ping_seconds,
        } = self;
        let some_seconds = |count: u64| (count > 0).then(|| Duration::from_secs(count));
        let (age, requests) = (some_seconds(*max_connection_seconds), *max_requests_per_connection);
        let requests = (requests > 0).then_some(requests);
        let stream_idle = some_seconds(*stream_idle_seconds);
        settings.max_connections = NonZeroUsize::new(*max_connections);
        settings.max_body_bytes = (*max_body_bytes > 0).then_some(*max_body_bytes);
        settings.stream_idle_timeout = stream_idle;
        settings.tcp_idle_timeout = some_seconds(*tcp_idle_seconds);
        settings.timeouts.detection = Some(Duration::from_secs(*detection_seconds));
        settings.timeouts.handshake = Duration::from_secs(*handshake_seconds);
        let h1 = &mut settings.h1;
        h1.header_timeout = Duration::from_secs(*header_seconds);
        h1.idle_timeout = Duration::from_secs(*idle_seconds);
        h1.max_header_bytes = usize::try_from(*max_header_bytes).unwrap_or(usize::MAX);
        h1.max_headers = usize::from(*max_headers);
        (h1.max_requests, h1.max_age, h1.stream_idle_timeout) = (requests, age, stream_idle);
        let h2 = &mut settings.h2;
        h2.handshake_timeout = Duration::from_secs(*handshake_seconds);
        h2.idle_timeout = Duration::from_secs(*idle_seconds);
        h2.max_header_list_bytes = *max_header_bytes;
        h2.max_headers = usize::from(*max_headers);
        (h2.max_requests, h2.max_age, h2.stream_idle_timeout) = (requests, age, stream_idle);
        h2.windows = H2Windows { streams: *max_streams, ..h2.windows };
        h2.max_early_resets = *max_early_resets;
        h2.ping = some_seconds(*ping_seconds).map(|interval| PingKeepalive { interval, timeout: PING_TIMEOUT });
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    fn parsed(arguments: &[&str]) -> RuntimeSettings {
        let command = LimitOptions::augment_args(Command::new("test").no_binary_name(true));
        let options = LimitOptions::from_arg_matches(&command.try_get_matches_from(arguments).unwrap()).unwrap();
        let mut settings = RuntimeSettings::new("test");
        options.apply(&mut settings);
        settings
    }

    /// The flags' defaults are those that code without flags has.
    #[test]
    fn the_defaults_are_the_same_everywhere() {
        let (flags, code) = (parsed(&[]), RuntimeSettings::new("test"));
        assert_eq!(format!("{flags:?}"), format!("{code:?}"));
    }

    #[test]
    fn every_flag_of_the_reference_exists_with_its_default() {
        let reference = include_str!("../../../docs/reference/limits.md");
        let command = LimitOptions::augment_args(Command::new("test"));
        for argument in command.get_arguments().filter(|argument| argument.get_env().is_some()) {
            let name = argument.get_env().and_then(|name| name.to_str()).unwrap();
            let default = argument.get_default_values()[0].to_str().unwrap();
            assert!(reference.contains(&format!("| `{name}` | {default} |")), "{name} with default {default}");
        }
    }

    #[test]
    fn zero_lifts_a_limit() {
        let settings = parsed(&["--tcp-idle-seconds=0", "--max-connections=7", "--max-body-bytes=5"]);
        assert_eq!(settings.tcp_idle_timeout, None);
        assert_eq!(settings.max_connections.map(NonZeroUsize::get), Some(7));
        assert_eq!(settings.max_body_bytes, Some(5));
    }
}
