//! The decision record: one line of JSON with every attribute that a policy may read, secrets hashed or left out.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use http::HeaderMap;
use palisade_policy::{CapturedRequest, Peer};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use serde::Serialize;

use super::Circumstances;
use crate::{
    request::verdict::Authorization,
    telemetry::{ShadowRecord, shadow::word},
};

/// The schema of [`DecisionRecord`]. Fields may come; their meaning never changes under one number.
pub const SCHEMA_VERSION: u32 = 1;

/// Headers whose lines are kept as they are: they say what a request is, never who may send it.
const PLAIN_HEADERS: [&str; 4] = ["content-type", "accept", "user-agent", "x-request-id"];

/// Claims whose texts are kept as they are.
const PLAIN_CLAIMS: [&str; 3] = ["iss", "aud", "scope"];

/// Headers whose lines are left out unless policies mention them: they are secrets, and nothing else.
const SECRET_HEADERS: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];

/// Texts of one header or claim that are listed at most.
const MAX_TEXTS: usize = 32;

/// Headers that are listed at most, beside those that policies mention.
const MAX_HEADERS: usize = 64;

/// Stands where a text cannot be hashed.
const NO_HASH: &str = "hmac:";

/// Keeps hashes of one proxy from being looked up in tables. Equal texts have equal hashes for the life of the process.
#[derive(Debug)]
pub(super) struct Salt(Option<hmac::Key>);

/// One decision.
#[derive(Debug, Serialize)]
pub struct DecisionRecord<'a> {
    /// [`SCHEMA_VERSION`].
    v: u32,
    id: &'a str,
    time: String,
    proxy: &'a str,
    direction: &'static str,
    verdict: &'static str,
    reason: &'static str,
    /// Deciding policies, by id.
    policies: Vec<Arc<str>>,
    shadow: Option<ShadowRecord>,
    source: Source,
    destination: Address,
    /// The host outside the mesh that it was about.
    egress_host: Option<&'a str>,
    tls: Option<Tls<'a>>,
    http: Option<Http<'a>>,
}

#[derive(Debug, Serialize)]
struct Source {
    #[serde(flatten)]
    address: Address,
    /// The SPIFFE id or the names of the certificate; empty without one.
    names: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Address {
    ip: IpAddr,
    port: u16,
}

#[derive(Debug, Serialize)]
struct Tls<'a> {
    sni: Option<&'a str>,
    alpn: Option<&'a str>,
    version: &'a str,
}

#[derive(Debug, Serialize)]
struct Http<'a> {
    method: &'a str,
    scheme: &'a str,
    authority: String,
    /// Without query.
    path: String,
    /// Hash of the query.
    query: Option<String>,
    remote_ip: IpAddr,
    /// The lines of each header: plain for a few, hashed for the others, none for secrets that no policy mentions.
    headers: BTreeMap<&'a str, Vec<String>>,
    jwt: Option<Jwt>,
}

#[derive(Debug, Serialize)]
struct Jwt {
    issuer: String,
    /// Hashed.
    subject: String,
    /// Unix seconds.
    expires: Option<u64>,
    /// By flattened key, texts hashed but for a few claims.
    claims: BTreeMap<String, Vec<String>>,
}

impl Salt {
    pub(super) fn random() -> Self {
        let mut bytes = [0_u8; 32];
        let is_random = SystemRandom::new().fill(&mut bytes).is_ok();
        if !is_random {
            tracing::warn!("no randomness: decision records are made without hashes");
        }
        Self(is_random.then(|| hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// The first 16 bytes in hexadecimal.
    fn hash(&self, text: &[u8]) -> String {
        let Some(key) = &self.0 else { return NO_HASH.to_owned() };
        let tag = hmac::sign(key, text);
        let hex: String = tag.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("hmac:{hex}")
    }
}

impl<'a> DecisionRecord<'a> {
    pub(super) fn of(
        id: &'a str,
        said: &Authorization,
        captured: &'a CapturedRequest,
        shadow: Option<ShadowRecord>,
        circumstances: &Circumstances<'a>,
        salt: &Salt,
    ) -> Self {
        let Circumstances { time, reason, proxy, direction, headers } = circumstances;
        let CapturedRequest { connection, http, egress_host } = captured;
        let names = match &connection.peer {
            Peer::Anonymous => Vec::new(),
            Peer::Mesh(id) => vec![id.to_string()],
            Peer::Certificate(names) => names.uris.iter().chain(&names.dns).chain([&names.subject]).cloned().collect(),
        };
        Self {
            v: SCHEMA_VERSION,
            id,
            time: time.to_string(),
            proxy,
            direction: direction.as_str(),
            verdict: word(said.is_allowed),
            reason: reason.as_str(),
            policies: said.deciding.iter().map(|policy| Arc::clone(&policy.id.0)).collect(),
            shadow,
            source: Source { address: Address { ip: connection.source_ip, port: connection.source_port }, names },
            destination: Address { ip: connection.destination_ip, port: connection.destination_port },
            egress_host: egress_host.as_deref(),
            tls: connection.tls.as_ref().map(|tls| Tls {
                sni: tls.sni.as_deref(),
                alpn: tls.alpn.as_deref(),
                version: &tls.version,
            }),
            http: http.as_ref().map(|http| Http::of(http, *headers, salt)),
        }
    }
}

impl<'a> Http<'a> {
    fn of(http: &'a palisade_policy::CapturedHttp, received: Option<&'a HeaderMap>, salt: &Salt) -> Self {
        let palisade_policy::CapturedHttp { method, scheme, authority, path, headers, remote_ip, jwt, now: _ } = http;
        let end = path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len());
        let (plain, query) = path.split_at_checked(end).unwrap_or((path, &[]));
        let text = |name: &str, line: &[u8]| match PLAIN_HEADERS.contains(&name) {
            true => String::from_utf8_lossy(line).into_owned(),
            false => salt.hash(line),
        };
        let mut mentioned: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, line) in headers {
            let lines = mentioned.entry(name).or_default();
            if lines.len() < MAX_TEXTS {
                lines.push(text(name, line));
            }
        }
        // What policies mention is as they saw it; the rest, as it was received.
        let mut lines = mentioned.clone();
        let others = received.into_iter().flat_map(|received| received.keys().map(move |name| (received, name)));
        for (received, name) in others.filter(|(_, name)| !mentioned.contains_key(name.as_str())).take(MAX_HEADERS) {
            let is_secret = SECRET_HEADERS.contains(&name.as_str());
            let values = received.get_all(name).iter().filter(|_| !is_secret).take(MAX_TEXTS);
            lines.insert(name.as_str(), values.map(|value| text(name.as_str(), value.as_bytes())).collect());
        }
        Self {
            method,
            scheme,
            authority: String::from_utf8_lossy(authority).into_owned(),
            path: String::from_utf8_lossy(plain).into_owned(),
            query: (!query.is_empty()).then(|| salt.hash(query)),
            remote_ip: *remote_ip,
            headers: lines,
            jwt: jwt.as_ref().map(|jwt| Jwt {
                issuer: jwt.issuer.clone(),
                subject: salt.hash(jwt.subject.as_bytes()),
                expires: jwt
                    .expires
                    .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok())
                    .map(|at| at.as_secs()),
                claims: jwt
                    .claims
                    .entries()
                    .map(|(key, texts)| {
                        let is_plain = PLAIN_CLAIMS.contains(&key);
                        let text = |t: &String| if is_plain { t.clone() } else { salt.hash(t.as_bytes()) };
                        (key.to_owned(), texts.iter().take(MAX_TEXTS).map(text).collect())
                    })
                    .collect(),
            }),
        }
    }
}
