//! The proof that no policy that a rule becomes can fail: Cedar's symbolic compiler and a solver, over every shape of rule.

use std::{collections::BTreeMap, process::Command, str::FromStr as _};

use cedar_policy::{ActionConstraint, Policy as CedarPolicy, PolicyId, RequestEnv, Schema};
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicy, solver::LocalSolver};

use super::random::{self, Rng};
use crate::{SCHEMA, TrustDomains, admit_rule, default_egress_permit, default_permit};

/// Whether the solver is there; `CVC5` names another than the one on PATH.
fn has_solver() -> bool {
    let program = std::env::var("CVC5").unwrap_or_else(|_| "cvc5".to_owned());
    let is_there = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_there {
        println!("skipped: there is no cvc5 here (Debian package `cvc5`), so nothing is proved");
    }
    is_there
}

/// Asks the solver about policies; one process serves all questions.
struct Prover {
    schema: Schema,
    compiler: CedarSymCompiler<LocalSolver>,
}

impl Prover {
    fn new() -> Self {
        let schema = Schema::from_str(SCHEMA).unwrap();
        let solver = LocalSolver::cvc5_with_args(["--tlimit-per=20000"]).unwrap();
        Self { schema, compiler: CedarSymCompiler::new(solver).unwrap() }
    }

    /// The environments in which the policy can fail, among those of the actions that it names.
    async fn failures(&mut self, policy: &CedarPolicy) -> Vec<RequestEnv> {
        let is_named = |environment: &RequestEnv| match policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(action) => action == *environment.action(),
            ActionConstraint::In(actions) => actions.contains(environment.action()),
        };
        let mut found = Vec::new();
        for environment in self.schema.request_envs().filter(is_named).collect::<Vec<_>>() {
            let compiled = CompiledPolicy::compile(policy, &environment, &self.schema).unwrap();
            let is_safe = self.compiler.check_never_errors_opt(&compiled).await;
            if !is_safe.unwrap_or_else(|error| panic!("{error}: {policy}")) {
                found.push(environment);
            }
        }
        found
    }
}

fn parsed(id: &str, text: &str) -> CedarPolicy {
    CedarPolicy::parse(Some(PolicyId::new(id)), text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The text with its literals renamed in the order of their first appearance: whether a policy can fail depends on which of them are equal,
/// not on what they say.
fn shape(text: &str) -> String {
    let (mut literals, mut shape) = (Vec::<String>::new(), String::new());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let mut literal = String::from(character);
        match character {
            '"' => {
                while let Some(next) = characters.next() {
                    literal.push(next);
                    match next {
                        '\\' => literal.extend(characters.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '0'..='9' => literal.extend(std::iter::from_fn(|| characters.next_if(char::is_ascii_digit))),
            _ => {
                shape.push(character);
                continue;
            }
        }
        let known = literals.iter().position(|known| *known == literal);
        let index = known.unwrap_or_else(|| {
            literals.push(literal);
            literals.len() - 1
        });
        shape += &format!("<{index}>");
    }
    shape
}

#[tokio::test]
async fn no_policy_that_a_rule_becomes_can_fail() {
    if !has_solver() {
        return;
    }
    let domains = TrustDomains::new("cluster.local", ["old.local".to_owned()]);
    let mut rules = random::shapes();
    let rounds = if std::env::var_os("PALISADE_LONG").is_some() { 2_000 } else { 100 };
    for seed in 0..rounds {
        rules.push(random::rule(&mut Rng::new(seed + 9_000), rules.len()));
    }
    let mut shapes: BTreeMap<String, (String, String)> = BTreeMap::new();
    let constants = [default_permit(), default_egress_permit()];
    let admitted = rules.iter().flat_map(|rule| {
        let admitted = admit_rule(rule, &domains);
        assert_eq!(admitted.problems, [], "{rule:#?}");
        admitted.policies
    });
    for policy in constants.into_iter().chain(admitted) {
        let condition = policy.cedar.lines().filter(|line| !line.starts_with('@')).collect::<Vec<_>>().join("\n");
        shapes.entry(shape(&condition)).or_insert_with(|| (policy.id.to_string(), condition));
    }
    assert!(shapes.len() > 100, "{}", shapes.len());
    let mut prover = Prover::new();
    for (id, text) in shapes.values() {
        let failures = prover.failures(&parsed(id, text)).await;
        assert!(failures.is_empty(), "{id} can fail: {failures:?}\n{text}");
    }
}

#[tokio::test]
async fn the_proof_finds_what_can_fail() {
    if !has_solver() {
        return;
    }
    let mut prover = Prover::new();
    // Strict validation takes all of these.
    for (what, condition, environments) in [
        ("an overflow", "context.destination.port * 2 > 5", 1),
        ("an overflow behind a guard", "context has tls && context.destination.port + 1 > 0", 1),
        ("nothing", "context has tls && context.tls has sni && context.tls.sni == \"a\"", 0),
    ] {
        let text = format!(
            "forbid(principal is Mesh::ServiceAccount, action == Mesh::Action::\"tcp\", resource) when {{ {condition} }};"
        );
        assert_eq!(prover.failures(&parsed("p", &text)).await.len(), environments, "{what}");
    }
}
