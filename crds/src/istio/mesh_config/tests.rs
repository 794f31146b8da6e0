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
