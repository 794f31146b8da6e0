//! One request or connection as a person reads it, from the log line of the proxy that saw it best.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

/// Pods (`NS/NAME`) by their addresses.
pub(super) type Names = BTreeMap<IpAddr, String>;

/// Who called whom, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) time: String,
    pub(super) from: String,
    pub(super) to: String,
    /// `GET /path`, or the protocol of a connection.
    pub(super) what: String,
    /// HTTP status, `-` where none was sent.
    pub(super) status: String,
    pub(super) reason: String,
    pub(super) duration: Duration,
    pub(super) decision: Option<String>,
}

impl Call {
    /// `None` for a line whose request another proxy of the mesh logs too, and knows better: a caller's sidecar speaks
    /// only where no proxy answered at the other end, or where its own answer differs.
    pub(super) fn read(record: &Value, names: &Names) -> Option<Self> {
        let text = |key: &str| record.get(key).and_then(Value::as_str);
        let reason = text("reason").unwrap_or("-");
        let is_outbound = text("direction") == Some("outbound");
        if is_outbound && reason == "ok" && text("upstream_identity").is_some() {
            return None;
        }
        let proxy = text("proxy").unwrap_or("-");
        let destination = text("destination").or_else(|| text("authority"));
        let what = match (text("method"), text("path")) {
            (Some(method), path) => format!("{method} {}", path.unwrap_or("-")),
            (None, _) => text("protocol").unwrap_or("-").to_owned(),
        };
        Some(Self {
            time: text("time").unwrap_or("-").to_owned(),
            from: if is_outbound { proxy.to_owned() } else { caller(record, names) },
            to: if is_outbound { destination.unwrap_or("-").to_owned() } else { proxy.to_owned() },
            what: printable(&what),
            status: record
                .get("status")
                .and_then(Value::as_u64)
                .map_or_else(|| "-".to_owned(), |code| code.to_string()),
            reason: reason.to_owned(),
            duration: Duration::from_micros(record.get("duration_us").and_then(Value::as_u64).unwrap_or(0)),
            decision: text("decision").map(str::to_owned),
        })
    }

    /// Refused by policy.
    pub(super) fn is_denied(&self) -> bool {
        matches!(
            self.reason.as_str(),
            "authz-denied"
                | "ext-authz-denied"
                | "ext-authz-unavailable"
                | "jwt-invalid"
                | "jwt-audience"
                | "peer-refused"
                | "egress-denied"
                | "egress-unknown-host"
        )
    }

    /// Ended badly for another reason.
    pub(super) fn is_failed(&self) -> bool {
        let is_server_error = self.status.len() == 3 && self.status.starts_with('5');
        !self.is_denied()
            && (is_server_error
                || !matches!(self.reason.as_str(), "ok" | "redirect" | "direct-response" | "cors-preflight"))
    }
}

/// The pod that called, where its address is one; else the identity that it proved; else the address.
fn caller(record: &Value, names: &Names) -> String {
    let text = |key: &str| record.get(key).and_then(Value::as_str);
    let address = text("source_address").and_then(|address| address.parse::<SocketAddr>().ok());
    if let Some(pod) = address.and_then(|address| names.get(&address.ip().to_canonical())) {
        return pod.clone();
    }
    let identity = text("source").filter(|source| source.starts_with("spiffe://"));
    identity.map(str::to_owned).or_else(|| address.map(|address| address.ip().to_string())).unwrap_or("-".to_owned())
}

/// Paths come from clients: nothing in them may steer a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|letter| if letter.is_control() { letter.escape_default().collect() } else { vec![letter] })
        .collect()
}

impl fmt::Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, from, to, what, status, reason, duration, decision } = self;
        let clock = time.split_once('T').map_or(time.as_str(), |(_, clock)| clock);
        let clock = clock.get(..12).unwrap_or(clock);
        let milliseconds = duration.as_secs_f64() * 1_000.0;
        write!(formatter, "{clock}  {from} → {to}  {what}  {status} {reason}  {milliseconds:.1} ms")?;
        match decision {
            Some(decision) => write!(formatter, "  {decision}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names() -> Names {
        BTreeMap::from([("10.0.0.1".parse().unwrap(), "shop/web-0".to_owned())])
    }

    fn read(record: &Value) -> Option<String> {
        Call::read(record, &names()).map(|call| call.to_string())
    }

    #[test]
    fn the_callee_speaks_for_both() {
        let inbound = json!({"time": "2026-11-21T10:00:00.123456Z", "proxy": "shop/cart-0", "direction": "inbound",
            "source": "spiffe://cluster.local/ns/shop/sa/web", "source_address": "10.0.0.1:4000", "method": "GET",
            "path": "/a", "status": 403, "reason": "authz-denied", "duration_us": 1500, "decision": "p-1"});
        let line = "10:00:00.123  shop/web-0 → shop/cart-0  GET /a  403 authz-denied  1.5 ms  p-1";
        assert_eq!(read(&inbound).unwrap(), line);
        let outbound = json!({"proxy": "shop/web-0", "direction": "outbound", "reason": "ok",
            "upstream_identity": "spiffe://cluster.local/ns/shop/sa/cart"});
        assert_eq!(read(&outbound), None);
    }

    #[test]
    fn the_caller_speaks_where_no_proxy_answered() {
        let outside = json!({"time": "2026-11-21T10:00:00Z", "proxy": "shop/web-0", "direction": "outbound",
            "authority": "example.com", "method": "GET", "path": "/\u{1b}[31m", "status": 502,
            "reason": "egress-unknown-host", "duration_us": 100});
        let call = Call::read(&outside, &names()).unwrap();
        assert!(call.is_denied() && !call.is_failed());
        assert_eq!((call.from.as_str(), call.to.as_str()), ("shop/web-0", "example.com"));
        assert_eq!(call.what, "GET /\\u{1b}[31m");
    }
}
