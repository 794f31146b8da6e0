//! Documents of hand-written Cedar: statements, templates, directions, and what broken ones do.

use std::sync::Arc;

use palisade_model::{
    origin::Origin,
    policy::{Policy, PolicyMode, PolicySet},
};

use super::facts::{Plain, decide};
use crate::{
    CedarAdmission, CedarDocument, CedarShare, CompiledPolicy, PolicyEngine, TemplateLink, admit_cedar,
    default_egress_permit, default_permit,
};

fn origin() -> Origin {
    Origin {
        group: "palisade.dev".into(),
        kind: "CedarPolicy".into(),
        namespace: "foo".into(),
        name: "p".into(),
        uid: "".into(),
        generation: 0,
    }
}

fn admit(text: &str) -> CedarAdmission {
    admit_linked(text, &[], PolicyMode::Enforce)
}

fn admit_linked(text: &str, links: &[TemplateLink], mode: PolicyMode) -> CedarAdmission {
    admit_cedar(&CedarDocument { source: &origin(), text, links, mode })
}

/// The engine of one direction, with its default permit where that stands.
fn engine(share: &CedarShare, default: Policy) -> PolicyEngine {
    let mut policies = share.policies.clone();
    if !share.has_permit {
        policies.push(default);
    }
    let set = PolicySet {
        key: "workload/foo/x".into(),
        policies: policies.iter().map(|p| p.id.clone()).collect(),
        deny_all: share.deny_all.clone(),
        ..PolicySet::default()
    };
    PolicyEngine::build(&set, |id| policies.iter().find(|p| p.id == *id).map(|p| Arc::new(CompiledPolicy::load(p))))
}

fn allows(admission: &CedarAdmission) -> bool {
    decide(&engine(&admission.inbound, default_permit()), &Plain::default()).is_allowed()
}

fn allows_egress(admission: &CedarAdmission, host: &str) -> bool {
    let engine = engine(&admission.egress, default_egress_permit());
    let plain = Plain::default();
    let connection = engine.connect(&plain.connection());
    let http = plain.with_request(|request| engine.judge_egress_http(&connection, request, host, true).0.is_allowed());
    assert_eq!(http, engine.judge_egress_tcp(&connection, host, true).0.is_allowed());
    http
}

#[test]
fn statements_are_policies_and_forbid_wins() {
    let admission = admit(
        r#"
        // Everybody in foo; a `;` in a text ends nothing.
        permit (principal in Mesh::Namespace::"foo", action, resource is Mesh::Workload);
        @id("no;delete")
        forbid (principal, action in [Mesh::Action::"http", Mesh::Action::"grpc"], resource) when { context.http.method == "GET" };
        "#,
    );
    assert_eq!(admission.findings, []);
    let ids: Vec<&str> = admission.inbound.policies.iter().map(|p| p.id.as_str()).collect();
    assert_eq!(ids, ["CedarPolicy/foo/p[0]", "CedarPolicy/foo/p[1]"]);
    assert!(admission.inbound.has_permit && admission.egress.is_empty());
    assert!(!allows(&admission));
}

#[test]
fn defaults_are_removed_per_direction() {
    let egress =
        r#"permit (principal, action in Mesh::Action::"egress", resource == Mesh::ExternalHost::"api.example.com");"#;
    let admission = admit(egress);
    assert_eq!(admission.findings, []);
    assert!(admission.inbound.is_empty() && allows(&admission));
    assert!(allows_egress(&admission, "api.example.com") && allows_egress(&admission, "API.example.com"));
    assert!(!allows_egress(&admission, "evil.example.com"));
    let inbound = r#"permit (principal in Mesh::Namespace::"bar", action, resource is Mesh::Workload);"#;
    let admission = admit(inbound);
    assert!(admission.egress.is_empty() && !allows(&admission) && allows_egress(&admission, "any.example"));
    let suffix =
        r#"forbid (principal, action in Mesh::Action::"egress", resource) when { resource.host like "*.evil.com" };"#;
    let admission = admit(suffix);
    assert_eq!(admission.findings, []);
    assert!(!allows_egress(&admission, "a.evil.com") && allows_egress(&admission, "good.com"));
    assert!(admission.uncompiled.is_empty());
}

#[test]
fn broken_permits_grant_nothing_and_broken_forbids_deny() {
    let rows = [
        ("permit with a typo", r#"permit (principal, action, resource) when { context.htp.method == "GET" };"#, true),
        ("permit without end", r"permit (principal, action, resource)", true),
        ("unclosed text", r#"permit (principal in Mesh::Namespace::"foo, action, resource);"#, true),
        (
            "sound permit beside a broken one",
            r#"permit (principal, action, resource is Mesh::Workload); permit (principal, action, resource) when { 1 + 1 == 2 };"#,
            false,
        ),
        ("forbid with a typo", r#"forbid (principal, action, resource) when { context.htp.method == "GET" };"#, true),
        (
            "forbid beside a sound permit",
            r#"permit (principal, action, resource is Mesh::Workload); forbid (principal, action, resource) when { };"#,
            true,
        ),
        (
            "forbid swallowed by a quote",
            r#"permit (principal in Mesh::Namespace::"foo, action, resource); forbid (principal, action == Mesh::Action::"tcp", resource); permit (principal in Mesh::Namespace::"x", action, resource);"#,
            true,
        ),
        ("no word at all", "frobid (principal, action, resource);", true),
        (
            "impossible forbid",
            r#"forbid (principal is Mesh::Anonymous, action, resource) when { principal in Mesh::Namespace::"a" };"#,
            true,
        ),
    ];
    for (name, text, is_denied) in rows {
        let admission = admit(text);
        assert!(!admission.findings.is_empty(), "{name}");
        assert!(admission.findings.iter().all(|f| f.line.is_some() && f.column.is_some()), "{name}");
        assert_eq!(allows(&admission), !is_denied, "{name}: {admission:?}");
    }
    // The target is denied as a whole by a forbid, not merely left without a permit.
    assert!(admit(rows[4].1).inbound.deny_all.is_some());
    assert!(admit(rows[0].1).inbound.deny_all.is_none());
    assert!(admit("  // nothing\n").inbound.is_empty());
}

#[test]
fn findings_say_line_and_column_in_the_document() {
    let admission = admit(
        "permit (principal, action, resource is Mesh::Workload);\n\n  forbid (principal, action, resource)\n  when { context.htp.method == \"x\" };\n",
    );
    let [finding] = admission.findings.as_slice() else { panic!("{:?}", admission.findings) };
    assert_eq!((finding.line, finding.column), (Some(4), Some(10)), "{finding:?}");
    let admission =
        admit("permit (principal, action, resource is Mesh::Workload); forbid (principal, acton, resource);");
    assert_eq!(admission.findings.first().and_then(|f| f.line), Some(1));
    assert!(admission.findings.first().and_then(|f| f.column).is_some_and(|column| column > 60), "{admission:?}");
}

#[test]
fn templates_are_linked_statically() {
    let text = r#"@id("only") permit (principal in ?principal, action, resource is Mesh::Workload);"#;
    let link = |id: &str, principal: &str| TemplateLink {
        template: "only".to_owned(),
        id: id.to_owned(),
        principal: Some(principal.to_owned()),
        resource: None,
    };
    let admission = admit_linked(
        text,
        &[link("a", r#"Mesh::Namespace::"bar""#), link("b", r#"Mesh::Namespace::"foo""#)],
        PolicyMode::Enforce,
    );
    assert_eq!((admission.findings.len(), admission.link_findings.len()), (0, 0), "{admission:?}");
    assert_eq!(admission.inbound.policies[1].id.as_str(), "CedarPolicy/foo/p[0]:b");
    assert!(allows(&admission));
    assert!(!allows(&admit_linked(text, &[link("a", r#"Mesh::Namespace::"bar""#)], PolicyMode::Enforce)));
    for broken in
        [r#"Mesh::Namespace::"a", action, resource); permit (principal == Mesh::Anonymous::"peer""#, "nobody", ""]
    {
        let admission = admit_linked(text, &[link("a", broken)], PolicyMode::Enforce);
        assert_eq!(admission.link_findings.len(), 1, "{broken}");
        assert!(!allows(&admission), "{broken}");
    }
    assert!(!admit(text).findings.is_empty());
    let forbid = r#"@id("only") forbid (principal in ?principal, action, resource is Mesh::Workload);"#;
    assert!(admit_linked(forbid, &[link("a", "nobody")], PolicyMode::Enforce).inbound.deny_all.is_some());
}

#[test]
fn audited_documents_deny_nothing_and_are_seen() {
    for text in [
        r#"forbid (principal, action, resource is Mesh::Workload);"#,
        r#"forbid (principal, action, resource) when { context.htp == 1 };"#,
        r#"permit (principal in Mesh::Namespace::"bar", action, resource is Mesh::Workload);"#,
    ] {
        let admission = admit_linked(text, &[], PolicyMode::Shadow);
        let engine = engine(&admission.inbound, default_permit());
        let plain = Plain::default();
        assert!(decide(&engine, &plain).is_allowed(), "{text}");
        let connection = engine.connect(&plain.connection());
        let recorded = plain.with_request(|request| engine.record_http(&connection, request));
        assert_eq!(recorded.all_allowed, Some(false), "{text}");
        assert_eq!(recorded.policies.len(), 1, "{text}");
    }
}

#[test]
fn links_of_one_id_lose_no_forbid() {
    let link = |id: &str, namespace: &str| TemplateLink {
        template: "t".to_owned(),
        id: id.to_owned(),
        principal: Some(format!("Mesh::Namespace::\"{namespace}\"")),
        resource: None,
    };
    let forbid = "@id(\"t\") forbid (principal in ?principal, action, resource is Mesh::Workload);";
    let apart = admit_linked(forbid, &[link("a", "bar"), link("b", "baz")], PolicyMode::Enforce);
    assert_eq!(apart.link_findings, []);
    assert!(allows(&apart));
    let repeated = admit_linked(forbid, &[link("a", "bar"), link("a", "baz")], PolicyMode::Enforce);
    assert_eq!(repeated.link_findings, [(1, "another link of this document has the id `a`".to_owned())]);
    assert!(!allows(&repeated), "which of the two is meant cannot be known");
    let permit = forbid.replace("forbid", "permit");
    let repeated = admit_linked(&permit, &[link("a", "bar"), link("a", "foo")], PolicyMode::Enforce);
    assert_eq!(repeated.link_findings.len(), 1);
    assert!(repeated.inbound.policies.len() == 1 && repeated.inbound.has_permit);
}
