//! Tests of reading records, choices and alternatives.

use serde_json::{Value, json};

use super::{Check, Cursor, Decode, nearest};
use crate::codes::Code;
use crate::istio::{Destination, MeshConfig, NormalizationType, StringMatch, VirtualService};
use crate::path::Path;

fn read<T: Decode>(value: &Value) -> (Option<T>, Vec<(Code, String)>) {
    let mut issues = Vec::new();
    let read = T::decode(value, &mut Cursor::new(Path::root(), &mut issues));
    (read, issues.into_iter().map(|issue| (issue.code, issue.path.to_string())).collect())
}

#[test]
fn all_problems_are_found_in_one_pass() {
    let value = json!({"hosts": "a", "http": [{"route": [{"destination": {}}, {"destination": {"host": 5}}], "timeout": "x"}, 7], "exportTo": [1]});
    let (read, issues) = read::<VirtualService>(&value);
    assert_eq!(read, None);
    assert_eq!(
        issues,
        [
            (Code::WrongType, "hosts".to_owned()),
            (Code::MissingField, "http[0].route[0].destination.host".to_owned()),
            (Code::WrongType, "http[0].route[1].destination.host".to_owned()),
            (Code::InvalidFormat, "http[0].timeout".to_owned()),
            (Code::WrongType, "http[1]".to_owned()),
            (Code::WrongType, "exportTo[0]".to_owned()),
        ]
    );
}

#[test]
fn null_is_absent_but_not_in_lists() {
    assert!(read::<VirtualService>(&json!({"hosts": null, "http": null})).1.is_empty());
    assert_eq!(read::<VirtualService>(&json!({"hosts": [null]})).1, [(Code::WrongType, "hosts[0]".to_owned())]);
    assert_eq!(read::<Destination>(&json!({"host": null})).1, [(Code::MissingField, "host".to_owned())]);
}

#[test]
fn alternatives_exclude_each_other() {
    assert_eq!(read::<StringMatch>(&json!({"exact": "a"})).0, Some(StringMatch::Exact("a".to_owned())));
    assert_eq!(read::<StringMatch>(&json!({})).0, Some(StringMatch::Present));
    assert_eq!(
        read::<StringMatch>(&json!({"exact": "a", "regex": "b"})).1,
        [(Code::ConflictingFields, "regex".to_owned())]
    );
}

#[test]
fn what_is_read_is_written_back() {
    let value = json!({"hosts": ["a"], "http": [{"match": [{"uri": {"prefix": "/a"}, "headers": {"x": {}}}], "route": [{"destination": {"host": "a", "port": {"number": 80}}, "weight": 3}], "timeout": "1.5s", "retries": {"attempts": 2, "perTryTimeout": "250ms"}}]});
    let (first, issues) = read::<VirtualService>(&value);
    assert!(issues.is_empty(), "{issues:?}");
    let written = serde_json::to_value(&first).unwrap();
    assert_eq!(read::<VirtualService>(&written), (first, vec![]));
}

#[test]
fn misspelt_words_are_recognised() {
    assert_eq!(nearest("princpals", &["principals", "namespaces"]), Some("principals"));
    assert_eq!(nearest("matchlabels", &["matchLabels"]), Some("matchLabels"));
    assert_eq!(nearest("x", &["principals"]), None);
}

#[test]
fn constraints_are_checked_on_what_is_written() {
    let check = |check: &Check, value: Value| {
        let mut issues = Vec::new();
        check.run(&value, &mut Cursor::new(Path::root(), &mut issues));
        issues.len()
    };
    assert_eq!(check(&Check::Length(1, 2), json!("")), 1);
    assert_eq!(check(&Check::Length(1, 2), json!("äö")), 0);
    assert_eq!(check(&Check::Items(1, 2), json!([1, 2, 3])), 1);
    assert_eq!(check(&Check::Range(1, 2), json!(3)), 1);
    assert_eq!(check(&Check::RangeF(0.0, 1.0), json!(0.5)), 0);
    assert_eq!(check(&Check::Positive, json!("0.5ms")), 1);
    assert_eq!(check(&Check::Unique(&["name"]), json!([{"name": "a"}, {"name": "b"}, {"name": "a"}])), 1);
    assert_eq!(check(&Check::Unique(&[]), json!(["a", "a"])), 1);
    assert_eq!(check(&Check::Each(&[Check::Length(0, 1)]), json!(["a", "bc"])), 1);
}

#[test]
fn mesh_configuration_keys() {
    let (config, issues) = MeshConfig::parse(
        "trustDomain: td1\nmesh_mTLS: {minProtocolVersion: TLSV1_3}\naccess_log_file: /dev/stdout\npathNormalization: {normalization: MERGE_SLASHES}\ndnsRefreshRate: 60s\ntrustDomian: x\ndefaultConfig:\n  concurrency: 2\n  statusPort: 15020\n  gatewayTopology: {numTrustedProxies: 1}\n",
    );
    let config = config.unwrap();
    assert_eq!((config.trust_domain.as_str(), config.access_log_file.as_str()), ("td1", "/dev/stdout"));
    assert_eq!(config.path_normalization.map(|paths| paths.normalization), Some(NormalizationType::MergeSlashes));
    assert_eq!(
        (
            config.default_config.concurrency,
            config.default_config.gateway_topology.map(|topology| topology.num_trusted_proxies)
        ),
        (Some(2), Some(1))
    );
    assert!(config.mesh_mtls.is_some());
    let rows: Vec<(Code, String)> = issues.into_iter().map(|issue| (issue.code, issue.path.to_string())).collect();
    assert_eq!(
        rows,
        [
            (Code::MeshSettingIgnored, "data.mesh.dnsRefreshRate".to_owned()),
            (Code::UnknownMeshSetting, "data.mesh.trustDomian".to_owned()),
            (Code::MeshSettingIgnored, "data.mesh.defaultConfig.statusPort".to_owned()),
        ]
    );
}

#[test]
fn unreadable_mesh_configuration_is_refused() {
    for text in ["a: [", "- a", "a: 1\n---\nb: 2\n"] {
        let (config, issues) = MeshConfig::parse(text);
        assert!(config.is_none() && issues.iter().any(crate::issue::Issue::is_error), "{text}: {issues:?}");
    }
    assert_eq!(MeshConfig::parse("").0, Some(MeshConfig::default()));
    assert_eq!(MeshConfig::default().trust_domain, "cluster.local");
}

#[test]
fn every_used_mesh_key_is_a_field() {
    let value = serde_json::to_value(MeshConfig::default()).unwrap();
    let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, crate::istio::MESH_KEYS);
}
