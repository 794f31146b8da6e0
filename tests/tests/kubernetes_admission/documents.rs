//! Documents of each kind with something wrong in each place, made from its definition.

use serde_json::{Map, Value, json};

/// What is written in each place.
fn values() -> Vec<Value> {
    vec![
        json!("zz"),
        json!(7),
        json!(-1),
        json!(1.5),
        json!(true),
        json!([]),
        json!([{}]),
        json!({}),
        Value::Null,
        json!(""),
        json!(1_u64 << 33),
        json!("x".repeat(70)),
        json!("x".repeat(300)),
        json!("0s"),
        json!("*"),
        json!("A_b"),
        json!("unix://"),
        json!("unix:///a/"),
        json!("ftp://a"),
        json!({"a": null}),
        json!({"a": "*"}),
        json!({"*": "a"}),
        json!({"0": {}}),
    ]
}

/// A value that the schema takes, with nothing in it that need not be.
pub(crate) fn least(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let mut fields = Map::new();
            for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                fields.insert(key.to_owned(), least(&schema["properties"][key]));
            }
            if schema["minProperties"].as_u64().is_some_and(|count| count > 0) {
                fields.insert("80".to_owned(), least(&schema["additionalProperties"]));
            }
            Value::Object(fields)
        }
        Some("array") => {
            let count = schema["minItems"].as_u64().unwrap_or(0);
            (0..count).map(|_| least(&schema["items"])).collect()
        }
        Some("string") => {
            let rules = schema["x-kubernetes-validations"].to_string();
            let text = if rules.contains("duration(self)") {
                "5s"
            } else if rules.contains("url(") {
                "http://a.example/x"
            } else {
                "a"
            };
            json!(text)
        }
        Some("integer") => json!(schema["minimum"].as_i64().unwrap_or(0).max(1)),
        Some("number") => json!(1.0),
        Some("boolean") => json!(true),
        _ => json!({"x": 1}),
    }
}

/// A step from one schema to the next.
#[derive(Clone, Debug)]
enum Step {
    Field(String),
    Item,
    Entry,
}

/// All specs with something in one place, for the schema of a spec.
pub(crate) fn specs(schema: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    walk(schema, schema, &mut Vec::new(), &mut found);
    found
}

/// A spec with `unknown: 1` in each place that has fields, and whether it stands where anything may.
pub(crate) fn specs_with_unknown_fields(schema: &Value) -> Vec<Value> {
    let mut places = Vec::new();
    objects(schema, &mut Vec::new(), &mut places);
    places
        .iter()
        .map(|(path, inner)| {
            let mut value = least(inner);
            if let Some(fields) = value.as_object_mut() {
                fields.insert("unknown".to_owned(), json!(1));
            }
            at(schema, path, value)
        })
        .collect()
}

fn objects<'s>(schema: &'s Value, path: &mut Vec<Step>, found: &mut Vec<(Vec<Step>, &'s Value)>) {
    if schema["properties"].is_object() {
        found.push((path.clone(), schema));
    }
    inner(schema, path, &mut |schema, path| objects(schema, path, found));
}

fn inner<'s>(schema: &'s Value, path: &mut Vec<Step>, visit: &mut dyn FnMut(&'s Value, &mut Vec<Step>)) {
    // What subsets and single ports hold is what the whole holds.
    let is_deep = path.len() > 4
        && path
            .iter()
            .any(|step| matches!(step, Step::Field(name) if name == "portLevelSettings" || name == "subsets"));
    if is_deep {
        return;
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        path.push(Step::Field(name.clone()));
        visit(field, path);
        path.pop();
    }
    for (key, step) in [("items", Step::Item), ("additionalProperties", Step::Entry)] {
        if let Some(field) = schema.get(key) {
            path.push(step);
            visit(field, path);
            path.pop();
        }
    }
}

fn walk(root: &Value, schema: &Value, path: &mut Vec<Step>, found: &mut Vec<Value>) {
    found.push(at(root, path, least(schema)));
    found.extend(values().into_iter().map(|value| at(root, path, value)));
    if let Some(fields) = schema["properties"].as_object() {
        let names: Vec<&String> = fields.keys().collect();
        for (index, first) in names.iter().enumerate() {
            for second in names.iter().skip(index + 1) {
                let mut value = least(schema);
                for name in [first, second] {
                    value[name.as_str()] = least(&fields[name.as_str()]);
                }
                found.push(at(root, path, value));
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let mut value = least(schema);
            value.as_object_mut().unwrap().remove(name);
            found.push(at(root, path, value));
        }
    }
    inner(schema, path, &mut |schema, path| walk(root, schema, path, found));
}

/// The least value of the schema, but with this value in that place.
fn at(schema: &Value, path: &[Step], value: Value) -> Value {
    match path.split_first() {
        None => value,
        Some((Step::Item, rest)) => json!([at(&schema["items"], rest, value)]),
        Some((Step::Entry, rest)) => json!({"80": at(&schema["additionalProperties"], rest, value)}),
        Some((Step::Field(name), rest)) => {
            let mut whole = least(schema);
            whole[name] = at(&schema["properties"][name], rest, value);
            whole
        }
    }
}
