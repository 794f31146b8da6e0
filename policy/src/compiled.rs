//! One policy, loaded: its compiled condition, or Cedar in its place, or nothing that could be read.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use palisade_model::policy::{Effect, Policy};

use crate::{
    EngineTotals, PolicyRef,
    check::{Checked, Finding, Warnings, check},
    compile::compile,
    counts::Recordings,
    eval::{Outcome, View},
    fallback::CedarCondition,
    index::is_infallible,
    ir::{Actions, IR_VERSION, Node, Program, decode},
};

/// One policy, ready to be evaluated; shared by all sets that it is in, and kept across configurations that do not change it.
#[derive(Debug)]
pub struct CompiledPolicy {
    policy: PolicyRef,
    form: Form,
    /// The text, for Cedar's own evaluator.
    text: Arc<str>,
    /// The text as Cedar evaluates it, made when first needed; `None` = it cannot be read.
    on_cedar: OnceLock<Option<Box<CedarCondition>>>,
    /// The compiled form proved wrong.
    is_distrusted: AtomicBool,
    fallback_evaluations: AtomicU64,
    evaluation_errors: AtomicU64,
    /// Counts for the whole document, where this is its first policy.
    pub(crate) recordings: Recordings,
    totals: Arc<EngineTotals>,
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
        Self::load_counted(policy, &Arc::default())
    }

    /// As [`CompiledPolicy::load`]; errors and fallbacks also count in `totals`.
    pub fn load_counted(policy: &Policy, totals: &Arc<EngineTotals>) -> Self {
        let form = if policy.ir_version == IR_VERSION && !policy.ir.is_empty() {
            decode(&policy.ir).map_or_else(|_| from_text(policy), Form::of_program)
        } else {
            from_text(policy)
        };
        Self {
            policy: policy.into(),
            form,
            text: Arc::clone(&policy.cedar),
            on_cedar: OnceLock::new(),
            is_distrusted: AtomicBool::new(false),
            fallback_evaluations: AtomicU64::new(0),
            evaluation_errors: AtomicU64::new(0),
            recordings: Recordings::default(),
            totals: Arc::clone(totals),
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
        let outcome = self.eval_compiled(view);
        if outcome == Outcome::Error {
            self.count_error();
        }
        outcome
    }

    /// Which parts of a condition are still open while the request is not known: bit n for the n-th operand of the outermost `&&`. The
    /// others hold. [`u64::MAX`]: all of it.
    pub(crate) fn open_parts(&self, pending: &View<'_>) -> u64 {
        match &self.form {
            // Only where nothing can fail is the order of operands nobody's business.
            Form::Program { program: Program { condition: Node::All(parts), .. }, is_infallible: true }
                if parts.len() < 64 =>
            {
                let open = parts.iter().enumerate().filter(|(_, part)| part.eval(pending, true) == Outcome::Unknown);
                open.fold(0, |bits, (place, _)| bits | (1 << place))
            }
            _ => u64::MAX,
        }
    }

    /// As [`CompiledPolicy::eval`], for a connection of which only these parts are open.
    pub(crate) fn eval_open(&self, view: &View<'_>, open: u64) -> Outcome {
        match &self.form {
            Form::Program { program: Program { condition: Node::All(parts), actions, .. }, is_infallible: true }
                if open != u64::MAX =>
            {
                let mut left = open;
                while left != 0 {
                    let part = usize::try_from(left.trailing_zeros()).ok().and_then(|place| parts.get(place));
                    // INVARIANT: only parts that are there were found open.
                    let Some(part) = part else { return Outcome::Error };
                    if part.eval(view, true) != Outcome::True {
                        return Outcome::False;
                    }
                    left &= left - 1;
                }
                Outcome::from(actions.intersects(view.action))
            }
            _ => self.eval(view),
        }
    }

    /// As [`CompiledPolicy::eval`], by Cedar, whatever compiled form there is; an error where the text or the facts are beyond it.
    pub(crate) fn eval_by_cedar(&self, view: &View<'_>) -> Outcome {
        let outcome = match &self.form {
            Form::Program { .. } => {
                let outcome = self.cedar().map_or(Outcome::Error, |condition| condition.eval(view));
                self.count_fallback(outcome);
                outcome
            }
            Form::Cedar(_) | Form::Broken(_) => self.eval_compiled(view),
        };
        if outcome == Outcome::Error {
            self.count_error();
        }
        outcome
    }

    /// Scope and condition by the best form there is. Errors are not counted.
    pub(crate) fn eval_compiled(&self, view: &View<'_>) -> Outcome {
        match &self.form {
            Form::Program { program, is_infallible } => {
                if !program.actions.intersects(view.action) {
                    return Outcome::False;
                }
                program.condition.eval(view, *is_infallible)
            }
            Form::Cedar(condition) => {
                let outcome = condition.eval(view);
                self.count_fallback(outcome);
                outcome
            }
            Form::Broken(_) => Outcome::Error,
        }
    }

    /// Cedar's word, uncounted; `None` where text or facts cannot be put into Cedar.
    pub(crate) fn eval_on_cedar(&self, view: &View<'_>) -> Option<Outcome> {
        self.cedar()?.try_eval(view)
    }

    /// Cedar judged this policy otherwise than its compiled form.
    pub(crate) fn distrust(&self) {
        self.is_distrusted.store(true, Ordering::Relaxed);
    }

    /// Whether Cedar once judged this policy otherwise than its compiled form.
    pub(crate) fn is_distrusted(&self) -> bool {
        self.is_distrusted.load(Ordering::Relaxed)
    }

    /// Where errors and fallbacks are summed.
    pub(crate) fn totals(&self) -> &EngineTotals {
        &self.totals
    }

    fn cedar(&self) -> Option<&CedarCondition> {
        let made = self.on_cedar.get_or_init(|| {
            let checked = check(&self.text, Warnings::Accept).ok()?;
            CedarCondition::new(&checked.policy, &checked.tree).ok().map(Box::new)
        });
        made.as_deref()
    }

    fn count_error(&self) {
        self.evaluation_errors.fetch_add(1, Ordering::Relaxed);
        self.totals.count_error();
    }

    fn count_fallback(&self, outcome: Outcome) {
        if outcome != Outcome::Unknown {
            self.fallback_evaluations.fetch_add(1, Ordering::Relaxed);
            self.totals.count_fallback();
        }
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
