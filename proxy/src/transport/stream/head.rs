//! Finds the end of an HTTP/1 request header in the bytes that pass by, to bound it in time and size.

/// What is known about the request header that is being received.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// Not looking: no limits, an upgraded or upstream stream.
    #[default]
    Off,
    /// Receiving; so many bytes so far, and the state of the search.
    Receiving { bytes: usize, at: Position },
    /// Complete.
    Complete,
}

/// Where in the header the search stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// Before the request line: RFC 9112 section 2.2 lets empty lines precede it.
    #[default]
    Before,
    /// Inside a line.
    Line,
    /// After a line feed.
    LineFeed,
    /// After a line feed and a carriage return.
    LineFeedReturn,
}

impl Head {
    pub(super) fn receiving() -> Self {
        Self::Receiving { bytes: 0, at: Position::Before }
    }

    /// Looks at the next bytes. Returns how many of them belong to the header: fewer than given only at its end.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> usize {
        let Self::Receiving { bytes: seen, at } = self else { return bytes.len() };
        let mut next = 0;
        while let Some(byte) = bytes.get(next) {
            *at = match (*at, *byte) {
                (Position::Before, b'\r' | b'\n') => Position::Before,
                (Position::LineFeed | Position::LineFeedReturn, b'\n') => {
                    *self = Self::Complete;
                    return next + 1;
                }
                (Position::LineFeed, b'\r') => Position::LineFeedReturn,
                (_, b'\n') => Position::LineFeed,
                _ => {
                    // Inside a line nothing but its end matters.
                    next += memchr::memchr(b'\n', bytes.get(next..).unwrap_or_default())
                        .unwrap_or(bytes.len())
                        .saturating_sub(1);
                    Position::Line
                }
            };
            next += 1;
        }
        *seen = seen.saturating_add(bytes.len());
        bytes.len()
    }

    /// Bytes received of an incomplete header.
    pub(super) fn pending_bytes(self) -> Option<usize> {
        match self {
            Self::Receiving { bytes, .. } => Some(bytes),
            Self::Off | Self::Complete => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_header_ends_at_the_first_empty_line() {
        for (name, text, header) in [
            ("crlf", "GET / HTTP/1.1\r\nHost: a\r\n\r\nrest", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("bare line feeds", "GET / HTTP/1.1\nHost: a\n\nrest", "GET / HTTP/1.1\nHost: a\n\n"),
            ("mixed", "GET / HTTP/1.1\r\nHost: a\n\r\nrest", "GET / HTTP/1.1\r\nHost: a\n\r\n"),
            ("leading empty lines", "\r\n\r\nGET / HTTP/1.1\r\n\r\nrest", "\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
        ] {
            let mut head = Head::receiving();
            assert_eq!(head.scan(text.as_bytes()), header.len(), "{name}");
            assert_eq!(head, Head::Complete, "{name}");
        }
    }

    proptest! {
        #[test]
        fn the_end_does_not_depend_on_how_the_bytes_arrive(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'a')], 0..60),
            cut in 0usize..60,
        ) {
            let mut whole = Head::receiving();
            let expected = whole.scan(&bytes);
            let cut = cut.min(bytes.len());
            let mut parts = Head::receiving();
            let mut taken = parts.scan(&bytes[..cut]);
            if parts != Head::Complete {
                taken += parts.scan(&bytes[cut..]);
            }
            prop_assert_eq!((taken, parts == Head::Complete), (expected, whole == Head::Complete));
        }
    }
}
