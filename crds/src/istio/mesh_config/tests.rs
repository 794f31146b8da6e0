//! What counts of settings that cannot be read.

use super::*;

fn parse(text: &str) -> MeshConfig {
    let (config, issues) = MeshConfig::parse(text);
    assert!(!issues.is_empty(), "{text}");
    config.unwrap_or_else(MeshConfig::strict)
}

fn is_strict(config: &MeshConfig) -> bool {
    let strict = MeshConfig::strict();
    assert_ne!(strict.outbound_traffic_policy, MeshConfig::default().outbound_traffic_policy);
    config.outbound_traffic_policy == strict.outbound_traffic_policy
}

#[test]
fn a_bad_setting_spoils_no_other() {
    let config =
        parse("accessLogEncoding: JASON\ntrustDomain: example.org\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\n");
    assert_eq!(config.trust_domain, parse("trustDomain: example.org\naccessLogEncoding: JASON\n").trust_domain);
    assert_ne!(config.trust_domain, MeshConfig::default().trust_domain);
    assert!(is_strict(&config));
}

#[test]
fn a_bad_setting_that_guards_something_takes_its_strict_value() {
    assert!(is_strict(&parse("outboundTrafficPolicy: {mode: REGISTRY}\n")));
    let config = parse("pathNormalization: {normalization: MERGE}\n");
    assert_eq!(config.path_normalization, MeshConfig::strict().path_normalization);
    assert_ne!(config.path_normalization, MeshConfig::default().path_normalization);
}

#[test]
fn a_text_that_is_no_settings_opens_nothing() {
    for text in ["a: [", "--- {}\n--- {}\n", "5"] {
        assert!(is_strict(&parse(text)), "{text}");
    }
}

#[test]
fn what_calls_to_unknown_hosts_lose_is_said() {
    let findings = |text: &str| {
        let found = MeshConfig::parse(text).1;
        found.iter().map(|issue| (issue.code.id(), issue.path.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(findings("outboundTrafficPolicy: {mode: ALLOW_ANY}\n"), []);
    let place = "data.mesh.outboundTrafficPolicy";
    let dynamic = findings("outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}\n");
    assert_eq!(dynamic, [("PLS0301", format!("{place}.mode"))]);
    let tls = findings("outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS, tls: {mode: SIMPLE}}\n");
    assert_eq!(tls, [("PLS0302", format!("{place}.tls"))]);
}

#[test]
fn a_bad_limit_of_the_proxies_leaves_their_other_settings() {
    let config = parse(
        "defaultConfig:\n  concurrency: 3\n  gatewayTopology: {numTrustedProxies: 2}\n  connectionSettings: {httpStreamIdleTimeout: 60s, httpIdleTimeout: soon, listenerConnectionLimit: 7}\n",
    );
    let proxy = config.default_config;
    assert_eq!(proxy.concurrency, Some(3));
    assert_eq!(proxy.gateway_topology.map(|topology| topology.num_trusted_proxies), Some(2));
    let limits = proxy.connection_settings.unwrap();
    assert_eq!(limits.http_stream_idle_timeout, parse_duration("60s"));
    assert_eq!((limits.http_idle_timeout, limits.listener_connection_limit), (None, Some(7)));

    let config = parse("defaultConfig:\n  concurrency: many\n  gatewayTopology: {numTrustedProxies: 2}\n");
    assert_eq!(config.default_config.gateway_topology.map(|topology| topology.num_trusted_proxies), Some(2));
}

#[test]
fn a_bad_limit_that_guards_something_takes_its_strict_value() {
    let limits = |text: &str| {
        let config = parse(&format!("defaultConfig:\n  connectionSettings: {{{text}, listenerConnectionLimit: 7}}\n"));
        config.default_config.connection_settings.unwrap()
    };
    assert_eq!(limits("profile: RIM").profile, Some(ConnectionProfile::Edge));
    assert_eq!(limits("httpMergeSlashes: 2").http_merge_slashes, Some(true));
    let slashes = limits("httpPathWithEscapedSlashesAction: REFUSE").http_path_with_escaped_slashes_action;
    assert_eq!(slashes, Some(PathWithEscapedSlashesAction::RejectRequest));
    let underscores = limits("httpHeadersWithUnderscoresAction: DROP").http_headers_with_underscores_action;
    assert_eq!(underscores, Some(HeadersWithUnderscoresAction::RejectRequest));
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (config, issues) = MeshConfig::parse(&format!("connectTimeout: {text}\n"));
    assert_eq!(issues, []);
    config.unwrap().connect_timeout
}
