//! The difference of two objects as a JSON Patch (RFC 6902).

use serde_json::{Map, Value, json};

/// The operations that make `new` of `old`; empty where they are equal.
#[must_use]
pub fn json_patch(old: &Value, new: &Value) -> Value {
    let mut operations = Vec::new();
    value(old, new, "", &mut operations);
    Value::Array(operations)
}

fn value(old: &Value, new: &Value, path: &str, operations: &mut Vec<Value>) {
    match (old, new) {
        _ if old == new => {}
        (Value::Object(old), Value::Object(new)) => object(old, new, path, operations),
        (Value::Array(old), Value::Array(new)) => array(old, new, path, operations),
        _ => operations.push(json!({"op": "replace", "path": path, "value": new})),
    }
}

fn object(old: &Map<String, Value>, new: &Map<String, Value>, path: &str, operations: &mut Vec<Value>) {
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        operations.push(json!({"op": "remove", "path": step(path, key)}));
    }
    for (key, inner) in new {
        match old.get(key) {
            Some(old) => value(old, inner, &step(path, key), operations),
            None => operations.push(json!({"op": "add", "path": step(path, key), "value": inner})),
        }
    }
}

/// What both lists begin and end with stays; between, items are changed in place, removed or added.
fn array(old: &[Value], new: &[Value], path: &str, operations: &mut Vec<Value>) {
    let same = |pair: &(&Value, &Value)| pair.0 == pair.1;
    let prefix = old.iter().zip(new).take_while(same).count();
    let (old_rest, new_rest) = (old.get(prefix..).unwrap_or_default(), new.get(prefix..).unwrap_or_default());
    let suffix = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(same).count();
    let old_middle = old_rest.get(..old_rest.len() - suffix).unwrap_or_default();
    let new_middle = new_rest.get(..new_rest.len() - suffix).unwrap_or_default();
    let kept = old_middle.len().min(new_middle.len());
    for (index, (old, new)) in old_middle.iter().zip(new_middle).enumerate() {
        value(old, new, &format!("{path}/{}", prefix + index), operations);
    }
    for index in (kept..old_middle.len()).rev() {
        operations.push(json!({"op": "remove", "path": format!("{path}/{}", prefix + index)}));
    }
    for (index, item) in new_middle.iter().enumerate().skip(kept) {
        operations.push(json!({"op": "add", "path": format!("{path}/{}", prefix + index), "value": item}));
    }
}

fn step(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}
