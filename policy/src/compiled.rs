//! One policy, loaded: its compiled condition, or Cedar in its place, or nothing that could be read.

use std::sync::atomic::{AtomicU64, Ordering};

use palisade_model::policy::{Effect, Policy};

use crate::{
    PolicyRef,
    check::{Checked, Finding, Warnings, check},
    compile::compile,
    eval::{Outcome, View},
    fallback::CedarCondition,
    index::is_infallible,
    ir::{Actions, IR_VERSION, Program, decode},
};

/// One policy, ready to be evaluated; shared by all sets that it is in, and kept across configurations that do not change it.
#[derive(Debug)]
pub struct CompiledPolicy {
    policy: PolicyRef,
    form: Form,
    fallback_evaluations: AtomicU64,
    evaluation_errors: AtomicU64,
}

#[derive(Debug)]
enum Form {
    Program { program: Program, is_infallible: bool },
    Cedar(Box<CedarCondition>),
    Broken(String),
}

impl CompiledPolicy {
    /// Loads a policy from its compiled form; from its text when that form's version is unknown, its bytes are damaged or there is none.
    /// Never fails: a policy that cannot be read at all grants nothing if it is a permit, and denies the whole target if it is a forbid.
    pub fn load(policy: &Policy) -> Self {
        let form = if policy.ir_version == IR_VERSION && !policy.ir.is_empty() {
            decode(&policy.ir).map_or_else(|_| from_text(policy), Form::of_program)
        } else {
            from_text(policy)
        };
        Self {
            policy: policy.into(),
            form,
            fallback_evaluations: AtomicU64::new(0),
            evaluation_errors: AtomicU64::new(0),
        }
    }

    /// The policy's names.
    pub fn policy(&self) -> &PolicyRef {
        &self.policy
    }

    /// Why this policy cannot be read; `None` for a sound one.
    pub fn problem(&self) -> Option<&str> {
        match &self.form {
            Form::Broken(problem) => Some(problem),
            Form::Program { .. } | Form::Cedar(_) => None,
        }
    }

    /// How often Cedar itself had to evaluate this policy, because it has no compiled form.
    pub fn fallback_evaluations(&self) -> u64 {
        self.fallback_evaluations.load(Ordering::Relaxed)
    }

    /// How often evaluating this policy failed. For a forbid each such failure denied.
    pub fn evaluation_errors(&self) -> u64 {
        self.evaluation_errors.load(Ordering::Relaxed)
    }

    pub(crate) fn is_forbid(&self) -> bool {
        self.policy.effect == Effect::Forbid
    }

    /// The compiled condition, where there is one.
    pub(crate) fn program(&self) -> Option<&Program> {
        match &self.form {
            Form::Program { program, .. } => Some(program),
            Form::Cedar(_) | Form::Broken(_) => None,
        }
    }

    /// Whether evaluation can never fail, so that the policy may be looked up by what it needs.
    pub(crate) fn is_infallible(&self) -> bool {
        matches!(self.form, Form::Program { is_infallible: true, .. })
    }

    /// Header names that the policy mentions.
    pub(crate) fn header_names(&self) -> Vec<&str> {
        match &self.form {
            Form::Program { program, .. } => {
                let mut names = Vec::new();
                program.condition.for_each_test(&mut |test, _| match test {
                    crate::ir::Test::HasHeader(name) | crate::ir::Test::HeaderIn(name, _) => names.push(&**name),
                    crate::ir::Test::Matched(patterns) => names.extend(patterns.iter().filter_map(|p| match p {
                        crate::pattern::Pattern::Header { name, .. } => Some(&**name),
                        _ => None,
                    })),
                    _ => {}
                });
                names
            }
            Form::Cedar(condition) => condition.header_names(),
            Form::Broken(_) => Vec::new(),
        }
    }

    /// Whether the policy is about one of the actions.
    pub(crate) fn is_about(&self, actions: Actions) -> bool {
        match &self.form {
            Form::Program { program, .. } => program.actions.intersects(actions),
            // Cedar and the broken are asked about everything.
            Form::Cedar(_) | Form::Broken(_) => true,
        }
    }

    /// Whether it matters to the policy which of the HTTP actions a request is.
    pub(crate) fn tells_grpc_apart(&self) -> bool {
        match &self.form {
            Form::Program { program, .. } => {
                let splits = |actions: &Actions| actions.intersects(Actions::HTTP) != actions.intersects(Actions::GRPC);
                let mut is_apart = splits(&program.actions);
                program.condition.for_each_test(&mut |test, _| {
                    if let crate::ir::Test::Action(actions) = test {
                        is_apart |= splits(actions);
                    }
                });
                is_apart
            }
            Form::Cedar(_) => true,
            Form::Broken(_) => false,
        }
    }

    /// Evaluates scope and condition. An error is counted; what it means is the caller's to say, by the policy's effect.
    pub(crate) fn eval(&self, view: &View<'_>) -> Outcome {
        let outcome = match &self.form {
            Form::Program { program, is_infallible } => {
                if !program.actions.intersects(view.action) {
                    return Outcome::False;
                }
                program.condition.eval(view, *is_infallible)
            }
            Form::Cedar(condition) => {
                let outcome = condition.eval(view);
                if outcome != Outcome::Unknown {
                    self.fallback_evaluations.fetch_add(1, Ordering::Relaxed);
                }
                outcome
            }
            Form::Broken(_) => Outcome::Error,
        };
        if outcome == Outcome::Error {
            self.evaluation_errors.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }
}

impl Form {
    fn of_program(program: Program) -> Self {
        let is_infallible = is_infallible(&program);
        Self::Program { program, is_infallible }
    }
}

/// Text is trusted no more here than in the control plane: it is checked again, and must say what the resource says.
fn from_text(policy: &Policy) -> Form {
    let Checked { policy: cedar, tree } = match check(&policy.cedar, Warnings::Accept) {
        Ok(checked) => checked,
        Err(findings) => {
            return Form::Broken(
                findings.into_iter().map(|Finding { message, .. }| message).collect::<Vec<_>>().join("; "),
            );
        }
    };
    let is_forbid = cedar.effect() == cedar_policy::Effect::Forbid;
    if is_forbid != (policy.effect == Effect::Forbid) {
        return Form::Broken("the text's effect is not the policy's".to_owned());
    }
    match compile(&tree) {
        Ok(program) => Form::of_program(Program { condition: program.condition.merge_addresses(), ..program }),
        Err(_) => match CedarCondition::new(&cedar, &tree) {
            Ok(condition) => Form::Cedar(Box::new(condition)),
            Err(problem) => Form::Broken(problem),
        },
    }
}
