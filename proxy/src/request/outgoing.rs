//! A request target as it goes out.

/// A target as it goes out. What no URI may hold as it is (a normalised path holds none of it) is percent-encoded.
pub(super) fn with_query(path: &[u8], query: Option<&[u8]>) -> Vec<u8> {
    let mut target = Vec::with_capacity(path.len() + query.map_or(0, |query| query.len() + 1));
    push_encoded(&mut target, path, |byte| matches!(byte, b'<' | b'>' | b'`'));
    if let Some(query) = query {
        target.push(b'?');
        push_encoded(&mut target, query, |byte| matches!(byte, b'<' | b'>' | b'"'));
    }
    target
}

fn push_encoded(target: &mut Vec<u8>, text: &[u8], is_foreign: impl Fn(u8) -> bool) {
    if !text.iter().any(|byte| !byte.is_ascii() || is_foreign(*byte)) {
        return target.extend_from_slice(text);
    }
    for byte in text {
        if byte.is_ascii() && !is_foreign(*byte) {
            target.push(*byte);
        } else {
            target.extend_from_slice(percent_encoding::percent_encode_byte(*byte).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_uri_holds_goes_out_encoded() {
        assert_eq!(with_query(b"/a<\xff", Some(b"q=\"<\xe9>&r=%3c")), b"/a%3C%FF?q=%22%3C%E9%3E&r=%3c");
        assert_eq!(with_query(b"/a{}|", Some(b"`^")), b"/a{}|?`^");
    }
}
