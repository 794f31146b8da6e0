//! What of a request or connection is hashed to choose its endpoint. Values are Envoy's, so that choices agree.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header};
use palisade_model::cluster::{Cluster, HashKey, LoadBalancer};

use super::facts::Connection;
use crate::index::hashing::{hash, hash_after};

/// The hash of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hashed {
    /// `None` = the request lacks what is hashed: any endpoint will do.
    pub hash: Option<u64>,
    /// A cookie for the client, so that it comes back to the same endpoint.
    pub set_cookie: Option<HeaderValue>,
}

/// What a cluster hashes; `None` where it does not.
fn key_of(cluster: &Cluster) -> Option<&HashKey> {
    match &cluster.load_balancer {
        LoadBalancer::ConsistentHash { key, table: _ } => Some(key),
        LoadBalancer::LeastRequest { choices: _ }
        | LoadBalancer::RoundRobin
        | LoadBalancer::Random
        | LoadBalancer::Passthrough => None,
    }
}

/// The hash of a request towards a cluster. `query` is the raw query without `?`.
pub fn of_request(
    cluster: &Cluster,
    headers: &HeaderMap,
    query: Option<&[u8]>,
    remote_ip: IpAddr,
    connection: &Connection,
) -> Hashed {
    let only = |hash: Option<u64>| Hashed { hash, set_cookie: None };
    let Some(key) = key_of(cluster) else { return Hashed::default() };
    match key {
        HashKey::Nothing => Hashed::default(),
        HashKey::Header { name } => only(of_header(headers, name)),
        HashKey::SourceIp => only(Some(of_ip(remote_ip))),
        HashKey::Query { name } => only(query.and_then(|query| of_query(query, name))),
        HashKey::Cookie { name, path, ttl, attributes } => match cookie(headers, name) {
            Some(value) => only(Some(hash(value))),
            None => match ttl {
                None => Hashed::default(),
                Some(ttl) => {
                    // The same for all requests of a connection: those that race get the same cookie.
                    let value = format!("{:016x}", of_connection_pair(connection));
                    let set_cookie = set_cookie(name, &value, path, ttl.as_secs(), attributes);
                    Hashed { hash: Some(hash(value.as_bytes())), set_cookie }
                }
            },
        },
    }
}

/// The hash of an opaque connection towards a cluster: by the client's address, or by nothing.
pub fn of_connection(cluster: &Cluster, connection: &Connection) -> Option<u64> {
    match key_of(cluster)? {
        HashKey::SourceIp => Some(of_ip(connection.source.ip())),
        HashKey::Nothing | HashKey::Header { name: _ } | HashKey::Cookie { .. } | HashKey::Query { name: _ } => None,
    }
}

fn of_ip(ip: IpAddr) -> u64 {
    hash(ip.to_canonical().to_string().as_bytes())
}

fn of_connection_pair(connection: &Connection) -> u64 {
    hash(format!("{}{}", connection.source, connection.destination).as_bytes())
}

/// Of several lines all count, whatever their order.
fn of_header(headers: &HeaderMap, name: &str) -> Option<u64> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(hash(first)) };
    let mut all = vec![first, second];
    all.extend(values);
    all.sort_unstable();
    Some(all.into_iter().fold(0, hash_after))
}

fn of_query(query: &[u8], name: &str) -> Option<u64> {
    query.split(|byte| *byte == b'&').find_map(|pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        (parts.next()? == name.as_bytes()).then(|| hash(parts.next().unwrap_or_default()))
    })
}

/// The value of a cookie, without the quotes around it.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers.get_all(header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).find_map(
        |pair| {
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            let is_it = parts.next()?.trim_ascii() == name.as_bytes();
            let value = parts.next()?.trim_ascii();
            let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
            (is_it && !unquoted.is_empty()).then_some(unquoted)
        },
    )
}

/// Envoy's form. `None` where the document's words cannot be a header.
fn set_cookie(
    name: &str,
    value: &str,
    path: &str,
    max_age: u64,
    attributes: &[(std::sync::Arc<str>, std::sync::Arc<str>)],
) -> Option<HeaderValue> {
    let mut text = format!("{name}=\"{value}\"");
    if max_age > 0 {
        text.push_str(&format!("; Max-Age={max_age}"));
    }
    if !path.is_empty() {
        text.push_str(&format!("; Path={path}"));
    }
    for (name, value) in attributes {
        text.push_str(&format!("; {name}"));
        if !value.is_empty() {
            text.push_str(&format!("={value}"));
        }
    }
    text.push_str("; HttpOnly");
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use palisade_model::cluster::{Discovery, HashTable};

    use super::*;
    use crate::request::{facts::Direction, testing};

    fn hashed(key: HashKey, headers: &[(&str, &str)], query: Option<&str>) -> Hashed {
        let mut cluster = testing::cluster("c", Discovery::BlackHole);
        cluster.load_balancer = LoadBalancer::ConsistentHash { key, table: HashTable::Ring { minimum_size: 1024 } };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(header::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let connection = Connection {
            direction: Direction::Outbound,
            source: "10.0.0.1:4000".parse().unwrap(),
            destination: "10.0.0.2:80".parse().unwrap(),
            tls: None,
        };
        of_request(&cluster, &map, query.map(str::as_bytes), "10.1.2.3".parse().unwrap(), &connection)
    }

    fn cookie_key(ttl: Option<u64>) -> HashKey {
        HashKey::Cookie {
            name: "user".into(),
            path: "/p".into(),
            ttl: ttl.map(Duration::from_secs),
            attributes: [("SameSite".into(), "Lax".into()), ("Secure".into(), "".into())].into(),
        }
    }

    #[test]
    fn each_key_hashes_its_own_part() {
        let header = HashKey::Header { name: "x-user".into() };
        assert_eq!(hashed(header.clone(), &[("x-user", "jason")], None).hash, Some(hash(b"jason")));
        assert_eq!(hashed(header.clone(), &[], None), Hashed::default());
        let both = hashed(header.clone(), &[("x-user", "a"), ("x-user", "b")], None).hash;
        assert_eq!(both, hashed(header, &[("x-user", "b"), ("x-user", "a")], None).hash);
        let query = HashKey::Query { name: "q".into() };
        assert_eq!(hashed(query.clone(), &[], Some("a=1&q=2&q=3")).hash, Some(hash(b"2")));
        assert_eq!(hashed(query, &[], Some("qq=1")).hash, None);
        assert_eq!(hashed(HashKey::SourceIp, &[], None).hash, Some(hash(b"10.1.2.3")));
        assert_eq!(hashed(HashKey::Nothing, &[], None).hash, None);
    }

    #[test]
    fn a_cookie_is_hashed_or_made() {
        let sent = [("cookie", "a=b; user=\"x\"")];
        assert_eq!(hashed(cookie_key(Some(60)), &sent, None), Hashed { hash: Some(hash(b"x")), set_cookie: None });
        assert_eq!(hashed(cookie_key(None), &[], None), Hashed::default());
        let made = hashed(cookie_key(Some(60)), &[], None);
        let text = made.set_cookie.unwrap().to_str().unwrap().to_owned();
        let value = text.strip_prefix("user=\"").unwrap().split('"').next().unwrap().to_owned();
        assert_eq!(text, format!("user=\"{value}\"; Max-Age=60; Path=/p; SameSite=Lax; Secure; HttpOnly"));
        // Sent back, it leads to the same endpoint.
        let again = hashed(cookie_key(Some(60)), &[("cookie", &format!("user=\"{value}\""))], None);
        assert_eq!(again.hash, made.hash);
        assert!(!hashed(cookie_key(Some(0)), &[], None).set_cookie.unwrap().to_str().unwrap().contains("Max-Age"));
    }
}
