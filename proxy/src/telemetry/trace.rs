//! Trace context as callers send it: W3C `traceparent`, else B3 in its single or multi header form.

use serde::Serialize;

/// Ids of the caller's trace. Only well-formed ids are kept; the headers themselves travel on untouched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TraceContext {
    /// 32 lower-case hexadecimal digits (B3's 64-bit ids are padded with zeros).
    pub trace_id: Option<Box<str>>,
    /// 16 lower-case hexadecimal digits: the caller's span.
    pub span_id: Option<Box<str>>,
}

impl TraceContext {
    /// Reads the context from headers; `header` returns the value of a (lower-case) name.
    ///
    /// W3C Trace Context section 3.2 wins over B3 (single header, then multi).
    pub fn from_headers<'h>(header: impl Fn(&str) -> Option<&'h str>) -> Self {
        header("traceparent")
            .and_then(from_traceparent)
            .or_else(|| header("b3").and_then(from_b3))
            .or_else(|| from_ids(header("x-b3-traceid")?, header("x-b3-spanid")?))
            .unwrap_or_default()
    }
}

fn from_traceparent(value: &str) -> Option<TraceContext> {
    let mut parts = value.trim().split('-');
    let version = parts.next()?;
    let (trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
    let is_well_formed = version.len() == 2 && version != "ff" && flags.len() == 2 && trace.len() == 32;
    // Version 00 has exactly four parts; later ones may append.
    if !is_well_formed || (version == "00" && parts.next().is_some()) {
        return None;
    }
    from_ids(trace, span)
}

fn from_b3(value: &str) -> Option<TraceContext> {
    let mut parts = value.trim().split('-');
    from_ids(parts.next()?, parts.next()?)
}

fn from_ids(trace: &str, span: &str) -> Option<TraceContext> {
    // Without a way out of the loop, so that many bytes are looked at in one step.
    let is_hex =
        |text: &str| text.bytes().fold(true, |all, b| all & (b.is_ascii_digit() | (b'a'..=b'f').contains(&(b | 0x20))));
    let is_id = |text: &str| is_hex(text) && text.bytes().fold(false, |any, b| any | (b != b'0'));
    if !matches!(trace.len(), 16 | 32) || span.len() != 16 || !is_id(trace) || !is_id(span) {
        return None;
    }
    Some(TraceContext {
        trace_id: Some(match trace.len() {
            32 => trace.to_ascii_lowercase().into(),
            _ => format!("{:0>32}", trace.to_ascii_lowercase()).into(),
        }),
        span_id: Some(span.to_ascii_lowercase().into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&str, &'static str)]) -> Option<String> {
        let get = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        TraceContext::from_headers(get).trace_id.map(String::from)
    }

    #[test]
    fn traceparent_wins_over_b3() {
        let w3c = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let b3 = ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1");
        assert_eq!(read(&[w3c, b3]).as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(read(&[b3]).as_deref(), Some("80f198ee56343ba864fe8b2a57d3eff7"));
    }

    #[test]
    fn short_b3_ids_are_padded() {
        let headers = [("x-b3-traceid", "463ac35c9f6413ad"), ("x-b3-spanid", "a2fb4a1d1a96d312")];
        assert_eq!(read(&headers).as_deref(), Some("0000000000000000463ac35c9f6413ad"));
    }

    #[test]
    fn malformed_contexts_are_ignored() {
        for value in [
            "",
            "00-0-0-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c8031é-b7ad6b7169203331-01",
        ] {
            assert_eq!(read(&[("traceparent", value)]), None, "{value}");
        }
    }
}
