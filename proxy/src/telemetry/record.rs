//! The record of one request or connection: everything that access log, metrics and later readers say about it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use palisade_model::reason::Reason;
use serde::{Serialize, Serializer};

use super::{shadow::ShadowRecord, trace::TraceContext};

/// Which way the traffic goes, seen from the proxy's workload. A gateway is always inbound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Towards the workload, or into a gateway.
    Inbound,
    /// From the workload.
    Outbound,
}

/// One access log line. Absent facts are `null`, so that every line has every key.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// When the request (connection) began.
    pub time: Timestamp,
    /// `NAMESPACE/POD` of the proxy.
    pub proxy: Arc<str>,
    /// Direction.
    pub direction: Direction,
    /// Who called: the SPIFFE id that mutual TLS proved, else the peer's address.
    pub source: Option<Arc<str>>,
    /// Address of the peer.
    pub source_address: Option<SocketAddr>,
    /// Whom it was for: the service host where one is known, else the address that was dialled.
    pub destination: Option<Arc<str>>,
    /// Address that was dialled.
    pub destination_address: Option<SocketAddr>,
    /// `http/1.0`, `http/1.1`, `http/2` or `tcp`; with `tls+` in front for TLS relayed unread.
    pub protocol: &'static str,
    /// `plaintext`, `mtls`, `tls-terminated`, `tls-passthrough`, `refused`.
    pub connection: &'static str,
    /// HTTP method.
    #[serde(serialize_with = "as_method")]
    pub method: Option<http::Method>,
    /// HTTP authority as received; for TLS relayed unread the SNI.
    pub authority: Option<Box<str>>,
    /// Normalised path, without query: queries carry secrets.
    pub path: Option<Box<str>>,
    /// HTTP status sent downstream; `null` when none was.
    pub status: Option<u16>,
    /// gRPC status, from trailers or a trailers-only answer.
    pub grpc_status: Option<u32>,
    /// Why it ended as it did.
    #[serde(serialize_with = "as_text")]
    pub reason: Reason,
    /// Details behind the reason, for example an upstream's connect error. Never user content.
    pub details: Option<Box<str>>,
    /// Authorization decision id.
    pub decision: Option<Box<str>>,
    /// Policies that decided, the deciding one first.
    pub policies: Vec<Arc<str>>,
    /// What audited and dry-run policies said; `null` where they had nothing to say.
    pub shadow: Option<Box<ShadowRecord>>,
    /// `KIND NS/NAME[RULE]` of the route.
    pub route: Option<Arc<str>>,
    /// Cluster that was chosen.
    pub cluster: Option<Arc<str>>,
    /// Endpoint that was used last.
    pub upstream: Option<SocketAddr>,
    /// Identity that the upstream proved.
    pub upstream_identity: Option<Box<str>>,
    /// Tries made upstream.
    pub attempts: u32,
    /// `x-request-id`.
    pub request_id: Option<Box<str>>,
    /// Trace that the request belongs to.
    #[serde(flatten)]
    pub trace: TraceContext,
    /// From the first byte of the request to the last byte of the answer, in microseconds.
    pub duration_us: u64,
    /// Body bytes from the client.
    pub bytes_received: u64,
    /// Body bytes to the client.
    pub bytes_sent: u64,
}

impl Record {
    /// A record with nothing known but when, where and which way.
    pub fn new(time: Timestamp, proxy: Arc<str>, direction: Direction) -> Self {
        Self {
            time,
            proxy,
            direction,
            source: None,
            source_address: None,
            destination: None,
            destination_address: None,
            protocol: "tcp",
            connection: "plaintext",
            method: None,
            authority: None,
            path: None,
            status: None,
            grpc_status: None,
            reason: Reason::Ok,
            details: None,
            decision: None,
            policies: Vec::new(),
            shadow: None,
            route: None,
            cluster: None,
            upstream: None,
            upstream_identity: None,
            attempts: 0,
            request_id: None,
            trace: TraceContext::default(),
            duration_us: 0,
            bytes_received: 0,
            bytes_sent: 0,
        }
    }

    /// Sets the duration, saturating.
    pub fn set_duration(&mut self, duration: Duration) {
        self.duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    }
}

impl Direction {
    /// The name used in logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

fn as_method<S: Serializer>(method: &Option<http::Method>, serializer: S) -> Result<S::Ok, S::Error> {
    method.as_ref().map(http::Method::as_str).serialize(serializer)
}

fn as_text<S: Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_carries_every_documented_key() {
        let record = Record::new(Timestamp::UNIX_EPOCH, "default/web-0".into(), Direction::Inbound);
        let line = serde_json::to_value(&record).unwrap();
        for key in [
            "time",
            "proxy",
            "direction",
            "source",
            "destination",
            "protocol",
            "method",
            "authority",
            "path",
            "status",
            "grpc_status",
            "reason",
            "decision",
            "policies",
            "route",
            "cluster",
            "duration_us",
            "bytes_received",
            "bytes_sent",
        ] {
            assert!(line.get(key).is_some(), "{key}");
        }
        assert_eq!(line["time"], "1970-01-01T00:00:00Z");
        assert_eq!(line["reason"], "ok");
    }
}
