//! Conditions, and what proxies have to say about an object.

use std::{collections::BTreeMap, sync::Arc};

use palisade_model::origin::Origin;

use crate::{object::ObjectKey, resolve::gateway_api::status};

/// Laggards that a message names; the others are counted.
const NAMED: usize = 3;

/// Status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Not known.
    Unknown,
}

/// A condition, without generation and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its type.
    pub kind: &'static str,
    /// Its status.
    pub truth: Truth,
    /// In one word.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

/// Which proxies an object may concern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concern {
    /// Those of Gateways.
    Gateways(Vec<ObjectKey>),
    /// Those of a namespace.
    Namespace(Arc<str>),
    /// All.
    Mesh,
}

/// How many proxies do what an object says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acked {
    /// Proxies that have swapped it in on all workers.
    pub by: usize,
    /// Connected proxies that it concerns.
    pub of: usize,
    /// Those that have not, with the reason.
    pub missing: BTreeMap<String, String>,
    /// Proxies that should be connected, that it may concern, and that are not.
    pub absent: Vec<String>,
}

/// What proxies have acknowledged.
pub trait Acks {
    /// Proxies that do exactly what the object says at its generation.
    fn enforced(&self, object: &Origin, concern: &Concern) -> Acked;

    /// Proxies that have swapped in something made from the object at its generation.
    fn programmed(&self, object: &Origin, concern: &Concern) -> Acked;
}

impl Truth {
    /// As Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl Condition {
    /// One that holds; its reason is `reason`.
    pub(super) fn holds(kind: &'static str, reason: &'static str) -> Self {
        Self { kind, truth: Truth::True, reason, message: String::new() }
    }

    /// One that does not hold.
    pub(super) fn fails(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, truth: Truth::False, reason, message: message.into() }
    }

    /// With a message.
    pub(super) fn saying(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// Whether it holds.
    pub fn is_true(&self) -> bool {
        self.truth == Truth::True
    }

    /// What resolving found.
    pub(super) fn resolved(condition: &status::Condition) -> Self {
        let status::Condition { condition_type, is_true, reason, message } = condition;
        let truth = if *is_true { Truth::True } else { Truth::False };
        Self { kind: condition_type, truth, reason, message: message.to_string() }
    }
}

impl Acked {
    /// Whether all that are connected do, and all that should be are connected.
    pub fn is_everywhere(&self) -> bool {
        self.by == self.of && self.missing.is_empty() && self.absent.is_empty()
    }

    /// `VERB 40/40`, and who is missing.
    pub fn told(&self, verb: &str) -> String {
        let Self { by, of, missing, absent } = self;
        let mut text = format!("{verb} {by}/{of}");
        let lagging = missing.iter().map(|(proxy, reason)| format!("{proxy}: {reason}"));
        let names: Vec<String> = lagging.chain(absent.iter().map(|proxy| format!("{proxy}: not connected"))).collect();
        for (index, name) in names.iter().take(NAMED).enumerate() {
            text.push_str(if index == 0 { ": " } else { "; " });
            text.push_str(name);
        }
        if names.len() > NAMED {
            text.push_str(&format!("; and {} more", names.len() - NAMED));
        }
        text
    }

    /// Why it is not so everywhere, in one word.
    fn reason(&self) -> &'static str {
        let says = |what: &str| self.missing.values().any(|reason| reason.starts_with(what));
        if says("refused") {
            "Rejected"
        } else if says("withheld") {
            "Withheld"
        } else if self.missing.is_empty() && !self.absent.is_empty() {
            "NotConnected"
        } else {
            "Pending"
        }
    }

    /// The condition that says who enforces an object.
    pub(super) fn enforced(&self, kind: &'static str, is_dry_run: bool) -> Condition {
        let is_everywhere = self.is_everywhere();
        if is_dry_run {
            let message = format!("dry run, changes no answer: {}", self.told("evaluated"));
            return Condition::fails(kind, "DryRun", message);
        }
        let message = self.told("Enforced");
        match (is_everywhere, self.of) {
            (true, 0) => Condition::holds(kind, "NoProxies").saying(message),
            (true, _) => Condition::holds(kind, "Enforced").saying(message),
            (false, _) => Condition::fails(kind, self.reason(), message),
        }
    }

    /// The condition that says whether proxies serve a Gateway.
    pub(super) fn programmed(&self) -> Condition {
        match (self.is_everywhere(), self.of) {
            (true, 1..) => Condition::holds("Programmed", "Programmed").saying(self.told("Programmed")),
            (_, 0) if self.absent.is_empty() => {
                Condition::fails("Programmed", "Pending", "no proxy of this Gateway is connected")
            }
            _ => Condition::fails("Programmed", "Pending", self.told("Programmed")),
        }
    }
}
