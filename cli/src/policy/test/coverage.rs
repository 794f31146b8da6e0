//! Which rules and clauses the cases touched.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use palisade_compile::Mesh;
use palisade_policy::{CompiledPolicy, Coverage};
use serde_json::{Value, json};

/// Everything that could be touched, and what was.
#[derive(Debug)]
pub(super) struct Touched {
    /// Rules by name with their clauses; the forms of one rule for HTTP and TCP are one.
    rules: BTreeMap<String, Rule>,
    coverage: Coverage,
}

#[derive(Debug, Default)]
struct Rule {
    ids: Vec<String>,
    clauses: Vec<String>,
}

/// What was touched of one rule.
struct State<'a> {
    name: &'a str,
    is_matched: bool,
    /// Clauses that never held, and clauses that never failed.
    never_held: Vec<&'a str>,
    never_failed: Vec<&'a str>,
}

impl Touched {
    /// Nothing of a mesh has been touched yet.
    pub(super) fn of(mesh: &Mesh) -> Self {
        let mut rules: BTreeMap<String, Rule> = BTreeMap::new();
        for policy in mesh.policies() {
            let Some(source) = &policy.source else { continue };
            let index = policy.rule.map_or_else(String::new, |rule| format!("[{rule}]"));
            let rule = rules.entry(format!("{source}{index}")).or_default();
            rule.ids.push(policy.id.to_string());
            for clause in CompiledPolicy::load(policy).clauses() {
                if !rule.clauses.contains(&clause) {
                    rule.clauses.push(clause);
                }
            }
        }
        Self { rules, coverage: Coverage::default() }
    }

    /// Where touches are noted.
    pub(super) fn coverage(&mut self) -> &mut Coverage {
        &mut self.coverage
    }

    fn states(&self) -> Vec<State<'_>> {
        self.rules.iter().map(|(name, rule)| self.state(name, rule)).collect()
    }

    fn state<'a>(&'a self, name: &'a str, rule: &'a Rule) -> State<'a> {
        let of_rule = || {
            let mine = |(id, _): &(&palisade_model::policy::PolicyId, _)| rule.ids.iter().any(|own| own == id.as_str());
            self.coverage.policies.iter().filter(mine).map(|(_, covered)| covered)
        };
        let count = |clause: &str, side: fn(&(u64, u64)) -> u64| -> u64 {
            of_rule().filter_map(|covered| covered.clauses.get(clause)).map(side).sum()
        };
        let clauses = || rule.clauses.iter().map(String::as_str);
        State {
            name,
            is_matched: of_rule().any(|covered| covered.matched > 0),
            never_held: clauses().filter(|clause| count(clause, |c| c.0) == 0).collect(),
            never_failed: clauses().filter(|clause| count(clause, |c| c.1) == 0).collect(),
        }
    }

    /// For people.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let states = self.states();
        for state in &states {
            if !state.is_matched {
                writeln!(out, "coverage: {} was matched by no case", state.name)?;
            }
            for (clauses, word) in [(&state.never_held, "never held"), (&state.never_failed, "never failed")] {
                if !clauses.is_empty() {
                    writeln!(out, "coverage: {}: {word}: {}", state.name, clauses.join(", "))?;
                }
            }
        }
        let matched = states.iter().filter(|state| state.is_matched).count();
        let sides = self.rules.values().map(|rule| 2 * rule.clauses.len()).sum::<usize>();
        let missed = states.iter().map(|state| state.never_held.len() + state.never_failed.len()).sum::<usize>();
        writeln!(
            out,
            "coverage: {matched} of {} rules matched; {} of {sides} clause sides seen",
            states.len(),
            sides - missed
        )
    }

    /// For programs.
    pub(super) fn report(&self) -> Value {
        let rule = |state: State<'_>| {
            json!({
                "rule": state.name, "matched": state.is_matched,
                "neverHeld": state.never_held, "neverFailed": state.never_failed,
            })
        };
        let states = self.states();
        let matched = states.iter().filter(|state| state.is_matched).count();
        json!({ "rulesMatched": matched, "rules": states.into_iter().map(rule).collect::<Vec<_>>() })
    }
}
