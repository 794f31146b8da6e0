//! How long a request may take.

use std::time::Duration;

use http::HeaderMap;

/// How long a request may take: what its route says, and what a gRPC client says where that is less (Envoy:
/// `max_grpc_timeout`, whose cap is the route's timeout).
pub(super) fn limit(route: Option<Duration>, is_grpc: bool, headers: &HeaderMap) -> Option<Duration> {
    let said =
        if is_grpc { headers.get("grpc-timeout").and_then(|value| grpc_timeout(value.as_bytes())) } else { None };
    [route, said].into_iter().flatten().min()
}

/// `grpc-timeout`: at most eight digits and a unit. What is no such thing says nothing.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let limit = match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    };
    // Envoy: a timeout of zero is none.
    (!limit.is_zero()).then_some(limit)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn grpc_clients_shorten_a_route_s_timeout_and_never_stretch_it() {
        let seconds = |n| Some(Duration::from_secs(n));
        for (route, said, is_grpc, expected) in [
            (None, "5S", true, seconds(5)),
            (seconds(3), "5S", true, seconds(3)),
            (seconds(9), "5S", true, seconds(5)),
            (seconds(9), "5S", false, seconds(9)),
            (None, "1M", true, seconds(60)),
            (None, "500m", true, Some(Duration::from_millis(500))),
            (None, "7u", true, Some(Duration::from_micros(7))),
            (None, "99999999H", true, seconds(99_999_999 * 3600)),
            (None, "0S", true, None),
            (None, "123456789S", true, None),
            (None, "S", true, None),
            (None, "5x", true, None),
            (None, "+5S", true, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_str(said).unwrap());
            assert_eq!(limit(route, is_grpc, &headers), expected, "{said} under {route:?}");
        }
    }
}
