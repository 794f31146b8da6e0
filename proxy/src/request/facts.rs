//! What the pipeline is told: facts about a connection and about a request. No sockets, no clock.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use http::{HeaderMap, HeaderValue};
use palisade_policy::{CertificateNames, JwtFacts};

use super::authorize::Depth;
pub use crate::telemetry::Direction;

/// One downstream connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Towards the workload (or into a gateway), or from it.
    pub direction: Direction,
    /// TCP peer, or what a trusted PROXY protocol header says.
    pub source: SocketAddr,
    /// Original destination; at a gateway the address of the socket.
    pub destination: SocketAddr,
    /// TLS as the client began it; `None` = the first bytes are not TLS.
    pub tls: Option<ClientTls>,
}

/// TLS as the client began it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Server name of the ClientHello, lower-case.
    pub sni: Option<Arc<str>>,
    /// Protocols that the client offers, in its order.
    pub alpn: Vec<Arc<str>>,
    /// The client's certificate; `None` = it presents none.
    pub certificate: Option<ClientCertificate>,
    /// What the handshake agreed upon, where it was ours; `None` = not known.
    pub agreed: Option<AgreedTls>,
}

/// What a handshake agreed upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgreedTls {
    /// `TLSv1.2` or `TLSv1.3`; empty = another.
    pub version: &'static str,
    /// The protocol inside; `None` = none was agreed upon.
    pub alpn: Option<Arc<str>>,
}

/// A client certificate and who vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its names.
    pub names: CertificateNames,
    /// The bundle that its chain leads to.
    pub trust: Trust,
    /// SHA-256 of the leaf in hexadecimal, for `x-forwarded-client-cert`; `None` where no real certificate was seen.
    pub fingerprint: Option<Arc<str>>,
}

/// The bundle that a certificate's chain leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The mesh's roots.
    Mesh,
    /// A CA bundle of the documents, by secret key.
    Secret(Arc<str>),
    /// None that anybody here trusts.
    Nobody,
}

/// One HTTP request as received.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Method.
    pub method: &'a str,
    /// `http` or `https`: how it reached this proxy.
    pub scheme: &'a str,
    /// `:authority` or `Host`, as received.
    pub authority: &'a [u8],
    /// Request target in origin form, as received.
    pub target: &'a [u8],
    /// Protocol version.
    pub version: HttpVersion,
    /// Header lines.
    pub headers: &'a HeaderMap,
    /// Claims of a token that was verified; `None` = no token.
    pub jwt: Option<&'a JwtFacts>,
}

/// HTTP version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HttpVersion {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

/// When a request is judged, and the draws that it makes.
#[derive(Debug)]
pub struct Chance {
    /// The time of the request.
    pub now: SystemTime,
    /// How much of the authorization is kept.
    pub depth: Depth,
    draws: Draws,
}

#[derive(Debug)]
enum Draws {
    Fixed(f64),
    Random(fastrand::Rng),
}

impl Chance {
    /// Every draw comes out as `draw` (`0.0..1.0`).
    pub fn fixed(now: SystemTime, draw: f64) -> Self {
        Self { now, depth: Depth::Usual, draws: Draws::Fixed(draw) }
    }

    /// Draws from a generator.
    pub fn random(now: SystemTime, generator: fastrand::Rng) -> Self {
        Self { now, depth: Depth::Usual, draws: Draws::Random(generator) }
    }

    /// The same draws, with this much of the authorization kept.
    #[must_use]
    pub fn with_depth(self, depth: Depth) -> Self {
        Self { depth, ..self }
    }

    /// Whether every draw is the same.
    pub fn is_fixed(&self) -> bool {
        matches!(self.draws, Draws::Fixed(_))
    }

    /// A number in `0.0..1.0`.
    pub fn draw(&mut self) -> f64 {
        match &mut self.draws {
            Draws::Fixed(draw) => *draw,
            Draws::Random(generator) => generator.f64(),
        }
    }

    /// A new request id, in the form of a version 4 UUID.
    pub fn request_id(&mut self) -> HeaderValue {
        let bits = match &mut self.draws {
            Draws::Fixed(draw) => u128::from(draw.to_bits()).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835),
            Draws::Random(generator) => generator.u128(..),
        };
        let mut text = uuid::Uuid::encode_buffer();
        let id = uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().hyphenated().encode_lower(&mut text);
        // Digits, letters and hyphens are always a value.
        HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static(""))
    }
}

impl HttpVersion {
    /// The name in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "http/1.0",
            Self::Http11 => "http/1.1",
            Self::Http2 => "http/2",
        }
    }
}
