//! One record as a line of JSON, byte for byte what serde makes of it, with a fraction of its steps: a line is written for
//! every request.

use std::{
    cell::RefCell,
    io::Write,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use jiff::Timestamp;

use super::{record::Record, trace::TraceContext};

/// Appends the record and a line feed. `false`: it cannot be written; what is in `line` is then of no use.
pub(super) fn write(record: &Record, line: &mut Vec<u8>) -> bool {
    let Record {
        time,
        proxy,
        direction,
        source,
        source_address,
        destination,
        destination_address,
        protocol,
        connection,
        method,
        authority,
        path,
        status,
        grpc_status,
        reason,
        details,
        decision,
        policies,
        shadow,
        route,
        cluster,
        upstream,
        upstream_identity,
        attempts,
        request_id,
        trace: TraceContext { trace_id, span_id },
        duration_us,
        bytes_received,
        bytes_sent,
    } = record;
    line.extend_from_slice(b"{\"time\":\"");
    push_time(line, *time);
    line.extend_from_slice(b"\",\"proxy\":");
    push_text(line, proxy);
    line.extend_from_slice(b",\"direction\":");
    push_text(line, direction.as_str());
    line.extend_from_slice(b",\"source\":");
    push_some(line, source.as_deref(), push_text);
    line.extend_from_slice(b",\"source_address\":");
    push_some(line, *source_address, push_address);
    line.extend_from_slice(b",\"destination\":");
    push_some(line, destination.as_deref(), push_text);
    line.extend_from_slice(b",\"destination_address\":");
    push_some(line, *destination_address, push_address);
    line.extend_from_slice(b",\"protocol\":");
    push_text(line, protocol);
    line.extend_from_slice(b",\"connection\":");
    push_text(line, connection);
    line.extend_from_slice(b",\"method\":");
    push_some(line, method.as_ref().map(http::Method::as_str), push_text);
    line.extend_from_slice(b",\"authority\":");
    push_some(line, authority.as_deref(), push_text);
    line.extend_from_slice(b",\"path\":");
    push_some(line, path.as_deref(), push_text);
    line.extend_from_slice(b",\"status\":");
    push_some(line, status.map(u64::from), push_number);
    line.extend_from_slice(b",\"grpc_status\":");
    push_some(line, grpc_status.map(u64::from), push_number);
    line.extend_from_slice(b",\"reason\":");
    push_text(line, reason.as_str());
    line.extend_from_slice(b",\"details\":");
    push_some(line, details.as_deref(), push_text);
    line.extend_from_slice(b",\"decision\":");
    push_some(line, decision.as_deref(), push_text);
    line.extend_from_slice(b",\"policies\":[");
    push_list(line, policies);
    line.extend_from_slice(b"],\"shadow\":");
    // Rare, and a tree of its own.
    if serde_json::to_writer(&mut *line, shadow).is_err() {
        return false;
    }
    line.extend_from_slice(b",\"route\":");
    push_some(line, route.as_deref(), push_text);
    line.extend_from_slice(b",\"cluster\":");
    push_some(line, cluster.as_deref(), push_text);
    line.extend_from_slice(b",\"upstream\":");
    push_some(line, *upstream, push_address);
    line.extend_from_slice(b",\"upstream_identity\":");
    push_some(line, upstream_identity.as_deref(), push_text);
    line.extend_from_slice(b",\"attempts\":");
    push_number(line, u64::from(*attempts));
    line.extend_from_slice(b",\"request_id\":");
    push_some(line, request_id.as_deref(), push_text);
    line.extend_from_slice(b",\"trace_id\":");
    push_some(line, trace_id.as_deref(), push_text);
    line.extend_from_slice(b",\"span_id\":");
    push_some(line, span_id.as_deref(), push_text);
    line.extend_from_slice(b",\"duration_us\":");
    push_number(line, *duration_us);
    line.extend_from_slice(b",\"bytes_received\":");
    push_number(line, *bytes_received);
    line.extend_from_slice(b",\"bytes_sent\":");
    push_number(line, *bytes_sent);
    line.extend_from_slice(b"}\n");
    true
}

fn push_some<T>(line: &mut Vec<u8>, value: Option<T>, push: impl FnOnce(&mut Vec<u8>, T)) {
    match value {
        Some(value) => push(line, value),
        None => line.extend_from_slice(b"null"),
    }
}

fn push_list(line: &mut Vec<u8>, texts: &[Arc<str>]) {
    for (number, text) in texts.iter().enumerate() {
        if number > 0 {
            line.push(b',');
        }
        push_text(line, text);
    }
}

fn push_text(line: &mut Vec<u8>, text: &str) {
    let is_plain = |byte: &u8| (*byte >= b' ') & (*byte != b'"') & (*byte != b'\\');
    line.push(b'"');
    // Without a way out of the loop, so that many bytes are looked at in one step.
    if text.as_bytes().iter().fold(true, |all, byte| all & is_plain(byte)) {
        line.extend_from_slice(text.as_bytes());
    } else {
        push_escaped(line, text);
    }
    line.push(b'"');
}

fn push_escaped(line: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' => line.extend_from_slice(b"\\\""),
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\t' => line.extend_from_slice(b"\\t"),
            0x08 => line.extend_from_slice(b"\\b"),
            0x0c => line.extend_from_slice(b"\\f"),
            0..b' ' => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
                line.extend_from_slice(b"\\u00");
                line.extend([digit(byte >> 4), digit(byte & 15)]);
            }
            byte => line.push(byte),
        }
    }
}

fn push_number(line: &mut Vec<u8>, number: u64) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn push_address(line: &mut Vec<u8>, address: SocketAddr) {
    line.push(b'"');
    match address.ip() {
        IpAddr::V4(ip) => {
            for (number, octet) in ip.octets().into_iter().enumerate() {
                if number > 0 {
                    line.push(b'.');
                }
                push_number(line, u64::from(octet));
            }
            line.push(b':');
            push_number(line, u64::from(address.port()));
        }
        IpAddr::V6(_) => push_shown(line, &address),
    }
    line.push(b'"');
}

/// Writing to memory does not fail.
fn push_shown(line: &mut Vec<u8>, value: &impl std::fmt::Display) {
    let _ = write!(line, "{value}");
}

thread_local! {
    /// The second that this thread wrote last, and its text without the `Z`.
    static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
}

/// RFC 3339 with as many digits as the fraction has.
fn push_time(line: &mut Vec<u8>, time: Timestamp) {
    let (second, Ok(nanos)) = (time.as_second(), u32::try_from(time.subsec_nanosecond())) else {
        return push_shown(line, &time);
    };
    let is_written = SECOND.with_borrow_mut(|(held, text)| {
        if *held != second {
            let Ok(whole) = Timestamp::from_second(second) else { return false };
            *text = whole.to_string();
            // What is cut is the `Z`.
            text.pop();
            *held = second;
        }
        line.extend_from_slice(text.as_bytes());
        true
    });
    if !is_written {
        return push_shown(line, &time);
    }
    if nanos > 0 {
        line.push(b'.');
        // With a one in front, so that no zero is lost.
        let mut text = itoa::Buffer::new();
        let digits = text.format(1_000_000_000_u64 + u64::from(nanos)).as_bytes().get(1..).unwrap_or_default();
        let zeros = digits.iter().rev().take_while(|digit| **digit == b'0').count();
        line.extend_from_slice(digits.get(..digits.len() - zeros).unwrap_or_default());
    }
    line.push(b'Z');
}

#[cfg(test)]
mod tests {
    use palisade_model::reason::Reason;
    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::{
        record::Direction,
        shadow::{ShadowPolicy, ShadowRecord},
    };

    fn as_serde(record: &Record) -> String {
        serde_json::to_string(record).unwrap() + "\n"
    }

    fn written(record: &Record) -> String {
        let mut line = Vec::new();
        assert!(write(record, &mut line));
        String::from_utf8(line).unwrap()
    }

    fn full(text: &str, time: Timestamp, address: SocketAddr) -> Record {
        Record {
            source: Some(text.into()),
            source_address: Some(address),
            destination: Some(text.into()),
            destination_address: Some(address),
            method: Some(http::Method::PATCH),
            authority: Some(text.into()),
            path: Some(text.into()),
            status: Some(200),
            grpc_status: Some(14),
            reason: Reason::AuthzDenied,
            details: Some(text.into()),
            decision: Some(text.into()),
            policies: vec![text.into(), "b".into()],
            shadow: Some(Box::new(ShadowRecord {
                policies: vec![ShadowPolicy {
                    namespace: text.into(),
                    name: text.into(),
                    rule: Some(1),
                    matched: true,
                    decision: None,
                }],
                all: Some("deny"),
            })),
            route: Some(text.into()),
            cluster: Some(text.into()),
            upstream: Some(address),
            upstream_identity: Some(text.into()),
            attempts: 3,
            request_id: Some(text.into()),
            trace: TraceContext { trace_id: Some(text.into()), span_id: Some(text.into()) },
            duration_us: u64::MAX,
            bytes_received: 1,
            bytes_sent: 0,
            ..Record::new(time, text.into(), Direction::Outbound)
        }
    }

    #[test]
    fn an_empty_record_is_what_serde_makes_of_it() {
        let record = Record::new(Timestamp::UNIX_EPOCH, "a/b".into(), Direction::Inbound);
        assert_eq!(written(&record), as_serde(&record));
    }

    proptest! {
        #[test]
        fn a_line_is_what_serde_makes_of_the_record(
            text in any::<String>(),
            second in -4_000_000_000_i64..4_000_000_000,
            nanos in prop_oneof![Just(0), Just(120_000_000), 0..1_000_000_000],
            v4 in any::<([u8; 4], u16)>(),
            v6 in any::<([u16; 8], u16)>(),
        ) {
            let time = Timestamp::new(second, nanos).unwrap();
            for address in [SocketAddr::from(v4), SocketAddr::from(v6)] {
                let record = full(&text, time, address);
                prop_assert_eq!(written(&record), as_serde(&record));
            }
        }
    }
}
