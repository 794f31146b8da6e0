//! The policies of the benchmarks, for each peer in its own language.

/// What the gateways' policies are.
#[derive(Debug, Clone, Copy)]
pub enum Policies {
    /// Nine that deny and one that allows.
    Ten,
    /// So many that deny, none of which is about any request, and one that allows.
    Many(usize),
}

/// Policies of our gateway.
pub(super) fn gateway_policies(which: Policies) -> String {
    let labels = "{istio: bench}";
    let Policies::Many(count) = which else { return policies("istio-system", labels, "\"8080\", \"8443\"") };
    let of = |name: &str, action: &str, rule: &str| policy("istio-system", labels, name, action, rule);
    let deny = |number: usize| {
        let rule = format!("to: [{{operation: {{methods: [DELETE], paths: [/item/{number}/*]}}}}]");
        of(&format!("deny-{number}"), "DENY", &rule)
    };
    (0..count).map(deny).collect::<String>() + &of("allow", "ALLOW", "to: [{operation: {methods: [GET, POST]}}]")
}

/// The same as filters of Envoy's gateway.
pub(super) fn envoy_gateway_policies(which: Policies) -> String {
    let Policies::Many(count) = which else { return envoy_policies() };
    let deny = |number: usize| {
        let rules = all(&[method("DELETE"), path(&format!("{{prefix: /item/{number}/}}"))]);
        envoy_policy(&format!("deny-{number}"), &rules, ANY)
    };
    let allowed = envoy_policy("allow", &either(&[method("GET"), method("POST")]), ANY);
    filter("DENY", &(0..count).map(deny).collect::<String>()) + &filter("ALLOW", &allowed)
}

/// Nine policies that deny what the load never is, and one that allows it.
///
/// `ports`, if any, are those that carry HTTP; on the others nothing is denied, as far as bytes can be judged.
pub(super) fn policies(namespace: &str, labels: &str, ports: &str) -> String {
    let rules = [
        "to: [{operation: {paths: [/admin/*]PORTS}}]",
        "to: [{operation: {methods: [DELETE], paths: [/svc1/*]PORTS}}]",
        "from: [{source: {ipBlocks: [203.0.113.0/24]}}]",
        "to: [{operation: {paths: [/*]PORTS}}]\n    when: [{key: \"request.headers[x-blocked]\", values: [\"yes\"]}]",
        "to: [{operation: {paths: [/internal/*, \"*/debug\"]PORTS}}]",
        "to: [{operation: {hosts: [evil.example.com]PORTS}}]",
        "to: [{operation: {methods: [TRACE, CONNECT]PORTS}}]",
        "to: [{operation: {paths: [/*]PORTS}}]\n    when: [{key: \"request.headers[user-agent]\", values: [\"bad*\"]}]",
        "from: [{source: {ipBlocks: [198.51.100.0/24]}}]\n    to: [{operation: {paths: [/svc3/private/*]PORTS}}]",
    ];
    let policy = |name: &str, action: &str, rule: &str| policy(namespace, labels, name, action, rule);
    let mut text: String =
        rules.iter().enumerate().map(|(number, rule)| policy(&format!("deny-{number}"), "DENY", rule)).collect();
    if !ports.is_empty() {
        text.push_str(&policy("allow-bytes", "ALLOW", "to: [{operation: {notPorts: [PORTS_ONLY]}}]"));
    }
    text.push_str(&policy("allow", "ALLOW", "to: [{operation: {methods: [GET, POST]PORTS}}]"));
    let only = if ports.is_empty() { String::new() } else { format!(", ports: [{ports}]") };
    text.replace("PORTS_ONLY", ports).replace("PORTS", &only)
}

fn policy(namespace: &str, labels: &str, name: &str, action: &str, rule: &str) -> String {
    format!(
        "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {labels}}}
  action: {action}
  rules:
  - {rule}
"
    )
}

/// The same as Envoy's filters, in the way Istio writes them.
pub(super) fn envoy_policies() -> String {
    let header = |name: &str, matcher: &str| format!("[{{header: {{name: \"{name}\", string_match: {matcher}}}}}]");
    let address = |prefix: &str| format!("[{{direct_remote_ip: {{address_prefix: {prefix}, prefix_len: 24}}}}]");
    let any = ANY.to_owned();
    let deny = [
        (format!("[{}]", path("{prefix: /admin/}")), any.clone()),
        (all(&[method("DELETE"), path("{prefix: /svc1/}")]), any.clone()),
        (any.clone(), address("203.0.113.0")),
        (any.clone(), header("x-blocked", "{exact: \"yes\"}")),
        (either(&[path("{prefix: /internal/}"), path("{suffix: /debug}")]), any.clone()),
        (header(":authority", "{exact: evil.example.com, ignore_case: true}"), any.clone()),
        (either(&[method("TRACE"), method("CONNECT")]), any.clone()),
        (any.clone(), header("user-agent", "{prefix: bad}")),
        (format!("[{}]", path("{prefix: /svc3/private/}")), address("198.51.100.0")),
    ];
    let denied: String = deny
        .iter()
        .enumerate()
        .map(|(number, (permissions, principals))| envoy_policy(&format!("deny-{number}"), permissions, principals))
        .collect();
    let allowed = envoy_policy("allow", &either(&[method("GET"), method("POST")]), ANY);
    filter("DENY", &denied) + &filter("ALLOW", &allowed)
}

const ANY: &str = "[{any: true}]";

fn path(matcher: &str) -> String {
    format!("{{url_path: {{path: {matcher}}}}}")
}

fn method(name: &str) -> String {
    format!("{{header: {{name: \":method\", string_match: {{exact: {name}}}}}}}")
}

fn all(rules: &[String]) -> String {
    format!("[{{and_rules: {{rules: [{}]}}}}]", rules.join(", "))
}

fn either(rules: &[String]) -> String {
    format!("[{{or_rules: {{rules: [{}]}}}}]", rules.join(", "))
}

fn envoy_policy(name: &str, permissions: &str, principals: &str) -> String {
    format!("        {name}:\n          permissions: {permissions}\n          principals: {principals}\n")
}

fn filter(action: &str, policies: &str) -> String {
    format!(
        "- name: envoy.filters.http.rbac
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
    rules:
      action: {action}
      policies:
{policies}"
    )
}

pub(super) const HAPROXY_POLICIES: &str = "  http-request deny if { path_beg /admin/ }
  http-request deny if METH_DELETE { path_beg /svc1/ }
  http-request deny if { src 203.0.113.0/24 }
  http-request deny if { req.hdr(x-blocked) yes }
  http-request deny if { path_beg /internal/ } or { path_end /debug }
  http-request deny if { req.hdr(host) -i evil.example.com }
  http-request deny if { method TRACE CONNECT }
  http-request deny if { req.hdr(user-agent) -m beg bad }
  http-request deny if { src 198.51.100.0/24 } { path_beg /svc3/private/ }
  http-request deny unless { method GET POST }
";
