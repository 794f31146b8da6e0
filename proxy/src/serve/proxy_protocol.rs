//! The PROXY protocol, versions 1 and 2 (HAProxy `doc/proxy-protocol.txt`): a load balancer's word on who the client is.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use super::{sniff::Peek, socket::canonical};

/// The longest version 1 line, with its CRLF.
const MAX_V1: usize = 107;
/// The longest version 2 header that is taken, extensions included. The protocol allows 64 KiB; none in use needs it.
const MAX_V2: usize = 4096;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED: usize = 16;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The balancer speaks for itself (health check), or for a protocol without addresses: the socket's own count.
    Local,
    /// The balancer relays this connection.
    Proxied {
        /// The client.
        source: SocketAddr,
        /// Where the client connected to.
        destination: SocketAddr,
    },
}

/// What the bytes seen so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyParse {
    /// A whole header and its length in bytes.
    Complete(ProxyHeader, usize),
    /// The beginning of a header, or nothing yet.
    Incomplete,
    /// Something else.
    NotProxy,
    /// A header that breaks the specification, or exceeds the limits.
    Invalid,
}

/// Why no header was read. The connection must be closed: nobody's word on the client can be trusted then.
#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderError {
    /// The first bytes are no header.
    #[error("the connection does not begin with a PROXY protocol header")]
    Missing,
    /// The header is malformed.
    #[error("the PROXY protocol header is malformed")]
    Invalid,
    /// Not there in time.
    #[error("the PROXY protocol header took more than {0:?}")]
    Timeout(Duration),
    /// The socket failed or ended.
    #[error("the connection ended within the PROXY protocol header: {0}")]
    Io(#[from] io::Error),
}

/// Reads a header from the first bytes of a connection. Pure, without panic for any input, O(bytes).
pub fn parse_proxy_header(bytes: &[u8]) -> ProxyParse {
    let Some(first) = bytes.first() else {
        return ProxyParse::Incomplete;
    };
    match first {
        b'P' => parse_v1(bytes),
        b'\r' => parse_v2(bytes),
        _ => ProxyParse::NotProxy,
    }
}

/// Consumes the header that the connection must begin with, and nothing after it.
///
/// # Errors
/// [`ProxyHeaderError`].
pub async fn read_proxy_header(stream: &mut TcpStream, limit: Duration) -> Result<ProxyHeader, ProxyHeaderError> {
    let read = async {
        let mut peek = Peek::new();
        let (header, length) = loop {
            let grown = peek.more(stream).await?;
            match parse_proxy_header(peek.bytes()) {
                ProxyParse::Complete(header, length) => break (header, length),
                ProxyParse::NotProxy => return Err(ProxyHeaderError::Missing),
                ProxyParse::Invalid => return Err(ProxyHeaderError::Invalid),
                ProxyParse::Incomplete if !grown => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                ProxyParse::Incomplete => {}
            }
        };
        let mut consumed = vec![0; length];
        stream.read_exact(&mut consumed).await?;
        Ok(header)
    };
    timeout(limit, read).await.map_err(|_elapsed| ProxyHeaderError::Timeout(limit))?
}

/// `PROXY TCP4 SOURCE DESTINATION SOURCE_PORT DESTINATION_PORT\r\n`, or `PROXY UNKNOWN ...\r\n`.
fn parse_v1(bytes: &[u8]) -> ProxyParse {
    const PREFIX: &[u8] = b"PROXY ";
    if !bytes.starts_with(PREFIX) {
        return if PREFIX.starts_with(bytes) { ProxyParse::Incomplete } else { ProxyParse::NotProxy };
    }
    let window = bytes.get(..MAX_V1).unwrap_or(bytes);
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if bytes.len() >= MAX_V1 { ProxyParse::Invalid } else { ProxyParse::Incomplete };
    };
    let line = window.get(PREFIX.len()..end).and_then(|line| line.strip_suffix(b"\r"));
    let Some(line) = line.and_then(|line| std::str::from_utf8(line).ok()) else {
        return ProxyParse::Invalid;
    };
    match v1_header(line) {
        Some(header) => ProxyParse::Complete(header, end + 1),
        None => ProxyParse::Invalid,
    }
}

fn v1_header(line: &str) -> Option<ProxyHeader> {
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(ProxyHeader::Local);
    }
    let (source, destination): (IpAddr, IpAddr) = match family {
        "TCP4" => (words.next()?.parse::<Ipv4Addr>().ok()?.into(), words.next()?.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => (words.next()?.parse::<Ipv6Addr>().ok()?.into(), words.next()?.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    let (source_port, destination_port) = (v1_port(words.next()?)?, v1_port(words.next()?)?);
    words.next().is_none().then(|| proxied((source, source_port), (destination, destination_port)))
}

/// Decimal, no sign and no leading zeros.
fn v1_port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

fn parse_v2(bytes: &[u8]) -> ProxyParse {
    let Some((signature, rest)) = bytes.split_first_chunk::<12>() else {
        return if V2_SIGNATURE.starts_with(bytes) { ProxyParse::Incomplete } else { ProxyParse::NotProxy };
    };
    if signature != V2_SIGNATURE {
        return ProxyParse::NotProxy;
    }
    let Some((&[version_command, family, high, low], rest)) = rest.split_first_chunk::<4>() else {
        return ProxyParse::Incomplete;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if version_command >> 4 != 2 || V2_FIXED + length > MAX_V2 {
        return ProxyParse::Invalid;
    }
    let Some(addresses) = rest.get(..length) else {
        return ProxyParse::Incomplete;
    };
    let header = match (version_command & 0x0f, family) {
        (0, _) => Some(ProxyHeader::Local),
        (1, 0x11) => v2_ipv4(addresses),
        (1, 0x21) => v2_ipv6(addresses),
        // Datagrams, unix sockets, unspecified: the receiver must use the real addresses.
        (1, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => Some(ProxyHeader::Local),
        _ => None,
    };
    header.map_or(ProxyParse::Invalid, |header| ProxyParse::Complete(header, V2_FIXED + length))
}

fn v2_ipv4(bytes: &[u8]) -> Option<ProxyHeader> {
    let (source, rest) = bytes.split_first_chunk::<4>()?;
    let (destination, rest) = rest.split_first_chunk::<4>()?;
    let (source_port, destination_port) = v2_ports(rest)?;
    Some(proxied((IpAddr::from(*source), source_port), (IpAddr::from(*destination), destination_port)))
}

fn v2_ipv6(bytes: &[u8]) -> Option<ProxyHeader> {
    let (source, rest) = bytes.split_first_chunk::<16>()?;
    let (destination, rest) = rest.split_first_chunk::<16>()?;
    let (source_port, destination_port) = v2_ports(rest)?;
    Some(proxied((IpAddr::from(*source), source_port), (IpAddr::from(*destination), destination_port)))
}

fn v2_ports(bytes: &[u8]) -> Option<(u16, u16)> {
    let (&[a, b, c, d], _extensions) = bytes.split_first_chunk::<4>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

fn proxied(source: (IpAddr, u16), destination: (IpAddr, u16)) -> ProxyHeader {
    ProxyHeader::Proxied {
        source: canonical(SocketAddr::new(source.0, source.1)),
        destination: canonical(SocketAddr::new(destination.0, destination.1)),
    }
}

#[cfg(test)]
mod tests;
