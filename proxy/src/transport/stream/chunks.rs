//! Follows a chunked request body, so that no two servers can find its end in different places.

/// Hexadecimal digits of a chunk's size: what 64 bits hold, leading zeros included.
const MAX_DIGITS: u8 = 16;

/// Bytes of a chunk's extensions, blanks included.
const MAX_EXTENSION: u16 = 8 * 1024;
/// Bytes of all trailer lines, with their ends.
const MAX_TRAILERS: u32 = 64 * 1024;

/// Where in a chunked body (RFC 9112 section 7.1) the reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunks {
    /// In a chunk's size, after so many digits.
    Size { digits: u8, size: u64 },
    /// In blanks or an extension after it, of which so many bytes have come.
    Extension { size: u64, length: u16 },
    /// After the CR that ends the size line.
    SizeReturn { size: u64 },
    /// In a chunk's data.
    Data { left: u64 },
    /// After a chunk's data.
    DataEnd,
    /// After the CR behind it.
    DataReturn,
    /// At the begin of a trailer line, or of the last, empty one, after so many bytes of others.
    Trailer { length: u32 },
    /// Inside a trailer line.
    TrailerLine { length: u32 },
    /// After the CR of a trailer line.
    TrailerReturn { length: u32 },
    /// After the CR of the empty line.
    LastReturn,
    /// Behind the body.
    Done,
}

/// A body that is not chunked as it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InvalidChunks;

impl Chunks {
    pub(super) const BEGIN: Self = Self::Size { digits: 0, size: 0 };

    /// Follows the next bytes. Gives how many of them belong to the body: fewer than given only at its end.
    ///
    /// # Errors
    /// [`InvalidChunks`]; the state is of no use then.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<usize, InvalidChunks> {
        self.follow_data(bytes, |_| {})
    }

    /// As [`Chunks::follow`]; shows the data, without what stands around it.
    ///
    /// # Errors
    /// As [`Chunks::follow`].
    pub(super) fn follow_data(&mut self, bytes: &[u8], mut show: impl FnMut(&[u8])) -> Result<usize, InvalidChunks> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            *self = match *self {
                Self::Done => return Ok(at),
                Self::Data { left } => {
                    let here = u64::try_from(bytes.len() - at).unwrap_or(u64::MAX).min(left);
                    let end = at + usize::try_from(here).unwrap_or(usize::MAX);
                    show(bytes.get(at..end).unwrap_or_default());
                    at = end;
                    *self = if here == left { Self::DataEnd } else { Self::Data { left: left - here } };
                    continue;
                }
                state => state.after(byte)?,
            };
            at += 1;
        }
        Ok(at)
    }

    fn after(self, byte: u8) -> Result<Self, InvalidChunks> {
        Ok(match (self, byte) {
            (Self::Size { digits, size }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < MAX_DIGITS => {
                let digit = char::from(byte).to_digit(16).ok_or(InvalidChunks)?;
                Self::Size { digits: digits + 1, size: size << 4 | u64::from(digit) }
            }
            (Self::Size { digits: 1.., size }, b';' | b' ' | b'\t') => Self::Extension { size, length: 1 },
            (Self::Size { digits: 1.., size } | Self::Extension { size, length: _ }, b'\r') => {
                Self::SizeReturn { size }
            }
            (Self::Extension { size, length }, byte) if is_text(byte) && length < MAX_EXTENSION => {
                Self::Extension { size, length: length + 1 }
            }
            (Self::SizeReturn { size: 0 }, b'\n') => Self::Trailer { length: 0 },
            (Self::SizeReturn { size }, b'\n') => Self::Data { left: size },
            (Self::DataEnd, b'\r') => Self::DataReturn,
            (Self::DataReturn, b'\n') => Self::Size { digits: 0, size: 0 },
            (Self::Trailer { length: _ }, b'\r') => Self::LastReturn,
            (Self::LastReturn, b'\n') => Self::Done,
            // No folding.
            (Self::Trailer { length: _ }, b' ' | b'\t') => return Err(InvalidChunks),
            (Self::Trailer { length } | Self::TrailerLine { length }, byte)
                if is_text(byte) && length < MAX_TRAILERS =>
            {
                Self::TrailerLine { length: length + 1 }
            }
            (Self::TrailerLine { length }, b'\r') => Self::TrailerReturn { length },
            (Self::TrailerReturn { length }, b'\n') => Self::Trailer { length: length + 2 },
            _ => return Err(InvalidChunks),
        })
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_one_end() {
        for (name, body, end) in [
            ("empty", "0\r\n\r\nrest", Some(5)),
            ("data", "5\r\nhello\r\n0\r\n\r\nGET", Some(15)),
            ("zeros", "0005\r\nhello\r\n000\r\n\r\n", Some(20)),
            ("hexadecimal", "A\r\n0123456789\r\n0\r\n\r\n", Some(20)),
            ("extensions", "1;a=\"b\";c\r\nx\r\n0 ; d\r\n\r\n", Some(23)),
            ("trailers", "0\r\na: b\r\nc: d\r\n\r\nrest", Some(17)),
            ("line ends in data", "4\r\n\r\n\r\n\r\n0\r\n\r\n", Some(14)),
            ("no size", "\r\n\r\n", None),
            ("an extension without a size", ";a\r\n\r\n", None),
            ("a blank first", " 0\r\n\r\n", None),
            ("a prefix", "0x0\r\n\r\n", None),
            ("a sign", "+0\r\n\r\n", None),
            ("a line feed", "0\n\n", None),
            ("a line feed in an extension", "1;\nx\r\n0\r\n\r\n", None),
            ("a carriage return in an extension", "1;\rx\r\n0\r\n\r\n", None),
            ("too much data", "1\r\nxy\r\n0\r\n\r\n", None),
            ("too little", "2\r\nx\r\n0\r\n\r\n", None),
            ("no end of line after data", "1\r\nx0\r\n\r\n", None),
            ("a line feed after data", "1\r\nx\n0\r\n\r\n", None),
            ("seventeen digits", "00000000000000000\r\n\r\n", None),
            ("a folded trailer", "0\r\na: b\r\n c\r\n\r\n", None),
            ("a line feed in trailers", "0\r\na: b\n\r\n", None),
        ] {
            let mut chunks = Chunks::BEGIN;
            let followed = chunks.follow(body.as_bytes());
            match end {
                Some(end) => assert_eq!((followed, chunks), (Ok(end), Chunks::Done), "{name}"),
                None => assert!(followed.is_err() || chunks != Chunks::Done, "{name}"),
            }
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let ends = |body: &str| {
            let mut chunks = Chunks::BEGIN;
            chunks.follow(body.as_bytes()).is_ok() && chunks == Chunks::Done
        };
        let extended = |length: usize| format!("0{}\r\n\r\n", ";".repeat(length));
        assert!(ends(&extended(8 * 1024)) && !ends(&extended(8 * 1024 + 1)));
        let trailed = |lines: usize| format!("0\r\n{}\r\n", format!("{}\r\n", "x".repeat(1024)).repeat(lines));
        assert!(ends(&trailed(63)) && !ends(&trailed(64)));
    }

    proptest::proptest! {
        #[test]
        fn the_end_does_not_depend_on_how_the_bytes_arrive(
            body in proptest::collection::vec(proptest::sample::select(&b"01a;x\r\n "[..]), 0..60),
            cut in 0usize..60,
        ) {
            let mut whole = Chunks::BEGIN;
            let expected = whole.follow(&body).map(|end| (end, whole));
            let (first, second) = body.split_at(cut.min(body.len()));
            let mut parts = Chunks::BEGIN;
            let followed = parts.follow(first).and_then(|end| Ok(end + parts.follow(second)?));
            proptest::prop_assert_eq!(followed.map(|end| (end, parts)), expected);
        }
    }
}
