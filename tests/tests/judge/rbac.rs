//! A small translator for tests only: rules of AuthorizationPolicies as the configuration of Envoy's RBAC filters that Istio documents.
//!
//! It knows nothing of Palisade's engine: no Cedar, no index, no shared parsing.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::{Condition, Operation, RuleAction, RuleSpec, Source};

/// The `rules` of Envoy's two filters; `None`: the filter is not there.
#[derive(Debug, Clone)]
pub(crate) struct Filters {
    pub deny: Option<Value>,
    pub allow: Option<Value>,
}

/// What a filter chain reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    Http,
    Tcp,
}

/// The filters of a workload that these rules' policies select.
pub(crate) fn filters(rules: &[RuleSpec], domains: &[&str], layer: Layer) -> Filters {
    let of = |action: RuleAction, word: &str| {
        let mut chosen = rules.iter().filter(|rule| rule.action == action).peekable();
        chosen.peek()?;
        let policies: serde_json::Map<String, Value> = chosen
            .filter_map(|rule| Some((rule.id.to_string(), Translator { rule, domains, layer }.policy()?)))
            .collect();
        Some(json!({ "action": word, "policies": policies }))
    };
    Filters { deny: of(RuleAction::Deny, "DENY"), allow: of(RuleAction::Allow, "ALLOW") }
}

/// The two halves of an RBAC policy have the same shapes under different names.
#[derive(Clone, Copy)]
struct Half {
    and: &'static str,
    or: &'static str,
    list: &'static str,
    not: &'static str,
}

const PRINCIPAL: Half = Half { and: "and_ids", or: "or_ids", list: "ids", not: "not_id" };
const PERMISSION: Half = Half { and: "and_rules", or: "or_rules", list: "rules", not: "not_rule" };

impl Half {
    fn joined(self, how: &str, parts: Vec<Value>) -> Value {
        if parts.is_empty() { json!({ "any": true }) } else { json!({ how: { self.list: parts } }) }
    }
}

/// Tests of one field: on this layer, or gone with what Istio does about it.
type Tests = Option<Vec<Value>>;

struct Translator<'a> {
    rule: &'a RuleSpec,
    domains: &'a [&'a str],
    layer: Layer,
}

impl Translator<'_> {
    /// `None`: Istio leaves the whole rule out.
    fn policy(&self) -> Option<Value> {
        let (mut asks, mut who) = (Vec::new(), Vec::new());
        for condition in &self.rule.when {
            let (half, tests) = self.condition(condition)?;
            if half.and == PRINCIPAL.and { who.extend(tests) } else { asks.extend(tests) }
        }
        let principals = match &self.rule.from {
            None => vec![PRINCIPAL.joined(PRINCIPAL.and, who)],
            Some(sources) => {
                let each = sources
                    .iter()
                    .map(|source| Some(PRINCIPAL.joined(PRINCIPAL.and, [self.source(source)?, who.clone()].concat())));
                each.collect::<Option<_>>()?
            }
        };
        let permissions = match &self.rule.to {
            None => vec![PERMISSION.joined(PERMISSION.and, asks)],
            Some(operations) => {
                let each = operations.iter().map(|operation| {
                    Some(PERMISSION.joined(PERMISSION.and, [self.operation(operation)?, asks.clone()].concat()))
                });
                each.collect::<Option<_>>()?
            }
        };
        Some(json!({ "principals": principals, "permissions": permissions }))
    }

    /// One field: any of `values`, or none of them.
    fn field(&self, half: Half, values: [&[String]; 2], test: impl Fn(&str) -> Value) -> Vec<Value> {
        let mut tests = Vec::new();
        for (values, is_negated) in values.into_iter().zip([false, true]) {
            if values.is_empty() {
                continue;
            }
            let any = half.joined(half.or, values.iter().map(|value| test(value)).collect());
            tests.push(if is_negated { json!({ half.not: any }) } else { any });
        }
        tests
    }

    /// A field of HTTP: on TCP an ALLOW rule falls with it, any other rule goes on without it.
    fn http(&self, half: Half, values: [&[String]; 2], test: impl Fn(&str) -> Value) -> Tests {
        match self.layer {
            Layer::Http => Some(self.field(half, values, test)),
            Layer::Tcp if values.iter().all(|values| values.is_empty()) => Some(Vec::new()),
            Layer::Tcp if self.rule.action == RuleAction::Allow => None,
            Layer::Tcp => Some(Vec::new()),
        }
    }

    fn source(&self, s: &Source) -> Tests {
        let peer = |values: [&[String]; 2], test: &dyn Fn(&str) -> Value| self.field(PRINCIPAL, values, test);
        let mut tests = peer([&s.principals, &s.not_principals], &|value| self.principal(value));
        tests.extend(peer([&s.namespaces, &s.not_namespaces], &namespace));
        tests.extend(peer([&s.service_accounts, &s.not_service_accounts], &|value| self.service_account(value)));
        tests.extend(peer([&s.trust_domains, &s.not_trust_domains], &|value| self.trust_domain(value)));
        tests.extend(peer([&s.ip_blocks, &s.not_ip_blocks], &|value| json!({ "source_ip": cidr(value) })));
        tests.extend(peer([&s.remote_ip_blocks, &s.not_remote_ip_blocks], &|v| json!({ "remote_ip": cidr(v) })));
        tests.extend(self.http(PRINCIPAL, [&s.request_principals, &s.not_request_principals], request_principal)?);
        Some(tests)
    }

    fn operation(&self, o: &Operation) -> Tests {
        let mut tests = self.http(PERMISSION, [&o.hosts, &o.not_hosts], |value| header(":authority", value, true))?;
        tests.extend(self.http(PERMISSION, [&o.methods, &o.not_methods], |value| header(":method", value, false))?);
        tests.extend(self.http(PERMISSION, [&o.paths, &o.not_paths], path)?);
        tests.extend(self.field(PERMISSION, [&o.ports, &o.not_ports], port));
        Some(tests)
    }

    fn condition(&self, c: &Condition) -> Option<(Half, Vec<Value>)> {
        let values: [&[String]; 2] = [&c.values, &c.not_values];
        let peer = |test: &dyn Fn(&str) -> Value| Some((PRINCIPAL, self.field(PRINCIPAL, values, test)));
        let asks = |test: &dyn Fn(&str) -> Value| Some((PERMISSION, self.field(PERMISSION, values, test)));
        let http = |test: &dyn Fn(&str) -> Value| Some((PRINCIPAL, self.http(PRINCIPAL, values, test)?));
        match c.key.as_str() {
            "source.ip" => peer(&|value| json!({ "source_ip": cidr(value) })),
            "remote.ip" => peer(&|value| json!({ "remote_ip": cidr(value) })),
            "source.namespace" => peer(&namespace),
            "source.principal" => peer(&|value| self.principal(value)),
            "source.serviceAccount" => peer(&|value| self.service_account(value)),
            "source.trustDomain" => peer(&|value| self.trust_domain(value)),
            "destination.ip" => asks(&|value| json!({ "destination_ip": cidr(value) })),
            "destination.port" => asks(&port),
            "connection.sni" => asks(&|value| json!({ "requested_server_name": text(value, false) })),
            "request.auth.principal" => http(&request_principal),
            "request.auth.audiences" => http(&|value| claim(&["aud"], value)),
            "request.auth.presenter" => http(&|value| claim(&["azp"], value)),
            key => {
                let (kind, inner) = key.strip_suffix(']').and_then(|key| key.split_once('[')).unwrap();
                match kind {
                    "request.headers" => http(&|value| header(inner, value, false)),
                    "request.auth.claims" => http(&|value| claim(&inner.split("][").collect::<Vec<_>>(), value)),
                    _ => panic!("no such key: {key}"),
                }
            }
        }
    }

    fn principal(&self, value: &str) -> Value {
        let names = self.aliases(value).unwrap_or_else(|| vec![value.to_owned()]);
        any_name(names.iter().map(|name| match name.as_str() {
            "*" => regex(".+".to_owned()),
            name if name.starts_with('*') => regex(format!("spiffe://.*{}", quoted(&name[1..]))),
            name if name.ends_with('*') => json!({ "prefix": format!("spiffe://{}", &name[..name.len() - 1]) }),
            name => json!({ "exact": format!("spiffe://{name}") }),
        }))
    }

    /// The principal once for each of the mesh's trust domains, where its own domain is one of those; a domain that ends a pattern stays
    /// as it is written.
    fn aliases(&self, value: &str) -> Option<Vec<String>> {
        let (domain, rest) = value.split_once('/')?;
        let ends = |own: &str| domain.strip_prefix('*').is_some_and(|end| own.ends_with(end));
        let begins = |own: &str| domain.strip_suffix('*').is_some_and(|start| own.starts_with(start));
        let is_own = |own: &&str| domain == *own || ends(own) || begins(own);
        if domain == "*" || rest.split('/').count() != 4 {
            return None;
        }
        if domain != "cluster.local" && !self.domains.iter().any(is_own) {
            return None;
        }
        Some(
            self.domains.iter().map(|own| if ends(own) { value.to_owned() } else { format!("{own}/{rest}") }).collect(),
        )
    }

    fn service_account(&self, value: &str) -> Value {
        let (namespace, account) = value.split_once('/').unwrap_or((&self.rule.namespace, value));
        let (namespace, account) = (quoted(namespace), quoted(account));
        any_name([regex(format!("spiffe://.+/ns/{namespace}/(.+/)?sa/{account}(/.+)?"))])
    }

    fn trust_domain(&self, value: &str) -> Value {
        let domains = if self.domains.contains(&value) { self.domains.to_vec() } else { vec![value] };
        any_name(domains.into_iter().map(|domain| match domain {
            "*" => regex("spiffe://.*".to_owned()),
            d if d.starts_with('*') => regex(format!("spiffe://[^/]*{}/.*", quoted(&d[1..]))),
            d if d.ends_with('*') => regex(format!("spiffe://{}[^/]*/.*", quoted(&d[..d.len() - 1]))),
            d => json!({ "prefix": format!("spiffe://{d}/") }),
        }))
    }
}

fn any_name(names: impl IntoIterator<Item = Value>) -> Value {
    let each = names.into_iter().map(|name| json!({ "authenticated": { "principal_name": name } }));
    PRINCIPAL.joined(PRINCIPAL.or, each.collect())
}

fn namespace(value: &str) -> Value {
    let pieces: Vec<String> = value.split('*').map(quoted).collect();
    any_name([regex(format!(".*/ns/{}/.*", pieces.join(".*")))])
}

fn regex(regex: String) -> Value {
    json!({ "safe_regex": { "regex": regex } })
}

/// What RE2 would read as more than itself gets a backslash.
fn quoted(text: &str) -> String {
    text.chars().flat_map(|c| [(r"\.+*?()|[]{}^$".contains(c)).then_some('\\'), Some(c)]).flatten().collect()
}

/// Exact, `p*`, `*s`, and `*` for anything but nothing.
fn text(value: &str, ignores_case: bool) -> Value {
    let mut matcher = match value {
        "*" => return regex(".+".to_owned()),
        _ if value.starts_with('*') => json!({ "suffix": value[1..] }),
        _ if value.ends_with('*') => json!({ "prefix": value[..value.len() - 1] }),
        _ => json!({ "exact": value }),
    };
    if ignores_case {
        matcher["ignore_case"] = true.into();
    }
    matcher
}

fn header(name: &str, value: &str, ignores_case: bool) -> Value {
    match value {
        "*" => json!({ "header": { "name": name, "present_match": true } }),
        _ => json!({ "header": { "name": name, "string_match": text(value, ignores_case) } }),
    }
}

fn path(value: &str) -> Value {
    if !value.contains("{*}") && !value.contains("{**}") {
        return json!({ "url_path": { "path": text(value, false) } });
    }
    json!({ "uri_template": { "name": "template", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
        "path_template": value.replace("{**}", "**").replace("{*}", "*"),
    } } })
}

fn port(value: &str) -> Value {
    json!({ "destination_port": value.parse::<u16>().unwrap() })
}

/// An IPv4 block in IPv6's clothes is written as what it means: Envoy would compare it with IPv6 addresses only.
fn cidr(value: &str) -> Value {
    let (address, length) = value.split_once('/').map_or((value, None), |(address, length)| (address, Some(length)));
    let written: IpAddr = address.parse().unwrap();
    let meant = written.to_canonical();
    let bits = if meant.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(bits, |length| length.parse::<u32>().unwrap());
    let length = if written == meant || length == bits { length } else { length - 96 };
    json!({ "address_prefix": meant.to_string(), "prefix_len": length })
}

fn claim_is(path: &[&str], value: Value) -> Value {
    let path: Vec<Value> = ["payload"].iter().chain(path).map(|key| json!({ "key": key })).collect();
    json!({ "metadata": { "filter": "envoy.filters.http.jwt_authn", "path": path, "value": value } })
}

/// A text, or a text in a list.
fn claim(path: &[&str], value: &str) -> Value {
    let matcher = text(value, false);
    let list = json!({ "list_match": { "one_of": { "string_match": matcher } } });
    claim_is(path, json!({ "or_match": { "value_matchers": [{ "string_match": matcher }, list] } }))
}

/// `ISSUER/SUBJECT`, where a star at one end of the whole value makes a pattern of that end alone.
fn request_principal(value: &str) -> Value {
    let exact = |value: &str| json!({ "exact": value });
    let pattern = |value: &str| text(value, false);
    let (issuer, subject) = match value.rsplit_once('/') {
        None if value == "*" => (pattern("*"), pattern("*")),
        None if value.starts_with('*') => (pattern("*"), pattern(value)),
        None if value.ends_with('*') => (pattern(value), pattern("*")),
        None => return json!({ "not_id": { "any": true } }),
        Some((issuer, "*")) if value.starts_with('*') => (pattern(issuer), pattern("*")),
        Some((issuer, subject)) if value.starts_with('*') => (pattern(issuer), exact(subject)),
        Some((issuer, subject)) if value.ends_with('*') => (exact(issuer), pattern(subject)),
        Some((issuer, subject)) => (exact(issuer), exact(subject)),
    };
    let is = |name: &str, matcher: Value| claim_is(&[name], json!({ "string_match": matcher }));
    PRINCIPAL.joined(PRINCIPAL.and, vec![is("iss", issuer), is("sub", subject)])
}
