//! CedarPolicies as the policies that enforce them, each direction by itself.

use std::sync::Arc;

use palisade_crds::palisade::{self, CedarMode, CedarPolicy};
use palisade_model::policy::PolicyMode;
use palisade_policy::{CedarAdmission, CedarDocument, TemplateLink, admit_cedar};

use super::authorization::{Restriction, Target};
use crate::{
    inputs::Inputs,
    object::{Object, ObjectKey},
    reports::{Code, Report, Reports},
};

/// What became of each CedarPolicy, in the documents' order. Depends on nothing else.
pub(super) fn admissions(inputs: &Inputs, reports: &mut Reports) -> Vec<CedarAdmission> {
    inputs.cedar_policies.values().map(|document| admit(document, reports)).collect()
}

/// What CedarPolicies do to the proxies that they apply to, and to what these may reach outside the mesh. `admissions` are
/// those of the same documents.
pub(super) fn restrictions(
    inputs: &Inputs,
    admissions: &[CedarAdmission],
    reports: &mut Reports,
) -> (Vec<Arc<Restriction>>, Vec<Arc<Restriction>>) {
    let (mut inbound, mut egress) = (Vec::new(), Vec::new());
    for (document, admission) in inputs.cedar_policies.values().zip(admissions) {
        let CedarAdmission { inbound: of_inbound, egress: of_egress, findings: _, link_findings: _, uncompiled: _ } =
            admission;
        for target in targets(document, inputs, reports) {
            for (share, restrictions) in [(of_inbound, &mut inbound), (of_egress, &mut egress)] {
                if !share.is_empty() {
                    let restriction = Restriction::of_cedar(&document.head, target.clone(), share.clone());
                    restrictions.push(Arc::new(restriction));
                }
            }
        }
    }
    (inbound, egress)
}

fn admit(document: &Object<CedarPolicy>, reports: &mut Reports) -> CedarAdmission {
    let Object { head, spec, .. } = document;
    let CedarPolicy { selector: _, target_refs: _, policies, links, mode } = spec;
    let links: Vec<TemplateLink> = links
        .iter()
        .map(|link| {
            let palisade::TemplateLink { id, template, principal, resource } = link.clone();
            TemplateLink { template, id, principal, resource }
        })
        .collect();
    let mode = match mode {
        CedarMode::Enforce => PolicyMode::Enforce,
        CedarMode::Audit => PolicyMode::Shadow,
    };
    let source = head.origin();
    let admission = admit_cedar(&CedarDocument { source: &source, text: policies, links: &links, mode });
    for finding in &admission.findings {
        let place = match (finding.line, finding.column) {
            (Some(line), Some(column)) => format!("line {line}, column {column}: "),
            _ => String::new(),
        };
        let report = Report::warning(head, Code::CedarText, "spec.policies", &format!("{place}{}", finding.message));
        reports.add_inside(report, finding.line);
    }
    for (index, message) in &admission.link_findings {
        reports.add(Report::warning(head, Code::CedarText, &format!("spec.links[{index}]"), message));
    }
    for (id, reason) in &admission.uncompiled {
        let message = format!("`{id}` is evaluated by Cedar itself, which takes microseconds a request: {reason}");
        reports.add(Report::warning(head, Code::CedarUncompiled, "spec.policies", &message));
    }
    admission
}

/// What a document applies to: one target for all named gateways, one for each named Service.
fn targets(document: &Object<CedarPolicy>, inputs: &Inputs, reports: &mut Reports) -> Vec<Target> {
    let Object { head, spec, .. } = document;
    if spec.target_refs.is_empty() {
        let labels = spec.selector.as_ref().map(|selector| selector.match_labels.clone()).unwrap_or_default();
        return vec![Target::Workloads(labels)];
    }
    let mut targets = Vec::new();
    let mut objects = Vec::new();
    for (index, target) in spec.target_refs.iter().enumerate() {
        if target.group.is_empty() && target.kind == "Service" {
            let key = ObjectKey::new(&*head.key.namespace, target.name.as_str());
            let selector = inputs.services.get(&key).map(|service| &service.spec.selector).filter(|s| !s.is_empty());
            match selector {
                Some(selector) => targets.push(Target::Service(selector.clone())),
                None => {
                    let message =
                        format!("there is no Service `{key}` with a selector: the policy has no effect there");
                    let path = format!("spec.targetRefs[{index}]");
                    reports.add(Report::warning(head, Code::PolicyUnbound, &path, &message));
                }
            }
        } else {
            objects.push(target.clone());
        }
    }
    if !objects.is_empty() {
        targets.push(Target::Objects(objects));
    }
    targets
}
