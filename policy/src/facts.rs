//! What the engine is told about a connection and a request.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::ControlFlow,
    time::SystemTime,
};

use palisade_model::identity::SpiffeId;

/// Who the verified certificate of the peer names. Only what was verified belongs here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// No client certificate, or plaintext.
    Anonymous,
    /// A workload of a mesh: its certificate has exactly one URI, a SPIFFE id of the mesh's form.
    Mesh(SpiffeId),
    /// Any other verified certificate.
    Certificate(CertificateNames),
}

/// The names of a certificate that is not a mesh workload's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// URI subject alternative names.
    pub uris: Vec<String>,
    /// DNS subject alternative names.
    pub dns: Vec<String>,
    /// The subject, RFC 2253 form; empty when there is none.
    pub subject: String,
}

/// What is known once a connection is there, and never changes while it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionFacts {
    /// TCP peer, or the address that a trusted PROXY protocol header gives.
    pub source_ip: IpAddr,
    /// The peer's port.
    pub source_port: u16,
    /// Original destination.
    pub destination_ip: IpAddr,
    /// Original destination port: the pod's port, never a Service's.
    pub destination_port: u16,
    /// The verified peer.
    pub peer: Peer,
    /// `None` for plaintext.
    pub tls: Option<TlsFacts>,
}

/// The TLS side of a connection, terminated here or only looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// Server name of the ClientHello. Compared in lower case.
    pub sni: Option<String>,
    /// The protocol agreed upon (for TLS that is not terminated: none).
    pub alpn: Option<String>,
    /// For example `TLSv1.3`; empty when not known.
    pub version: String,
}

/// One request, borrowed; every text is what the router and the upstream see too.
#[derive(Clone, Copy)]
pub struct RequestFacts<'a> {
    /// Method, case kept.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// `:authority` or `Host`, port included.
    pub authority: &'a [u8],
    /// Normalised path. Where `query` is `None`, what follows a `?` in it is the query; a fragment is cut off.
    pub path: &'a [u8],
    /// Query without `?`; `None` = none, or part of `path`.
    pub query: Option<&'a [u8]>,
    /// Header lines.
    pub headers: &'a dyn HeaderLines,
    /// The original client by the proxy's trust settings; the TCP peer where nothing else is trusted.
    pub remote_ip: IpAddr,
    /// The claims of a verified token.
    pub jwt: Option<&'a JwtFacts>,
    /// The time of the request, for policies that read `context.now`.
    pub now: SystemTime,
}

/// Header lines by name. Each line is one value: lines of one name are never joined.
pub trait HeaderLines {
    /// Calls `visit` with the value of every line of that name, until it breaks. `name` is lower case.
    fn visit_lines(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>);
}

/// Header lines as a list of names (any case) and values, for tests, `eval` and captured requests.
impl<N: AsRef<str>, V: AsRef<[u8]>> HeaderLines for Vec<(N, V)> {
    fn visit_lines(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) {
        for (line_name, value) in self {
            if line_name.as_ref().eq_ignore_ascii_case(name) && visit(value.as_ref()).is_break() {
                return;
            }
        }
    }
}

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtFacts {
    /// `iss`; empty when absent.
    pub issuer: String,
    /// `sub`; empty when absent.
    pub subject: String,
    /// `exp`; `None` when the token does not expire.
    pub expires: Option<SystemTime>,
    /// All claims, flattened.
    pub claims: ClaimSet,
}

/// Claims, flattened: the path of a claim to its texts. Nested objects, lists and texts alike; numbers and booleans never match and have
/// no place here. A claim that is present without any text keeps an empty entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimSet {
    texts: BTreeMap<String, BTreeSet<String>>,
}

impl Peer {
    /// The peer that a verified certificate names.
    pub fn from_certificate(names: CertificateNames) -> Self {
        if let [uri] = names.uris.as_slice()
            && let Ok(id) = uri.parse()
        {
            return Self::Mesh(id);
        }
        let has_name = names.uris.iter().chain(&names.dns).any(|n| !n.is_empty()) || !names.subject.is_empty();
        if has_name { Self::Certificate(names) } else { Self::Anonymous }
    }
}

impl ClaimSet {
    /// Notes that the claim at `path` (outermost name first) is there.
    pub fn declare(&mut self, path: &[&str]) {
        self.texts.entry(claim_key(path)).or_default();
    }

    /// Adds one text of the claim at `path`: the claim itself, or one element of its list.
    pub fn add(&mut self, path: &[&str], text: impl Into<String>) {
        self.texts.entry(claim_key(path)).or_default().insert(text.into());
    }

    /// The texts at a flattened key.
    pub fn at(&self, key: &str) -> Option<&BTreeSet<String>> {
        self.texts.get(key)
    }

    /// All flattened keys with their texts: names joined by `.`, a dot inside a name escaped by a backslash.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &BTreeSet<String>)> {
        self.iter()
    }

    /// All flattened keys with their texts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &BTreeSet<String>)> {
        self.texts.iter().map(|(key, texts)| (key.as_str(), texts))
    }
}

/// The flattened key of a claim path: names joined by `.`; a dot, backslash or bracket inside a name is escaped by a backslash.
pub fn claim_key<S: AsRef<str>>(path: &[S]) -> String {
    let mut key = String::new();
    for (position, name) in path.iter().enumerate() {
        if position > 0 {
            key.push('.');
        }
        for c in name.as_ref().chars() {
            if matches!(c, '.' | '\\' | ']' | '[') {
                key.push('\\');
            }
            key.push(c);
        }
    }
    key
}

/// An IPv4 address that came in IPv6 clothes is the IPv4 address.
pub(crate) fn canonical_ip(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
