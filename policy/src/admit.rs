//! From a rule to the policies that enforce it: translate, validate, compile; and what a broken rule does instead.

use bytes::Bytes;
use palisade_model::{
    origin::Origin,
    policy::{DenyAll, Effect, Policy, PolicyId, PolicyMode},
};

use crate::{
    RuleAction, RuleSpec, TrustDomains,
    check::{Warnings, check},
    compile::compile,
    ir::{IR_VERSION, NO_LABEL, Program, encode},
    translate::{PolicyForm, translate},
};

/// What became of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Policies to add to the sets of the rule's targets: none, one, or two (`ID` and its TCP form `ID@tcp`).
    pub policies: Vec<Policy>,
    /// A broken DENY rule denies its whole target: this belongs into the sets of its targets.
    pub deny_all: Option<DenyAll>,
    /// What is wrong, by field; empty for a sound rule.
    pub problems: Vec<RuleProblem>,
}

/// Something wrong in a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleProblem {
    /// Field path inside the rule, for example `from[0].source.ipBlocks[1]`.
    pub field: String,
    /// What is wrong there, lower case, one line.
    pub message: String,
}

/// Translates, validates and compiles one rule: about 0.3 ms. Never fails; a broken rule becomes what "What a broken policy does" says, and
/// its problems: ALLOW matches nothing, DENY denies its whole target, AUDIT and dry runs change no answer.
///
/// A sound rule may yield no policy at all, because it can never match (or, for ALLOW, because it exists for HTTP only and then yields just
/// that form). The document counts all the same: whether the set gets [`default_permit`] is the caller's question to the documents, not to
/// what became of their rules.
pub fn admit_rule(rule: &RuleSpec, domains: &TrustDomains) -> Admission {
    let admitted = translate(rule, domains)
        .and_then(|forms| forms.iter().map(|form| build(form, rule)).collect::<Result<Vec<_>, _>>());
    match admitted {
        Ok(policies) => Admission { policies, deny_all: None, problems: Vec::new() },
        Err(problems) => {
            let denies = rule.action == RuleAction::Deny && rule.mode == PolicyMode::Enforce;
            let deny_all = denies.then(|| DenyAll {
                id: rule.id.clone(),
                source: rule.source.clone(),
                message: problems
                    .iter()
                    .map(|p| format!("{}: {}", p.field, p.message))
                    .collect::<Vec<_>>()
                    .join("; ")
                    .into(),
            });
            Admission { policies: Vec::new(), deny_all, problems }
        }
    }
}

fn build(form: &PolicyForm, rule: &RuleSpec) -> Result<Policy, Vec<RuleProblem>> {
    let PolicyForm { id, effect, mode, text, labels } = form;
    // Text that was made here and does not pass is a mistake made here; it is treated like a broken rule, which fails closed.
    let checked = check(text, Warnings::Accept).map_err(|findings| {
        let problem = |f: crate::check::Finding| RuleProblem { field: String::new(), message: f.message };
        findings.into_iter().map(problem).collect::<Vec<_>>()
    })?;
    let ir =
        compile(&checked.tree).ok().map(|program| label(program, labels)).and_then(|program| encode(&program).ok());
    Ok(Policy {
        id: id.clone(),
        source: rule.source.clone(),
        rule: rule.rule,
        effect: *effect,
        mode: *mode,
        cedar: text.as_str().into(),
        ir_version: if ir.is_some() { IR_VERSION } else { 0 },
        ir: ir.map(Bytes::from).unwrap_or_default(),
    })
}

/// Notes on each test the field that it came from: the n-th atom of the text is the n-th test behind the scope.
fn label(mut program: Program, labels: &[String]) -> Program {
    let mut tests = 0_usize;
    program.condition.for_each_test(&mut |_, _| tests += 1);
    let Some(scope) = tests.checked_sub(labels.len()) else { return program };
    let mut table: Vec<String> = Vec::new();
    let mut position = 0_usize;
    program.condition.for_each_label(&mut |slot| {
        let label = position.checked_sub(scope).and_then(|at| labels.get(at));
        position += 1;
        let Some(label) = label else { return };
        let index = table.iter().position(|known| known == label).unwrap_or_else(|| {
            table.push(label.clone());
            table.len() - 1
        });
        *slot = u16::try_from(index).unwrap_or(NO_LABEL);
    });
    program.labels = table;
    program.condition = program.condition.merge_addresses();
    program
}

/// The permit that stands where no ALLOW policy selects a workload, id `mesh/default-allow`. One policy serves all targets.
pub fn default_permit() -> Policy {
    permit_all("mesh/default-allow")
}

/// The permit that stands where no egress policy selects an identity, id `mesh/default-egress`.
pub fn default_egress_permit() -> Policy {
    permit_all("mesh/default-egress")
}

/// A policy that speaks for a whole audited or dry-run document, so that it is seen, and counted, whatever became of its rules.
///
/// `permits`: enforced, the document would remove the default permit. `denies`: enforced, it would deny its whole target, because it is
/// broken. Its own condition is constant; [`PolicyMode::Enforce`] is not for this.
pub fn document_marker(id: &str, source: Origin, mode: PolicyMode, permits: bool, denies: bool) -> Policy {
    let effect = if permits && !denies { Effect::Permit } else { Effect::Forbid };
    Policy { source: Some(source), mode, ..constant(id, effect, denies) }
}

/// A permit without conditions that no document asked for.
pub(crate) fn permit_all(id: &str) -> Policy {
    constant(id, Effect::Permit, true)
}

fn constant(id: &str, effect: Effect, holds: bool) -> Policy {
    let program =
        Program { actions: crate::ir::Actions::ALL, condition: crate::ir::Node::Const(holds), labels: Vec::new() };
    let ir = encode(&program).ok();
    let word = if effect == Effect::Permit { "permit" } else { "forbid" };
    let condition = if holds { "" } else { " when { false }" };
    let id_text = crate::translate::quote(id);
    Policy {
        id: PolicyId(id.into()),
        source: None,
        rule: None,
        effect,
        mode: PolicyMode::Enforce,
        cedar: format!("@id({id_text})\n{word} (\n  principal,\n  action,\n  resource\n){condition};\n").into(),
        ir_version: if ir.is_some() { IR_VERSION } else { 0 },
        ir: ir.map(Bytes::from).unwrap_or_default(),
    }
}

/// A set holds one [`DenyAll`]: the first by id, so that the result does not depend on the order of arrival.
pub fn fold_deny_all(a: Option<DenyAll>, b: Option<DenyAll>) -> Option<DenyAll> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b < a { b } else { a }),
        (a, b) => a.or(b),
    }
}
