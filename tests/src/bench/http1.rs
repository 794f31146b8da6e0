//! Just enough of HTTP/1.1 for peers that are known to speak it well: the end of a head, its status and length.

/// What a head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes up to and with the empty line.
    pub(super) length: usize,
    /// Status of a response; 0 for a request.
    pub(super) status: u16,
    /// `content-length`, 0 without one.
    pub(super) content_length: u64,
}

impl Head {
    /// Reads a head that lies completely in `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let length = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
        let head = bytes.get(..length)?;
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.trim().parse::<u64>().ok();
        let status = match head.strip_prefix(b"HTTP/1.1 ") {
            Some(rest) => rest.get(..3).and_then(number).and_then(|status| u16::try_from(status).ok())?,
            None => 0,
        };
        const NAME: &[u8] = b"content-length:";
        let mut content_length = 0;
        for line in head.split(|byte| *byte == b'\n') {
            if line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)) {
                content_length = line.get(NAME.len()..).and_then(number)?;
            }
        }
        Some(Self { length, status, content_length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_tell_status_and_length() {
        let head = Head::parse(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello").unwrap();
        assert_eq!(head, Head { length: 39, status: 200, content_length: 12 });
        assert_eq!(Head::parse(b"GET / HTTP/1.1\r\nhost: a\r\n"), None);
        assert_eq!(Head::parse(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap().status, 0);
    }
}
