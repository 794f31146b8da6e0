//! AuthorizationPolicy.

use super::host::{is_cidr, is_ip};
use super::policy_target;
use crate::codes::Code;
use crate::istio::{Action, AuthorizationPolicy, Condition, Operation, Rule, RuleEntry, Source};
use crate::schema::{Cursor, nearest};

const CODE: Code = Code::AuthorizationRule;

pub(super) fn check(policy: &AuthorizationPolicy, cursor: &mut Cursor<'_>) {
    policy_target::selector(policy.selector.as_ref(), cursor);
    policy_target::targets(policy.target_ref.as_ref(), &policy.target_refs, CODE, cursor);
    match policy.action {
        Action::Custom | Action::Deny if policy.has_no_rules() => {
            let action = policy.action.as_str();
            cursor.report_at(
                "rules",
                CODE,
                format!("{action} without rules never matches; an empty rule `{{}}` matches every request"),
            );
        }
        Action::Custom if policy.provider.as_ref().is_none_or(|provider| provider.name.is_empty()) => {
            cursor.report_at("provider", CODE, "`provider.name` must not be empty");
        }
        _ => {}
    }
    if policy.provider.is_some() && policy.action != Action::Custom {
        cursor.report_at(
            "provider",
            CODE,
            format!("`provider` must not be set with action {}", policy.action.as_str()),
        );
    }
    cursor.within("rules", |cursor| {
        for (index, entry) in policy.rules() {
            if let RuleEntry::Rule(rule) = entry {
                cursor.within(index, |cursor| check_rule(policy.action, rule, cursor));
            }
        }
    });
}

fn check_rule(action: Action, rule: &Rule, cursor: &mut Cursor<'_>) {
    for (field, is_empty) in
        [("from", rule.from.as_ref().is_some_and(Vec::is_empty)), ("to", rule.to.as_ref().is_some_and(Vec::is_empty))]
    {
        if is_empty {
            cursor.report_at(field, CODE, format!("`{field}` must not be empty"));
        }
    }
    cursor.within("from", |cursor| {
        for (index, from) in rule.from.iter().flatten().enumerate() {
            cursor.within(index, |cursor| cursor.within("source", |cursor| check_source(action, &from.source, cursor)));
        }
    });
    cursor.within("to", |cursor| {
        for (index, to) in rule.to.iter().flatten().enumerate() {
            cursor.within(index, |cursor| cursor.within("operation", |cursor| check_operation(&to.operation, cursor)));
        }
    });
    cursor.within("when", |cursor| {
        for (index, condition) in rule.when.iter().enumerate() {
            cursor.within(index, |cursor| check_condition(action, condition, cursor));
        }
    });
    if action == Action::Deny && has_only_http_fields(rule) {
        cursor.report(Code::AuthorizationWarning, "on TCP ports the HTTP fields do not count, so this DENY rule refuses all their traffic; name the HTTP ports in `to`");
    }
}

/// Istio's own reckoning: a DENY rule that on TCP would be left without a condition.
fn has_only_http_fields(rule: &Rule) -> bool {
    let tcp_from = rule.from.iter().flatten().any(|from| {
        let Source {
            principals,
            not_principals,
            request_principals: _,
            not_request_principals: _,
            namespaces,
            not_namespaces,
            service_accounts,
            not_service_accounts,
            trust_domains: _,
            not_trust_domains: _,
            ip_blocks,
            not_ip_blocks,
            remote_ip_blocks,
            not_remote_ip_blocks,
        } = &from.source;
        let fields = [
            principals,
            not_principals,
            namespaces,
            not_namespaces,
            service_accounts,
            not_service_accounts,
            ip_blocks,
            not_ip_blocks,
            remote_ip_blocks,
            not_remote_ip_blocks,
        ];
        fields.iter().any(|values| !values.is_empty())
    });
    let tcp_to =
        rule.to.iter().flatten().any(|to| !to.operation.ports.is_empty() || !to.operation.not_ports.is_empty());
    let (has_from, has_to) = (rule.from.iter().flatten().next().is_some(), rule.to.iter().flatten().next().is_some());
    (has_from && !has_to && !tcp_from) || (has_to && !tcp_to)
}

fn check_source(action: Action, source: &Source, cursor: &mut Cursor<'_>) {
    let Source {
        principals,
        not_principals,
        request_principals,
        not_request_principals,
        namespaces,
        not_namespaces,
        service_accounts,
        not_service_accounts,
        trust_domains,
        not_trust_domains,
        ip_blocks,
        not_ip_blocks,
        remote_ip_blocks,
        not_remote_ip_blocks,
    } = source;
    let identities = [
        ("principals", principals),
        ("notPrincipals", not_principals),
        ("requestPrincipals", request_principals),
        ("notRequestPrincipals", not_request_principals),
        ("namespaces", namespaces),
        ("notNamespaces", not_namespaces),
        ("serviceAccounts", service_accounts),
        ("notServiceAccounts", not_service_accounts),
        ("trustDomains", trust_domains),
        ("notTrustDomains", not_trust_domains),
    ];
    let addresses = [
        ("ipBlocks", ip_blocks),
        ("notIpBlocks", not_ip_blocks),
        ("remoteIpBlocks", remote_ip_blocks),
        ("notRemoteIpBlocks", not_remote_ip_blocks),
    ];
    if identities.iter().chain(&addresses).all(|(_, values)| values.is_empty()) {
        cursor.report(CODE, "`source` must not be empty");
    }
    for (field, values) in identities {
        each(field, values, not_empty, cursor);
        if action == Action::Custom && !values.is_empty() {
            cursor.report_at(field, CODE, format!("`{field}` is not supported with action CUSTOM"));
        }
    }
    for (field, values) in addresses {
        each(field, values, address, cursor);
    }
    for (field, values) in [("serviceAccounts", service_accounts), ("notServiceAccounts", not_service_accounts)] {
        each(field, values, service_account, cursor);
    }
    for (field, values) in [("trustDomains", trust_domains), ("notTrustDomains", not_trust_domains)] {
        each(field, values, trust_domain, cursor);
    }
}

fn check_operation(operation: &Operation, cursor: &mut Cursor<'_>) {
    let Operation { hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths } = operation;
    let fields = [
        ("hosts", hosts),
        ("notHosts", not_hosts),
        ("ports", ports),
        ("notPorts", not_ports),
        ("methods", methods),
        ("notMethods", not_methods),
        ("paths", paths),
        ("notPaths", not_paths),
    ];
    if fields.iter().all(|(_, values)| values.is_empty()) {
        cursor.report(CODE, "`operation` must not be empty");
    }
    for (field, values) in fields {
        each(field, values, not_empty, cursor);
    }
    for (field, values) in [("ports", ports), ("notPorts", not_ports)] {
        each(field, values, port, cursor);
    }
    for (field, values) in [("paths", paths), ("notPaths", not_paths)] {
        each(field, values, path_template, cursor);
    }
}

fn check_condition(action: Action, condition: &Condition, cursor: &mut Cursor<'_>) {
    let Condition { key, values, not_values } = condition;
    if key.is_empty() {
        cursor.report_at("key", CODE, "`key` must not be empty");
        return;
    }
    let is_identity = matches!(
        key.as_str(),
        "source.namespace" | "source.serviceAccount" | "source.trustDomain" | "source.principal"
    );
    if action == Action::Custom && (is_identity || key.starts_with("request.auth.")) {
        cursor.report_at("key", CODE, format!("`{key}` is not supported with action CUSTOM"));
    }
    if values.is_empty() && not_values.is_empty() {
        cursor.report(CODE, format!("`values` or `notValues` must be set for key `{key}`"));
        return;
    }
    match attribute(key) {
        Err(message) => cursor.report_at("key", CODE, message),
        Ok(check) => {
            for (field, values) in [("values", values), ("notValues", not_values)] {
                each(field, values, not_empty, cursor);
                if let Some(check) = check {
                    each(field, values, check, cursor);
                }
            }
        }
    }
}

type ValueCheck = fn(&str) -> Result<(), String>;

/// Keys of conditions, as far as they are fixed.
const ATTRIBUTES: [&str; 15] = [
    "request.headers",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.claims",
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "destination.ip",
    "destination.port",
    "connection.sni",
    "experimental.envoy.filters",
];

/// How the values of an attribute are checked; the error says what is wrong with the key.
fn attribute(key: &str) -> Result<Option<ValueCheck>, String> {
    let is_indexed = key.ends_with(']') && key.find('[').is_some_and(|open| open > 0 && open + 2 < key.len());
    let indexed = || if is_indexed { Ok(None) } else { Err(format!("`{key}` must have the form `a[b]`")) };
    match key {
        _ if key.starts_with("request.headers") => indexed(),
        "source.ip" | "remote.ip" | "destination.ip" => Ok(Some(address)),
        "source.serviceAccount" => Ok(Some(service_account)),
        "source.trustDomain" => Ok(Some(wildcard)),
        "destination.port" => Ok(Some(port)),
        "source.namespace"
        | "source.principal"
        | "request.auth.principal"
        | "request.auth.audiences"
        | "request.auth.presenter"
        | "connection.sni" => Ok(None),
        _ if key.starts_with("request.auth.claims") || key.starts_with("experimental.envoy.filters.") => indexed(),
        "destination.namespace" => Err(format!("`{key}` is replaced by the policy's namespace")),
        _ if key.starts_with("destination.labels") => Err(format!("`{key}` is replaced by the selector")),
        "destination.name" | "destination.user" => Err(format!("`{key}` is no longer supported")),
        _ => {
            let name = key.split('[').next().unwrap_or_default();
            let hint = nearest(name, &ATTRIBUTES).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            Err(format!("`{key}` is not a known attribute{hint}"))
        }
    }
}

fn each(field: &str, values: &[String], check: ValueCheck, cursor: &mut Cursor<'_>) {
    cursor.within(field, |cursor| {
        for (index, value) in values.iter().enumerate() {
            if let Err(message) = check(value) {
                cursor.report_at(index, CODE, message);
            }
        }
    });
}

fn not_empty(value: &str) -> Result<(), String> {
    if value.is_empty() { Err("an empty value is not allowed".to_owned()) } else { Ok(()) }
}

fn address(value: &str) -> Result<(), String> {
    let is_valid = if value.contains('/') { is_cidr(value) } else { is_ip(value) };
    if is_valid { Ok(()) } else { Err(format!("`{value}` is neither an address nor a CIDR")) }
}

/// 0 to 65535, as Istio has it.
fn port(value: &str) -> Result<(), String> {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    if (is_number && value.parse::<u32>().is_ok_and(|port| port <= 65535)) || value.is_empty() {
        return Ok(());
    }
    Err(format!("`{value}` is not a port number"))
}

fn service_account(value: &str) -> Result<(), String> {
    if value.contains('*') {
        return Err("a wildcard is not allowed".to_owned());
    }
    let mut parts = value.split('/');
    let is_valid = match (parts.next(), parts.next(), parts.next()) {
        (Some(_), None, None) => true,
        (Some(namespace), Some(name), None) => !namespace.is_empty() && !name.is_empty(),
        _ => false,
    };
    if is_valid { Ok(()) } else { Err(format!("`{value}` is not of the form `name` or `namespace/name`")) }
}

fn wildcard(value: &str) -> Result<(), String> {
    match value.matches('*').count() {
        0 => Ok(()),
        1 if value.starts_with('*') || value.ends_with('*') => Ok(()),
        1 => Err(format!("`{value}` has a wildcard that is neither at the start nor at the end")),
        _ => Err(format!("`{value}` has more than one wildcard")),
    }
}

fn trust_domain(value: &str) -> Result<(), String> {
    if value.contains('/') {
        return Err(format!("`{value}` is not a trust domain: it contains `/`"));
    }
    wildcard(value)
}

/// `{*}` is one segment, `{**}` any number of them and the last operator; other braces are not allowed.
fn path_template(path: &str) -> Result<(), String> {
    let is_template = path.contains("{*}") || path.contains("{**}");
    let mut has_rest = false;
    for segment in path.trim_matches('/').split('/') {
        match segment {
            "{*}" | "{**}" if has_rest => return Err(format!("`{path}`: `{{**}}` must be the last operator")),
            "{*}" => {}
            "{**}" => has_rest = true,
            _ if segment.contains(['{', '}']) => return Err(format!("`{path}` has a brace that is no operator")),
            _ if is_template && !is_literal(segment) => {
                return Err(format!("`{path}`: `{segment}` is not a literal path segment"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_literal(segment: &str) -> bool {
    !segment.is_empty()
        && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte))
}
