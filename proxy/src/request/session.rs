//! Sessions: what the first answer gives a client, and how its later requests find the same endpoint (GEP-1619).
//!
//! A token names an endpoint by a hash and is no secret: who makes one up chooses an endpoint among those that the rule sends
//! requests to anyway.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use palisade_model::{
    endpoint::Address,
    route::{Forward, Session},
};
use palisade_policy::Permit;

use super::{balance::Picked, changes::HeaderChange, hash::cookie};
use crate::index::{IndexedCluster, IndexedEndpoint, RuntimeIndex, hashing::hash};

/// What a request holds of a rule's session.
#[derive(Debug)]
pub struct Held {
    session: Session,
    /// Its token, unless it has none or that has expired.
    token: Option<Token>,
    /// Seconds since the epoch.
    now: u64,
    /// The client came by TLS: so must its cookie.
    is_secure: bool,
}

/// What a client is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token {
    /// The endpoint.
    endpoint: u64,
    /// When the session began, in seconds since the epoch; only where sessions end.
    began: u64,
}

impl Held {
    /// What a request shows.
    pub(super) fn of(session: &Session, headers: &HeaderMap, is_secure: bool, now: SystemTime) -> Self {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let shown = match session.is_header {
            true => headers.get(&*session.name).map(HeaderValue::as_bytes),
            false => cookie(headers, &session.name),
        };
        let token = shown.and_then(Token::read).filter(|token| {
            let age = Duration::from_secs(now.saturating_sub(token.began));
            session.timeout.is_none_or(|limit| token.began <= now && age < limit)
        });
        Self { session: session.clone(), token, now, is_secure }
    }

    /// The backend of the rule that has the session's endpoint, where that takes traffic.
    pub(super) fn backend(&self, index: &RuntimeIndex, forward: &Forward) -> Option<usize> {
        let token = self.token?;
        forward.backends.iter().position(|backend| {
            let cluster = index.cluster(&backend.cluster).filter(|_| backend.missing.is_none());
            cluster.is_some_and(|cluster| token.endpoint_of(cluster).is_some())
        })
    }

    /// The session's endpoint, unless it was tried already.
    pub fn pick(&self, _permit: &Permit, cluster: &IndexedCluster, tried: &[Address]) -> Option<Picked> {
        let endpoint = self.token?.endpoint_of(cluster)?;
        let address = endpoint.endpoint.address.clone();
        (!tried.contains(&address)).then_some(Picked { address, endpoint: Some(endpoint), source: None })
    }

    /// What the answer of an endpoint tells the client: nothing where it knows it already.
    pub fn answer(&self, cluster: &str, address: &Address) -> Option<HeaderChange> {
        let Session { name, is_header, is_permanent, timeout } = &self.session;
        let endpoint = id(cluster, address);
        let known = self.token.filter(|token| token.endpoint == endpoint);
        // A cookie stays with the client by itself.
        if known.is_some() && !is_header {
            return None;
        }
        let began = known.map_or(self.now, |token| token.began);
        let token = Token { endpoint, began }.write(timeout.is_some());
        if *is_header {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            return Some(HeaderChange::Set(name, HeaderValue::try_from(token).ok()?));
        }
        let life = timeout.filter(|_| *is_permanent).map(|limit| format!("; Max-Age={}", limit.as_secs().max(1)));
        let secure = if self.is_secure { "; Secure" } else { "" };
        let line = format!("{name}={token}; Path=/{}; HttpOnly; SameSite=Lax{secure}", life.unwrap_or_default());
        Some(HeaderChange::Append(header::SET_COOKIE, HeaderValue::try_from(line).ok()?))
    }
}

impl Token {
    /// `ENDPOINT` or `ENDPOINT.BEGAN`; anything else is none.
    fn read(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (endpoint, began) = text.split_once('.').unwrap_or((text, "0"));
        let is_id = endpoint.len() == 16 && endpoint.bytes().all(|byte| byte.is_ascii_hexdigit());
        let endpoint = u64::from_str_radix(endpoint, 16).ok().filter(|_| is_id)?;
        Some(Self { endpoint, began: began.parse().ok()? })
    }

    fn write(self, ends: bool) -> String {
        let Self { endpoint, began } = self;
        if ends { format!("{endpoint:016x}.{began}") } else { format!("{endpoint:016x}") }
    }

    /// The endpoint of a cluster, where it takes traffic.
    fn endpoint_of(self, cluster: &IndexedCluster) -> Option<IndexedEndpoint> {
        let available = cluster.available();
        let mut serving = available.positions().filter_map(|at| cluster.at(at));
        serving.find(|indexed| id(cluster.name(), &indexed.endpoint.address) == self.endpoint).cloned()
    }
}

/// An endpoint's name in tokens.
fn id(cluster: &str, address: &Address) -> u64 {
    let at = match address {
        Address::Socket(at) => at.to_string(),
        Address::Unix(path) => format!("unix:{path}"),
        Address::Name(name, port) | Address::LogicalName(name, port) => format!("{name}:{port}"),
    };
    hash(format!("{cluster}\n{at}").as_bytes())
}
