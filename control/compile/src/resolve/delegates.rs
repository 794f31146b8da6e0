//! A delegate's rule under its root's: conditions narrowed, what the delegate leaves open filled in.

use std::collections::BTreeMap;

use palisade_crds::istio::{HttpMatchRequest, HttpRoute, StringMatch};

/// The delegate's rule as the root lets it be; `None` when none of its alternatives is a subset of one of the root's
/// (`mergeHTTPRoute`).
pub(crate) fn merge(root: &HttpRoute, delegate: &HttpRoute) -> Option<HttpRoute> {
    let r#match = merge_alternatives(&root.r#match, &delegate.r#match)?;
    let mut merged = delegate.clone();
    merged.r#match = r#match;
    merged.delegate = None;
    merged.name = joined(&root.name, &delegate.name);
    merged.rewrite = merged.rewrite.or_else(|| root.rewrite.clone());
    merged.direct_response = merged.direct_response.or_else(|| root.direct_response.clone());
    merged.timeout = merged.timeout.or(root.timeout);
    merged.retries = merged.retries.or_else(|| root.retries.clone());
    merged.fault = merged.fault.or_else(|| root.fault.clone());
    merged.mirror = merged.mirror.or_else(|| root.mirror.clone());
    merged.mirror_percent = merged.mirror_percent.or(root.mirror_percent);
    merged.mirror_percent_proto = merged.mirror_percent_proto.or(root.mirror_percent_proto);
    merged.mirror_percentage = merged.mirror_percentage.or_else(|| root.mirror_percentage.clone());
    if merged.mirrors.is_empty() {
        merged.mirrors.clone_from(&root.mirrors);
    }
    merged.cors_policy = merged.cors_policy.or_else(|| root.cors_policy.clone());
    merged.headers = merged.headers.or_else(|| root.headers.clone());
    Some(merged)
}

fn joined(root: &str, delegate: &str) -> String {
    match (root.is_empty(), delegate.is_empty()) {
        (_, true) => root.to_owned(),
        (true, false) => delegate.to_owned(),
        (false, false) => format!("{root}-{delegate}"),
    }
}

fn merge_alternatives(root: &[HttpMatchRequest], delegate: &[HttpMatchRequest]) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() {
        return Some(delegate.to_vec());
    }
    if delegate.is_empty() {
        return Some(root.to_vec());
    }
    let mut merged = Vec::new();
    for inner in delegate {
        let before = merged.len();
        merged
            .extend(root.iter().filter(|outer| !conflicts(outer, inner)).map(|outer| merge_alternative(outer, inner)));
        if merged.len() == before {
            return None;
        }
    }
    Some(merged)
}

fn merge_alternative(root: &HttpMatchRequest, delegate: &HttpMatchRequest) -> HttpMatchRequest {
    let mut merged = delegate.clone();
    merged.name = joined(&root.name, &delegate.name);
    merged.uri = merged.uri.or_else(|| root.uri.clone());
    merged.scheme = merged.scheme.or_else(|| root.scheme.clone());
    merged.method = merged.method.or_else(|| root.method.clone());
    merged.authority = merged.authority.or_else(|| root.authority.clone());
    fill(&mut merged.headers, &root.headers);
    fill(&mut merged.without_headers, &root.without_headers);
    fill(&mut merged.query_params, &root.query_params);
    fill(&mut merged.source_labels, &root.source_labels);
    merged.port = merged.port.or(root.port);
    if merged.source_namespace.is_empty() {
        merged.source_namespace.clone_from(&root.source_namespace);
    }
    if merged.gateways.is_empty() {
        merged.gateways.clone_from(&root.gateways);
    }
    merged
}

fn fill<V: Clone>(merged: &mut BTreeMap<String, V>, root: &BTreeMap<String, V>) {
    for (key, value) in root {
        merged.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

fn conflicts(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> bool {
    let texts = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let maps = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    let narrower = |gateways: &[String], of: &[String]| {
        gateways.is_empty() || of.is_empty() || (of.len() >= gateways.len() && gateways.iter().all(|g| of.contains(g)))
    };
    texts.into_iter().any(|(root, leaf)| text_conflicts(root.as_ref(), leaf.as_ref()))
        || maps
            .into_iter()
            .any(|(root, leaf)| leaf.iter().any(|(key, value)| text_conflicts(root.get(key), Some(value))))
        || root.ignore_uri_case != leaf.ignore_uri_case
        || matches!((root.port, leaf.port), (Some(root), Some(leaf)) if root != leaf)
        || (!root.source_namespace.is_empty() && leaf.source_namespace != root.source_namespace)
        || leaf.source_labels.iter().any(|(key, value)| root.source_labels.get(key).is_some_and(|v| v != value))
        || !narrower(&leaf.gateways, &root.gateways)
}

/// Whether `leaf` may match what `root` does not. An expression on either side excludes every other condition.
fn text_conflicts(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
    let (Some(root), Some(leaf)) = (root, leaf) else { return false };
    match (root, leaf) {
        (StringMatch::Exact(root), StringMatch::Exact(leaf)) => leaf != root,
        (StringMatch::Prefix(root), StringMatch::Exact(leaf) | StringMatch::Prefix(leaf)) => {
            !leaf.starts_with(root.as_str())
        }
        (StringMatch::Exact(_) | StringMatch::Prefix(_) | StringMatch::Regex(_) | StringMatch::Present, _) => true,
    }
}
