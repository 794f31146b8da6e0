//! What is in progress, judged by a new configuration.

use std::collections::BTreeMap;

use palisade_model::{
    cluster::Cluster,
    origin::Origin,
    policy::{PolicyMode, PolicySet},
    reason::Reason,
    resource::Resource,
    settings::ProxyKind,
};
use palisade_policy::{CedarDocument, admit_cedar};

use super::{
    super::{
        connection::{Seen, admit},
        facts::{Connection, Direction},
        recheck_tcp, testing,
    },
    *,
};

const HOST: &str = "db.example.com";

fn external(discovery: Discovery) -> Cluster {
    Cluster { is_external: true, ..testing::cluster(&format!("outbound|5432||{HOST}"), discovery) }
}

fn listed() -> Discovery {
    Discovery::Endpoints { key: "e".into(), subset: BTreeMap::new() }
}

/// A sidecar whose workload may reach `permitted`; `None`: no policy restricts it.
fn sidecar(permitted: Option<&str>, discovery: Discovery) -> RuntimeIndex {
    let mut settings = testing::settings(ProxyKind::Sidecar);
    let mut resources = vec![
        Resource::Cluster(external(discovery)),
        Resource::Endpoints(testing::endpoints("e", vec![testing::endpoint("192.0.2.10:5432", 1)])),
    ];
    if let Some(host) = permitted {
        settings.egress_policies = Some("egress".into());
        let source = Origin {
            group: "palisade.dev".into(),
            kind: "CedarPolicy".into(),
            namespace: "foo".into(),
            name: "out".into(),
            uid: "".into(),
            generation: 0,
        };
        let text = format!(
            r#"permit (principal, action in Mesh::Action::"egress", resource == Mesh::ExternalHost::"{host}");"#
        );
        let document = CedarDocument { source: &source, text: &text, links: &[], mode: PolicyMode::Enforce };
        let admission = admit_cedar(&document);
        assert!(admission.findings.is_empty(), "{:?}", admission.findings);
        let policies = admission.egress.policies;
        let members = policies.iter().map(|policy| policy.id.clone()).collect::<Vec<_>>();
        resources.push(Resource::PolicySet(PolicySet {
            key: "egress".into(),
            policies: members.into(),
            ..PolicySet::default()
        }));
        resources.extend(policies.into_iter().map(Resource::Policy));
    }
    resources.push(Resource::Settings(settings));
    testing::index(resources)
}

fn recheck(before: &RuntimeIndex, after: &RuntimeIndex) -> Result<(), Reason> {
    let facts = Connection {
        direction: Direction::Outbound,
        source: "10.0.0.9:40000".parse().unwrap(),
        destination: "203.0.113.7:5432".parse().unwrap(),
        tls: None,
    };
    let cluster = Arc::clone(before.cluster(&format!("outbound|5432||{HOST}")).unwrap());
    let admitted = admit(after, facts, Seen::Other).unwrap();
    recheck_tcp(after, &admitted, &Underway { cluster, host: "".into() })
}

#[test]
fn a_relay_goes_on_as_long_as_where_it_goes_is_permitted() {
    let none = sidecar(None, listed());
    let permitted = sidecar(Some(HOST), listed());
    let other = sidecar(Some("other.example.com"), listed());
    assert_eq!(recheck(&none, &none), Ok(()));
    assert_eq!(recheck(&none, &permitted), Ok(()));
    assert_eq!(recheck(&permitted, &permitted), Ok(()));
    assert_eq!(recheck(&none, &other), Err(Reason::EgressDenied), "a policy that comes later counts");
    assert_eq!(recheck(&permitted, &other), Err(Reason::EgressDenied));
}

#[test]
fn where_a_relay_goes_to_the_dialled_address_that_counts_too() {
    let dialled = |permitted| sidecar(Some(permitted), Discovery::OriginalDestination);
    let name = dialled(HOST);
    assert_eq!(recheck(&name, &name), Err(Reason::EgressDenied), "a name is no evidence");
}
