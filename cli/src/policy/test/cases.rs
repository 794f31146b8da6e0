//! The cases of PolicyTest documents: defaults, cases and rows merged into whole cases of `palisade eval`.

use std::path::PathBuf;

use anyhow::bail;
use palisade_control::source::files;
use palisade_crds::{
    Document, Object,
    palisade::{CaseFields, Expectation, PolicyTest, PolicyTestCase},
    parse,
};
use serde_json::{Map, Value};

use crate::eval::Case;

/// One case, ready to be judged.
#[derive(Debug)]
pub(super) struct TestCase {
    /// The PolicyTest, `NAMESPACE/NAME`.
    pub(super) suite: String,
    pub(super) name: String,
    /// The case, or why it is none.
    pub(super) case: Result<Case, String>,
    pub(super) expect: Expectation,
}

/// Reads all PolicyTests of files and folders.
///
/// # Errors
/// When a file cannot be read, or a PolicyTest is malformed.
pub(super) fn read(paths: &[PathBuf], namespace: &str) -> anyhow::Result<Vec<TestCase>> {
    let documents = files::read(paths)?;
    if let Some(text) = documents.unreadable.first() {
        bail!("{}:{}: {}", text.file, text.line, text.message);
    }
    let mut cases = Vec::new();
    for document in &documents.documents {
        let is_test = document.value.get("kind").and_then(Value::as_str) == Some("PolicyTest");
        if is_test {
            cases.extend(of_document(document, namespace)?);
        }
    }
    Ok(cases)
}

fn of_document(document: &Document, namespace: &str) -> anyhow::Result<Vec<TestCase>> {
    let parsed = parse(document, namespace);
    let place = |line: Option<u32>| match line {
        Some(line) => format!("{}:{line}", document.file),
        None => document.file.to_string(),
    };
    if let Some(issue) = parsed.issues.iter().find(|issue| issue.is_error()) {
        bail!("{}: {}: {}", place(document.line_of_issue(issue)), issue.path, issue.message);
    }
    let Object::PolicyTest(test) = parsed.object else { bail!("{}: not a PolicyTest", place(None)) };
    let PolicyTest { defaults, cases } = *test;
    let suite = format!("{}/{}", parsed.meta.namespace, parsed.meta.name);
    let mut all = Vec::new();
    for case in cases {
        let PolicyTestCase { name, case: CaseFields(mut fields), expect } = case;
        let rows = fields.remove("rows");
        let whole = merged(Value::Object(defaults.0.clone()), Value::Object(fields));
        match rows {
            None => all.push(TestCase { suite: suite.clone(), name, case: case_of(whole), expect }),
            Some(Value::Array(rows)) => {
                for (index, row) in rows.into_iter().enumerate() {
                    all.push(row_of(&suite, &name, index, &whole, row, &expect)?);
                }
            }
            Some(_) => bail!("{}: case `{name}`: `rows` must be a list", place(None)),
        }
    }
    Ok(all)
}

/// One row of a table: fields that replace the case's, and what else is expected of it.
fn row_of(
    suite: &str,
    name: &str,
    index: usize,
    whole: &Value,
    row: Value,
    expect: &Expectation,
) -> anyhow::Result<TestCase> {
    let Value::Object(mut row) = row else { bail!("{suite}: case `{name}`: row {index} must be an object") };
    let name = match row.remove("name") {
        Some(Value::String(own)) => format!("{name} / {own}"),
        _ => format!("{name} [{index}]"),
    };
    let expect = match row.remove("expect") {
        None => expect.clone(),
        Some(own) => {
            let both = merged(serde_json::to_value(expect)?, own);
            let Some(expect) = expectation(both) else { bail!("{suite}: `{name}`: `expect` is malformed") };
            expect
        }
    };
    let case = case_of(merged(whole.clone(), Value::Object(row)));
    Ok(TestCase { suite: suite.to_owned(), name, case, expect })
}

/// Reads an expectation as a PolicyTest would.
fn expectation(value: Value) -> Option<Expectation> {
    let Value::Object(fields) = value else { return None };
    let written: Map<String, Value> = fields.into_iter().filter(|(_, value)| !value.is_null()).collect();
    let document = Document::from_value(serde_json::json!({
        "apiVersion": "palisade.dev/v1alpha1", "kind": "PolicyTest", "metadata": {"name": "row"},
        "spec": {"cases": [{"name": "row", "expect": written}]},
    }));
    let parsed = parse(&document, "default");
    if !parsed.issues.is_empty() {
        return None;
    }
    match parsed.object {
        Object::PolicyTest(test) => test.cases.into_iter().next().map(|case| case.expect),
        _ => None,
    }
}

fn case_of(value: Value) -> Result<Case, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// `over` wins; objects are merged field by field, `null` takes a field away.
fn merged(under: Value, over: Value) -> Value {
    match (under, over) {
        (Value::Object(mut under), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    under.remove(&key);
                    continue;
                }
                let below = under.remove(&key).unwrap_or(Value::Null);
                under.insert(key, merged(below, value));
            }
            Value::Object(under)
        }
        (_, over) => over,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn given_fields_win_and_null_takes_away() {
        let defaults =
            json!({"proxy": {"namespace": "a", "name": "b"}, "http": {"path": "/", "headers": [["x", "1"]]}});
        let case = json!({"http": {"path": "/y", "headers": [["z", "2"]]}, "proxy": {"name": null}});
        let expected = json!({"proxy": {"namespace": "a"}, "http": {"path": "/y", "headers": [["z", "2"]]}});
        assert_eq!(merged(defaults, case), expected);
    }
}
