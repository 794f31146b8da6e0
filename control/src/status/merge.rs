//! What is written to a status: own entries as they should be, times kept where nothing turned, what others wrote left alone. Pure.

use palisade_compile::status::CONTROLLER_NAME;
use serde_json::{Map, Value};

/// What a kind's status looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// All of it is ours; lists are merged by key on the server.
    Own,
    /// One list that controllers share, each with its own entries.
    Entries {
        /// The list.
        list: &'static str,
        /// The field that tells our entries apart.
        reference: &'static str,
    },
    /// Our own kind: conditions, and `ancestors` of which ours are replaced.
    Policy,
    /// Istio's: `conditions` and `validationMessages` are shared; so are the `addresses` of a ServiceEntry, which both sides keep as
    /// they find them (`palisade_compile` adopts what is there).
    Istio,
}

/// What is to be written.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    /// The status to apply.
    pub(super) status: Value,
    /// More than a message's text is different.
    pub(super) is_urgent: bool,
}

/// Conditions of ours that are at times not there.
const OPTIONAL: [&str; 4] = ["Enforced", "OverlappingTLSConfig", "SupportedVersion", "palisade.dev/Enforced"];

/// Types of our conditions on Istio's kinds.
const ON_ISTIO: [&str; 2] = ["Accepted", "Enforced"];

/// What has to be written for `held`, the status as it is, to say `wanted`, which has no times; `None` = it says so.
pub(super) fn change(shape: Shape, held: &Value, wanted: &Value, now: &str) -> Option<Change> {
    let ours = own_part(shape, held);
    let wanted = &complete(shape, wanted);
    if says(&ours, wanted) {
        return None;
    }
    let is_urgent = !says(&without(&ours, "message"), &without(wanted, "message"));
    let timed = with_times(&ours, wanted, now);
    Some(Change { status: with_others(shape, held, timed), is_urgent })
}

/// With the lists that may be left out, so that entries which are to go are seen.
fn complete(shape: Shape, wanted: &Value) -> Value {
    let mut wanted = wanted.clone();
    let lists: &[&str] = match shape {
        Shape::Own | Shape::Entries { .. } => return wanted,
        Shape::Policy => &["ancestors"],
        Shape::Istio => &["validationMessages", "addresses"],
    };
    if let Some(fields) = wanted.as_object_mut() {
        for list in lists {
            fields.entry(*list).or_insert_with(|| Value::Array(Vec::new()));
        }
    }
    wanted
}

/// What in a status is ours.
fn own_part(shape: Shape, held: &Value) -> Value {
    match shape {
        Shape::Own => held.clone(),
        Shape::Entries { list, reference: _ } => {
            let mut own = Map::new();
            own.insert(list.to_owned(), entries(held, list, is_ours).into());
            Value::Object(own)
        }
        Shape::Policy => {
            let mut own = held.as_object().cloned().unwrap_or_default();
            if own.contains_key("ancestors") {
                own.insert("ancestors".to_owned(), entries(held, "ancestors", is_ours).into());
            }
            Value::Object(own)
        }
        Shape::Istio => {
            let mut own = Map::new();
            own.insert("conditions".to_owned(), entries(held, "conditions", is_own_condition).into());
            own.insert("validationMessages".to_owned(), entries(held, "validationMessages", is_own_message).into());
            for field in ["observedGeneration", "addresses"] {
                if let Some(held) = held.get(field) {
                    own.insert(field.to_owned(), held.clone());
                }
            }
            Value::Object(own)
        }
    }
}

/// Our part together with what others wrote into the lists that are written as a whole.
fn with_others(shape: Shape, held: &Value, ours: Value) -> Value {
    let Value::Object(mut status) = ours else { return ours };
    let is_required = matches!(shape, Shape::Entries { .. });
    let mut share = |list: &str, is_ours: fn(&Value) -> bool| {
        let mut all = entries(held, list, |entry| !is_ours(entry));
        all.extend(status.get(list).and_then(Value::as_array).cloned().unwrap_or_default());
        if all.is_empty() && !is_required {
            status.remove(list);
        } else {
            status.insert(list.to_owned(), all.into());
        }
    };
    match shape {
        Shape::Own => {}
        Shape::Entries { list, reference: _ } => share(list, is_ours),
        Shape::Policy => share("ancestors", is_ours),
        Shape::Istio => {
            share("conditions", is_own_condition);
            share("validationMessages", is_own_message);
            // An empty list takes away what others wrote; where there is none it says nothing.
            let is_empty = |list: Option<&Value>| list.and_then(Value::as_array).is_none_or(Vec::is_empty);
            if is_empty(status.get("addresses")) && is_empty(held.get("addresses")) {
                status.remove("addresses");
            }
        }
    }
    Value::Object(status)
}

fn entries(held: &Value, list: &str, is_meant: impl Fn(&Value) -> bool) -> Vec<Value> {
    held.get(list).and_then(Value::as_array).into_iter().flatten().filter(|entry| is_meant(entry)).cloned().collect()
}

fn is_ours(entry: &Value) -> bool {
    entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER_NAME)
}

fn is_own_condition(condition: &Value) -> bool {
    condition.get("type").and_then(Value::as_str).is_some_and(|kind| ON_ISTIO.contains(&kind))
}

fn is_own_message(message: &Value) -> bool {
    message.pointer("/type/code").and_then(Value::as_str).is_some_and(|code| code.starts_with("PLS"))
}

/// Whether `held` says all that `wanted` says. Times do not count, nor what others may have added.
fn says(held: &Value, wanted: &Value) -> bool {
    match (held, wanted) {
        (Value::Object(held), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| {
            let is_empty = wanted.as_array().is_some_and(Vec::is_empty);
            match held.get(key) {
                Some(held) => says(held, wanted),
                // A list without entries may be left out, a text without letters too.
                None => is_empty || wanted.as_str() == Some(""),
            }
        }),
        (Value::Array(held), Value::Array(wanted)) if is_conditions(held) && is_conditions(wanted) => {
            let is_there = |wanted: &Value| held.iter().any(|held| same("type", held, wanted) && says(held, wanted));
            let is_left = |held: &Value| {
                let kind = held.get("type").and_then(Value::as_str).unwrap_or_default();
                OPTIONAL.contains(&kind) && !wanted.iter().any(|wanted| same("type", held, wanted))
            };
            wanted.iter().all(is_there) && !held.iter().any(is_left)
        }
        (Value::Array(held), Value::Array(wanted)) => {
            held.len() == wanted.len() && held.iter().zip(wanted).all(|(held, wanted)| says(held, wanted))
        }
        (held, wanted) => held == wanted,
    }
}

/// Whether a list is one of conditions; an empty one may be.
fn is_conditions(list: &[Value]) -> bool {
    list.iter().all(|entry| entry.get("type").is_some_and(Value::is_string) && entry.get("status").is_some())
}

fn same(key: &str, a: &Value, b: &Value) -> bool {
    a.get(key).is_some() && a.get(key) == b.get(key)
}

/// Without a field, wherever it stands.
pub(super) fn without(value: &Value, field: &str) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(key, _)| *key != field)
            .map(|(key, value)| (key.clone(), without(value, field)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(list) => list.iter().map(|value| without(value, field)).collect(),
        other => other.clone(),
    }
}

/// `wanted` with times: those that `held` has where a condition's status is the same, else now.
fn with_times(held: &Value, wanted: &Value, now: &str) -> Value {
    match wanted {
        Value::Object(fields) => {
            let mut timed: Map<String, Value> = fields
                .iter()
                .map(|(key, value)| (key.clone(), with_times(held.get(key).unwrap_or(&Value::Null), value, now)))
                .collect();
            if fields.contains_key("type") && fields.contains_key("status") {
                let before = held.get("lastTransitionTime").filter(|_| same("status", held, wanted));
                timed.insert("lastTransitionTime".to_owned(), before.cloned().unwrap_or_else(|| now.into()));
            }
            Value::Object(timed)
        }
        Value::Array(list) => {
            let held = held.as_array().map(Vec::as_slice).unwrap_or_default();
            let counterpart = |wanted: &Value| held.iter().find(|held| is_counterpart(held, wanted));
            list.iter().map(|value| with_times(counterpart(value).unwrap_or(&Value::Null), value, now)).collect()
        }
        other => other.clone(),
    }
}

/// Whether two entries of a list are about the same thing.
fn is_counterpart(held: &Value, wanted: &Value) -> bool {
    let keys = ["parentRef", "ancestorRef", "type", "name"];
    keys.iter().find(|key| wanted.get(**key).is_some()).is_some_and(|key| same(key, held, wanted))
}

#[cfg(test)]
mod tests;
