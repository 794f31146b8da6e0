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
        decide_http,
        external::Testimony,
        facts::{Chance, Connection, Direction, HttpVersion, Request},
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
    let underway = Some(Underway { cluster, host: "".into() });
    recheck_tcp(after, &admitted, &Testimony { underway, ..Testimony::default() })
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

/// A sidecar of a mesh where only what is registered may be reached, and which clusters a request to `b` is copied to.
fn copies(outbound: OutboundPolicy, dialled: &str) -> (Vec<String>, usize) {
    use palisade_model::{
        cluster::UpstreamTls,
        route::{
            Backend, Fault, Forward, HeaderMutations, Mirror, Percent, Rewrite, RouteEntry, RouteRule, VirtualHost,
        },
    };
    let everything = Percent::ALWAYS;
    let listed = |name: &str| testing::cluster(name, listed());
    let passing = Cluster { load_balancer: LoadBalancer::Passthrough, ..listed("passing") };
    let refusing = Cluster { tls: UpstreamTls::Refuse { message: "no CA".into() }, ..listed("refusing") };
    let mirrors = ["one", "passing", "refusing", "missing"];
    let forward = Forward {
        backends: [Backend {
            cluster: "one".into(),
            missing: None,
            weight: 1,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            path: None,
        }]
        .into(),
        request_headers: HeaderMutations::default(),
        rewrite: Rewrite::default(),
        timeout: None,
        retries: None,
        mirrors: mirrors.map(|cluster| Mirror { cluster: cluster.into(), share: everything }).into(),
        session: None,
    };
    let mut settings = testing::settings(ProxyKind::Sidecar);
    settings.outbound = outbound;
    settings.outbound_http_ports = [80].into();
    let index = testing::index(vec![
        Resource::Settings(settings),
        Resource::Cluster(listed("one")),
        Resource::Cluster(passing),
        Resource::Cluster(refusing),
        Resource::Endpoints(testing::endpoints("e", vec![testing::endpoint("192.0.2.10:5432", 1)])),
        Resource::VirtualHost(VirtualHost {
            table: "outbound:80".into(),
            name: "b".into(),
            domains: ["b".parse().unwrap()].into(),
            https_redirect: false,
            entries: [RouteEntry { rule: "b".into(), alternative: 0 }].into(),
        }),
        Resource::Route(RouteRule {
            key: "b".into(),
            source: "VirtualService foo/b".into(),
            name: None,
            rule: 0,
            matches: [].into(),
            fault: Fault::default(),
            cors: None,
            action: RouteAction::Forward(forward),
            response_headers: HeaderMutations::default(),
        }),
        Resource::Membership(palisade_model::membership::Membership::default()),
    ]);
    let facts = Connection {
        direction: Direction::Outbound,
        source: "10.0.0.9:40000".parse().unwrap(),
        destination: dialled.parse().unwrap(),
        tls: None,
    };
    let admitted = admit(&index, facts, Seen::Http).unwrap();
    let headers = http::HeaderMap::new();
    let request = Request {
        method: "GET",
        scheme: "http",
        authority: b"b",
        target: b"/",
        version: HttpVersion::Http11,
        headers: &headers,
        jwt: None,
    };
    let mut chance = Chance::fixed(std::time::SystemTime::UNIX_EPOCH, 0.0);
    let verdict = decide_http(&index, &admitted, Some(&request), &mut chance);
    match verdict.action {
        Action::Forward(plan) => (plan.mirrors.iter().map(ToString::to_string).collect(), plan.unsent_mirrors),
        other => panic!("not forwarded: {other:?}"),
    }
}

#[test]
fn a_copy_goes_nowhere_where_the_request_itself_could_not() {
    let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let nobodys = "203.0.113.7:80";
    assert_eq!(copies(OutboundPolicy::RegistryOnly, nobodys), (text(&["one"]), 3));
    assert_eq!(copies(OutboundPolicy::AllowAny, nobodys), (text(&["one", "passing"]), 2));
}
