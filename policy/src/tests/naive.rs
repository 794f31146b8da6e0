//! The documented meaning of AuthorizationPolicy, written down once more as plainly as can be: no Cedar, no index, no shared code.

use std::{collections::BTreeMap, net::IpAddr};

use super::facts::{Plain, PlainHttp};
use crate::{Condition, Operation, RuleAction, RuleSpec, Source};

/// How often each field held and did not.
pub(super) type Coverage = BTreeMap<String, [usize; 2]>;

pub(super) fn decide(rules: &[RuleSpec], domains: &[&str], plain: &Plain, coverage: &mut Coverage) -> bool {
    let mut matching = |action: RuleAction| {
        rules.iter().filter(|r| r.action == action).map(|r| matches(r, domains, plain, coverage)).filter(|m| *m).count()
            > 0
    };
    if matching(RuleAction::Deny) {
        return false;
    }
    let is_allowed = matching(RuleAction::Allow);
    is_allowed || !rules.iter().any(|r| r.action == RuleAction::Allow)
}

struct Eye<'a> {
    plain: &'a Plain,
    domains: &'a [&'a str],
    namespace: &'a str,
    coverage: &'a mut Coverage,
}

/// What a field came to on this layer.
enum Field {
    Holds(bool),
    HttpOnly,
}

fn matches(rule: &RuleSpec, domains: &[&str], plain: &Plain, coverage: &mut Coverage) -> bool {
    let mut eye = Eye { plain, domains, namespace: &rule.namespace, coverage };
    let mut has_http_only = false;
    let mut all = |fields: Vec<Field>| {
        let mut holds = true;
        for field in fields {
            match field {
                Field::Holds(value) => holds &= value,
                Field::HttpOnly => has_http_only = true,
            }
        }
        holds
    };
    let mut from_holds = rule.from.is_none();
    for source in rule.from.iter().flatten() {
        from_holds |= all(eye.source(source));
    }
    let mut to_holds = rule.to.is_none();
    for operation in rule.to.iter().flatten() {
        to_holds |= all(eye.operation(operation));
    }
    let mut when_holds = true;
    for condition in &rule.when {
        when_holds &= all(eye.condition(condition));
    }
    if has_http_only && rule.action == RuleAction::Allow {
        return false;
    }
    from_holds && to_holds && when_holds
}

impl Eye<'_> {
    fn field(
        &mut self,
        name: &str,
        values: &[String],
        is_negated: bool,
        test: impl Fn(&Plain, &str) -> bool,
        out: &mut Vec<Field>,
    ) {
        if values.is_empty() {
            return;
        }
        let any = values.iter().any(|value| test(self.plain, value));
        self.coverage.entry(name.to_owned()).or_default()[usize::from(any)] += 1;
        out.push(Field::Holds(any != is_negated));
    }

    fn http_field(
        &mut self,
        name: &str,
        values: &[String],
        is_negated: bool,
        test: impl Fn(&PlainHttp, &str) -> bool,
        out: &mut Vec<Field>,
    ) {
        if values.is_empty() {
            return;
        }
        match &self.plain.http {
            None => out.push(Field::HttpOnly),
            Some(http) => {
                let any = values.iter().any(|value| test(http, value));
                self.coverage.entry(name.to_owned()).or_default()[usize::from(any)] += 1;
                out.push(Field::Holds(any != is_negated));
            }
        }
    }

    fn source(&mut self, s: &Source) -> Vec<Field> {
        let mut out = Vec::new();
        let domains: Vec<String> = self.domains.iter().map(|d| (*d).to_owned()).collect();
        let namespace = self.namespace.to_owned();
        for (values, not) in [(&s.principals, false), (&s.not_principals, true)] {
            self.field("principals", values, not, |p, v| principal(p, v, &domains), &mut out);
        }
        for (values, not) in [(&s.namespaces, false), (&s.not_namespaces, true)] {
            self.field("namespaces", values, not, namespace_matches, &mut out);
        }
        for (values, not) in [(&s.service_accounts, false), (&s.not_service_accounts, true)] {
            self.field("serviceAccounts", values, not, |p, v| service_account(p, v, &namespace), &mut out);
        }
        for (values, not) in [(&s.trust_domains, false), (&s.not_trust_domains, true)] {
            self.field("trustDomains", values, not, |p, v| trust_domain(p, v, &domains), &mut out);
        }
        for (values, not) in [(&s.ip_blocks, false), (&s.not_ip_blocks, true)] {
            self.field("ipBlocks", values, not, |p, v| in_block(p.source_ip, v), &mut out);
        }
        for (values, not) in [(&s.remote_ip_blocks, false), (&s.not_remote_ip_blocks, true)] {
            self.field("remoteIpBlocks", values, not, |p, v| in_block(remote(p), v), &mut out);
        }
        for (values, not) in [(&s.request_principals, false), (&s.not_request_principals, true)] {
            self.http_field("requestPrincipals", values, not, request_principal, &mut out);
        }
        out
    }

    fn operation(&mut self, o: &Operation) -> Vec<Field> {
        let mut out = Vec::new();
        for (values, not) in [(&o.hosts, false), (&o.not_hosts, true)] {
            self.http_field(
                "hosts",
                values,
                not,
                |h, v| simple(&h.authority.to_lowercase(), &v.to_lowercase()),
                &mut out,
            );
        }
        for (values, not) in [(&o.ports, false), (&o.not_ports, true)] {
            self.field("ports", values, not, |p, v| v == p.port.to_string(), &mut out);
        }
        for (values, not) in [(&o.methods, false), (&o.not_methods, true)] {
            self.http_field("methods", values, not, |h, v| simple(&h.method, v), &mut out);
        }
        for (values, not) in [(&o.paths, false), (&o.not_paths, true)] {
            self.http_field("paths", values, not, |h, v| path(&h.path, v), &mut out);
        }
        out
    }

    fn condition(&mut self, c: &Condition) -> Vec<Field> {
        let mut out = Vec::new();
        let domains: Vec<String> = self.domains.iter().map(|d| (*d).to_owned()).collect();
        let namespace = self.namespace.to_owned();
        let key = c.key.clone();
        for (values, not) in [(&c.values, false), (&c.not_values, true)] {
            match key.as_str() {
                "source.ip" => self.field(&key, values, not, |p, v| in_block(p.source_ip, v), &mut out),
                "remote.ip" => self.field(&key, values, not, |p, v| in_block(remote(p), v), &mut out),
                "source.namespace" => self.field(&key, values, not, namespace_matches, &mut out),
                "source.principal" => self.field(&key, values, not, |p, v| principal(p, v, &domains), &mut out),
                "source.serviceAccount" => {
                    self.field(&key, values, not, |p, v| service_account(p, v, &namespace), &mut out)
                }
                "source.trustDomain" => self.field(&key, values, not, |p, v| trust_domain(p, v, &domains), &mut out),
                "destination.ip" => self.field(&key, values, not, |p, v| in_block(p.destination_ip, v), &mut out),
                "destination.port" => self.field(&key, values, not, |p, v| v == p.port.to_string(), &mut out),
                "connection.sni" => {
                    self.field(
                        &key,
                        values,
                        not,
                        |p, v| p.is_tls && p.sni.as_ref().is_some_and(|s| simple(&s.to_lowercase(), v)),
                        &mut out,
                    );
                }
                "request.auth.principal" => self.http_field(&key, values, not, request_principal, &mut out),
                "request.auth.audiences" => self.http_field(&key, values, not, |h, v| claim(h, &["aud"], v), &mut out),
                "request.auth.presenter" => self.http_field(&key, values, not, |h, v| claim(h, &["azp"], v), &mut out),
                _ => {
                    if let Some(name) = key.strip_prefix("request.headers[").and_then(|k| k.strip_suffix(']')) {
                        self.http_field("request.headers", values, not, |h, v| header(h, name, v), &mut out);
                    } else if let Some(path) =
                        key.strip_prefix("request.auth.claims[").and_then(|k| k.strip_suffix(']'))
                    {
                        let path: Vec<&str> = path.split("][").collect();
                        self.http_field("request.auth.claims", values, not, |h, v| claim(h, &path, v), &mut out);
                    } else {
                        panic!("{key}");
                    }
                }
            }
        }
        out
    }
}

/// Exact, prefix, suffix, presence.
fn simple(text: &str, value: &str) -> bool {
    match value {
        "*" => !text.is_empty(),
        _ if value.starts_with('*') => text.ends_with(&value[1..]),
        _ if value.ends_with('*') => text.starts_with(&value[..value.len() - 1]),
        _ => text == value,
    }
}

/// A piece of a regular expression.
enum Re {
    Lit(String),
    /// `.*`, `.+`, `[^/]*`, `[^/]+`: at least so many characters; slashes or not.
    Run(usize, bool),
    Opt(Vec<Re>),
}

fn full(pieces: &[&Re], text: &[char]) -> bool {
    let Some((first, rest)) = pieces.split_first() else { return text.is_empty() };
    match first {
        Re::Lit(literal) => {
            let literal: Vec<char> = literal.chars().collect();
            text.starts_with(&literal) && full(rest, &text[literal.len()..])
        }
        Re::Run(least, slashes) => {
            (*least..=text.len()).any(|n| (*slashes || !text[..n].contains(&'/')) && full(rest, &text[n..]))
        }
        Re::Opt(inner) => {
            let with: Vec<&Re> = inner.iter().chain(rest.iter().copied()).collect();
            full(rest, text) || full(&with, text)
        }
    }
}

fn regex(pieces: &[Re], text: &str) -> bool {
    full(&pieces.iter().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
}

fn lit(text: &str) -> Re {
    Re::Lit(text.to_owned())
}

/// URI names, then DNS names, then the subject; nothing of a peer without a certificate.
fn names(plain: &Plain) -> Vec<&String> {
    plain.uris.iter().chain(&plain.dns).chain([&plain.subject]).collect()
}

fn principal(plain: &Plain, value: &str, domains: &[String]) -> bool {
    let parts: Vec<&str> = value.split('/').collect();
    let mut values = vec![value.to_owned()];
    // A star in front is a suffix, one behind is a prefix; `*` alone means every domain as it is.
    let ends = |d: &String| parts[0].starts_with('*') && d.ends_with(&parts[0][1..]);
    let starts = |d: &String| parts[0].ends_with('*') && d.starts_with(&parts[0][..parts[0].len() - 1]);
    let is_meant = |d: &String| d == parts[0] || ends(d) || starts(d);
    if parts.len() == 5 && parts[0] != "*" && (parts[0] == "cluster.local" || domains.iter().any(is_meant)) {
        values = domains.iter().filter(|d| !ends(d)).map(|d| format!("{d}/{}", parts[1..].join("/"))).collect();
        if domains.iter().any(ends) {
            values.push(value.to_owned());
        }
    }
    values.iter().any(|value| {
        names(plain).into_iter().any(|name| match value.as_str() {
            "*" => regex(&[Re::Run(1, true)], name),
            v if v.starts_with('*') => regex(&[lit("spiffe://"), Re::Run(0, true), lit(&v[1..])], name),
            v if v.ends_with('*') => name.starts_with(&format!("spiffe://{}", &v[..v.len() - 1])),
            v => *name == format!("spiffe://{v}"),
        })
    })
}

fn namespace_matches(plain: &Plain, value: &str) -> bool {
    let mut pieces = vec![Re::Run(0, true), lit("/ns/")];
    for (position, piece) in value.split('*').enumerate() {
        if position > 0 {
            pieces.push(Re::Run(0, true));
        }
        pieces.push(lit(piece));
    }
    pieces.extend([lit("/"), Re::Run(0, true)]);
    names(plain).into_iter().any(|name| regex(&pieces, name))
}

fn service_account(plain: &Plain, value: &str, own: &str) -> bool {
    let (namespace, account) = value.split_once('/').unwrap_or((own, value));
    let pieces = [
        lit("spiffe://"),
        Re::Run(1, true),
        lit(&format!("/ns/{namespace}/")),
        Re::Opt(vec![Re::Run(1, true), lit("/")]),
        lit(&format!("sa/{account}")),
        Re::Opt(vec![lit("/"), Re::Run(1, true)]),
    ];
    names(plain).into_iter().any(|name| regex(&pieces, name))
}

fn trust_domain(plain: &Plain, value: &str, domains: &[String]) -> bool {
    let values = if domains.iter().any(|d| d == value) { domains.to_vec() } else { vec![value.to_owned()] };
    values.iter().any(|value| {
        names(plain).into_iter().any(|name| match value.as_str() {
            "*" => name.starts_with("spiffe://"),
            v if v.starts_with('*') => {
                regex(&[lit("spiffe://"), Re::Run(0, false), lit(&v[1..]), lit("/"), Re::Run(0, true)], name)
            }
            v if v.ends_with('*') => {
                regex(&[lit("spiffe://"), lit(&v[..v.len() - 1]), Re::Run(0, false), lit("/"), Re::Run(0, true)], name)
            }
            v => name.starts_with(&format!("spiffe://{v}/")),
        })
    })
}

/// The client of an opaque connection is its peer.
fn remote(plain: &Plain) -> IpAddr {
    plain.http.as_ref().map_or(plain.source_ip, |h| h.remote_ip)
}

fn in_block(ip: IpAddr, block: &str) -> bool {
    let bits = |ip: IpAddr| -> (Vec<bool>, bool) {
        match ip.to_canonical() {
            IpAddr::V4(v4) => ((0..32).map(|i| u32::from(v4) >> (31 - i) & 1 == 1).collect(), true),
            IpAddr::V6(v6) => ((0..128).map(|i| u128::from(v6) >> (127 - i) & 1 == 1).collect(), false),
        }
    };
    let (address, length) =
        block.split_once('/').map_or((block, None), |(a, l)| (a, Some(l.parse::<usize>().unwrap())));
    let (ip, is_v4) = bits(ip);
    let (net, net_is_v4) = bits(address.parse().unwrap());
    let is_mapped = address.contains("::ffff:");
    let length = length.map_or(net.len(), |l| if is_mapped { l - 96 } else { l });
    is_v4 == net_is_v4 && ip[..length] == net[..length]
}

fn request_principal(http: &PlainHttp, value: &str) -> bool {
    let Some((iss, sub, _)) = &http.jwt else { return false };
    if iss.is_empty() || sub.is_empty() {
        return false;
    }
    let Some(slash) = value.rfind('/') else {
        return match value {
            "*" => true,
            v if v.starts_with('*') => sub.ends_with(&v[1..]),
            v if v.ends_with('*') => iss.starts_with(&v[..v.len() - 1]),
            _ => false,
        };
    };
    let (want_iss, want_sub) = (&value[..slash], &value[slash + 1..]);
    if value.starts_with('*') {
        simple(iss, want_iss) && (want_sub == "*" || sub == want_sub)
    } else if value.ends_with('*') {
        iss == want_iss && sub.starts_with(&want_sub[..want_sub.len() - 1])
    } else {
        iss == want_iss && sub == want_sub
    }
}

fn claim(http: &PlainHttp, path: &[&str], value: &str) -> bool {
    let Some((_, _, claims)) = &http.jwt else { return false };
    claims.iter().filter(|(p, _)| p == path).flat_map(|(_, texts)| texts).any(|text| simple(text, value))
}

fn header(http: &PlainHttp, name: &str, value: &str) -> bool {
    http.headers
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .any(|(_, line)| value == "*" || simple(line, value))
}

fn path(path: &str, value: &str) -> bool {
    let path = path.split(['?', '#']).next().unwrap();
    if !value.contains("{*}") && !value.contains("{**}") {
        return simple(path, value);
    }
    let mut pieces = Vec::new();
    for (position, segment) in value.split('/').enumerate() {
        if position > 0 {
            pieces.push(lit("/"));
        }
        pieces.push(match segment {
            "{*}" => Re::Run(1, false),
            "{**}" => Re::Run(0, true),
            literal => lit(literal),
        });
    }
    regex(&pieces, path)
}
