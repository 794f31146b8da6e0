//! An explanation for a person, from its JSON.

use std::fmt::Write;

use serde_json::Value;

/// Renders an explanation: who asked for what, what decided, and the nearest miss clause by clause.
pub(super) fn render(explanation: &Value) -> String {
    let mut text = String::new();
    let field = |path: &str| explanation.pointer(path).map(plain).filter(|text| !text.is_empty());
    let mut line = |label: &str, value: Option<String>| {
        if let Some(value) = value {
            // Writing into a String cannot fail.
            let _written = writeln!(text, "{label:<10} {value}").is_ok();
        }
    };
    line("decision", field("/decision"));
    line("verdict", field("/verdict"));
    line("reason", field("/reason"));
    line("time", field("/time"));
    line("source", field("/source"));
    let request =
        ["/request/method", "/request/authority", "/request/path"].map(|path| field(path).unwrap_or_default());
    line("request", Some(request.join(" ")).filter(|request| !request.trim().is_empty()));
    for policy in items(explanation, "/policies") {
        line("decided by", Some(policy_name(policy)));
    }
    for miss in items(explanation, "/nearest") {
        line("near miss", Some(policy_name(miss)));
        for clause in items(miss, "/failed") {
            line("", Some(failed(clause)));
        }
    }
    for said in items(explanation, "/shadow") {
        let decision = said.get("decision").map(plain).filter(|decision| !decision.is_empty());
        let is_matched = said.get("matched").is_some_and(|matched| *matched == Value::Bool(true));
        let does = if is_matched { "matches" } else { "does not match" };
        let would = decision.map_or_else(String::new, |decision| format!(", alone: {decision}"));
        line("dry run", Some(format!("{} {does}{would}", policy_name(said))));
        for clause in said.get("nearest").map(|nearest| items(nearest, "/failed")).unwrap_or_default() {
            line("", Some(failed(clause)));
        }
    }
    line("", field("/text"));
    text
}

/// What a clause wanted, and what it got.
fn failed(clause: &Value) -> String {
    let value = |name: &str| clause.get(name).map(plain).unwrap_or_default();
    let actual = match value("actual") {
        actual if actual.is_empty() => "nothing".to_owned(),
        actual => actual,
    };
    format!("{} wants {}, got {actual}", value("field"), value("expected"))
}

fn items<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `NS/NAME, rule N`, from an object or a plain id.
fn policy_name(policy: &Value) -> String {
    let part = |name: &str| policy.get(name).map(plain).unwrap_or_default();
    if policy.is_string() {
        return plain(policy);
    }
    let rule = part("rule");
    let rule = if rule.is_empty() { rule } else { format!(", rule {rule}") };
    format!("{}/{}{rule}", part("namespace"), part("name"))
}

/// A value as a person writes it: texts without quotes, lists with commas, nothing for null.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_nearest_miss_names_policy_clause_wanted_and_got() {
        let text = render(&json!({
            "decision": "p1-7", "verdict": "deny", "source": "spiffe://cluster.local/ns/a/sa/b",
            "request": {"method": "GET", "authority": "details:9080", "path": "/details/0"},
            "policies": [],
            "nearest": [{"namespace": "bookinfo", "name": "details", "rule": 0,
                "failed": [{"field": "to[0].operation.methods", "expected": ["HEAD"], "actual": "GET"}]}],
        }));
        assert!(text.contains("bookinfo/details, rule 0"), "{text}");
        assert!(text.contains("to[0].operation.methods wants [HEAD], got GET"), "{text}");
        assert!(text.contains("GET details:9080 /details/0"), "{text}");
    }
}
