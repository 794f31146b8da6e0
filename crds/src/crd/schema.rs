//! From a kind's declaration to the structural OpenAPI schema of its CRD.

use serde_json::{Map, Value, json};

use crate::schema::{CelRule, Check, FieldShape, Leaf, RecordShape, Shape};

/// At most this many places, and rules about alternatives are written in CEL, whose messages people understand; else as `oneOf`, which
/// costs the API server nothing that it would have to bound.
const MOST_PLACES: usize = 1 << 18;

/// Number of places that a schema stands for; `None` is without bound.
type Places = Option<usize>;

impl Shape {
    /// Documentation of a record; of other shapes there is none.
    pub(super) fn doc(self) -> &'static [&'static str] {
        match self {
            Self::Record(record) => record.doc,
            Self::Leaf(_) | Self::List(_) | Self::Map(_) => &[],
        }
    }
}

/// The schema of a kind's `spec`.
pub(super) fn of(shape: Shape) -> Value {
    let mut fields = schema(shape, &[], Some(1));
    describe(&mut fields, shape.doc());
    Value::Object(fields)
}

/// Lines of documentation as one text, without what only Rust's documentation understands.
pub(super) fn text(doc: &[&str]) -> String {
    let joined = doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    joined.replace("[`super::", "`").replace("[`", "`").replace("`]", "`")
}

fn schema(shape: Shape, checks: &[Check], places: Places) -> Map<String, Value> {
    let mut fields = Map::new();
    match shape {
        Shape::Leaf(kind) => leaf(kind, &mut fields),
        Shape::List(item) => {
            insert(&mut fields, "type", "array");
            let each = each(checks);
            let inner = times(places, most_of(checks));
            let mut schema = schema(item(), each, inner);
            describe(&mut schema, item().doc());
            insert(&mut fields, "items", Value::Object(schema));
        }
        Shape::Map(value) => {
            insert(&mut fields, "type", "object");
            if matches!(value(), Shape::Leaf(Leaf::Any)) {
                insert(&mut fields, "x-kubernetes-preserve-unknown-fields", true);
            } else {
                let schema = schema(value(), each(checks), times(places, most_of(checks)));
                insert(&mut fields, "additionalProperties", Value::Object(schema));
            }
        }
        Shape::Record(record) => self::record(record, places, &mut fields),
    }
    for check in checks {
        constrain(check, &mut fields);
    }
    fields
}

fn insert(fields: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    fields.insert(key.to_owned(), value.into());
}

fn describe(fields: &mut Map<String, Value>, doc: &[&str]) {
    if !doc.is_empty() && !fields.contains_key("description") {
        fields.shift_insert(0, "description".to_owned(), text(doc).into());
    }
}

fn leaf(kind: Leaf, fields: &mut Map<String, Value>) {
    match kind {
        Leaf::Any => insert(fields, "x-kubernetes-preserve-unknown-fields", true),
        Leaf::Text => insert(fields, "type", "string"),
        Leaf::Flag => insert(fields, "type", "boolean"),
        Leaf::Number => {
            insert(fields, "type", "number");
            insert(fields, "format", "double");
        }
        Leaf::Choice(texts) => {
            insert(fields, "type", "string");
            insert(fields, "enum", texts);
        }
        Leaf::IntOrString => insert(fields, "x-kubernetes-int-or-string", true),
        Leaf::Bytes => {
            insert(fields, "type", "string");
            insert(fields, "format", "byte");
        }
        Leaf::Whole(least, most) => {
            insert(fields, "type", "integer");
            // The API server takes a format for a hint: what does not fit must be bounded.
            insert(fields, "format", if least == i128::from(i32::MIN) { "int32" } else { "int64" });
            for (key, bound) in [("minimum", least), ("maximum", most)] {
                if let Some(bound) = i64::try_from(bound).ok().filter(|bound| ![i64::MIN, i64::MAX].contains(bound)) {
                    insert(fields, key, bound);
                }
            }
        }
    }
}

fn record(record: &RecordShape, places: Places, fields: &mut Map<String, Value>) {
    insert(fields, "type", "object");
    let required: Vec<&str> =
        record.fields.iter().filter(|field| (field.is_required)()).map(|field| field.key).collect();
    if !required.is_empty() {
        insert(fields, "required", required);
    }
    if !record.fields.is_empty() {
        let properties: Map<String, Value> =
            record.fields.iter().map(|field| (field.key.to_owned(), property(field, places))).collect();
        insert(fields, "properties", Value::Object(properties));
    }
    alternatives(record.at_most_one, places, fields);
    for CelRule { rule, message } in record.rules {
        add_rule(fields, rule, message);
    }
}

fn property(field: &FieldShape, places: Places) -> Value {
    let mut schema = schema((field.shape)(), field.checks, places);
    describe(&mut schema, field.doc);
    Value::Object(schema)
}

/// Sets of fields of which at most one may be there.
fn alternatives(sets: &[&[&str]], places: Places, fields: &mut Map<String, Value>) {
    if places.is_some_and(|places| places <= MOST_PLACES) {
        for set in sets {
            let counted: Vec<String> = set.iter().map(|key| format!("(has(self.{key}) ? 1 : 0)")).collect();
            let named: Vec<String> = set.iter().map(|key| format!("`{key}`")).collect();
            let message = format!("at most one of {} may be set", named.join(", "));
            add_rule(fields, &format!("{} <= 1", counted.join(" + ")), &message);
        }
        return;
    }
    let one_of = |set: &&[&str]| {
        let present: Vec<Value> = set.iter().map(|key| json!({"required": [key]})).collect();
        let none = json!({"not": {"anyOf": present}});
        Value::Array(std::iter::once(none).chain(present).collect())
    };
    match sets {
        [] => {}
        [set] => insert(fields, "oneOf", one_of(set)),
        sets => insert(fields, "allOf", sets.iter().map(|set| json!({"oneOf": one_of(set)})).collect::<Vec<_>>()),
    }
}

fn each(checks: &[Check]) -> &'static [Check] {
    checks.iter().find_map(|check| if let Check::Each(each) = check { Some(*each) } else { None }).unwrap_or_default()
}

/// The most items or entries that are allowed.
fn most_of(checks: &[Check]) -> Places {
    checks
        .iter()
        .find_map(|check| match check {
            Check::Items(_, most) | Check::Entries(_, most) => Some(*most),
            _ => None,
        })
        .filter(|most| *most < usize::MAX)
}

fn times(places: Places, most: Places) -> Places {
    places.zip(most).and_then(|(places, most)| places.checked_mul(most))
}

fn constrain(check: &Check, fields: &mut Map<String, Value>) {
    let mut bounds = |least_key: &str, most_key: &str, least: usize, most: usize| {
        if least > 0 {
            insert(fields, least_key, least);
        }
        if most < usize::MAX {
            insert(fields, most_key, most);
        }
    };
    match check {
        Check::Length(least, most) => bounds("minLength", "maxLength", *least, *most),
        Check::Items(least, most) => bounds("minItems", "maxItems", *least, *most),
        Check::Entries(least, most) => bounds("minProperties", "maxProperties", *least, *most),
        Check::Range(least, most) => {
            insert(fields, "minimum", *least);
            if *most < i64::MAX {
                insert(fields, "maximum", *most);
            }
        }
        Check::RangeF(least, most) => {
            insert(fields, "minimum", whole(*least));
            if *most < f64::MAX {
                insert(fields, "maximum", whole(*most));
            }
        }
        Check::Pattern(_, _, pattern) => insert(fields, "pattern", *pattern),
        Check::Rule(words, _, rule) => add_rule(fields, rule, &format!("must be {words}")),
        Check::EachKey(words, _, rule) => {
            add_rule(fields, &format!("self.all(key, {rule})"), &format!("each key must be {words}"));
        }
        Check::Positive => add_rule(fields, "duration(self) >= duration('1ms')", "must be a duration of at least 1ms"),
        Check::GatewayDuration => insert(fields, "pattern", "^([0-9]{1,5}(h|m|s|ms)){1,4}$"),
        Check::Unique(keys) => unique(keys, fields),
        // Done with the items; and left to the webhook.
        Check::Each(_) | Check::Format(_, _) => {}
    }
}

/// A number without a fraction where it has none, as every YAML reader writes it back.
fn whole(number: f64) -> Value {
    let text = number.to_string();
    text.parse::<i64>().map_or_else(|_| Value::from(number), Value::from)
}

/// A list without two equal items: a list type where it has none yet.
fn unique(keys: &[&str], fields: &mut Map<String, Value>) {
    if fields.contains_key("x-kubernetes-list-type") {
        let same: Vec<String> = keys.iter().map(|key| format!("a.{key} == b.{key}")).collect();
        let rule = format!("self.all(a, self.exists_one(b, {}))", same.join(" && "));
        add_rule(fields, &rule, &format!("the same `{}` is listed twice", keys.join("`, `")));
    } else if keys.is_empty() {
        insert(fields, "x-kubernetes-list-type", "set");
    } else {
        insert(fields, "x-kubernetes-list-type", "map");
        insert(fields, "x-kubernetes-list-map-keys", keys);
    }
}

fn add_rule(fields: &mut Map<String, Value>, rule: &str, message: &str) {
    let rules = fields.entry("x-kubernetes-validations").or_insert_with(|| Value::Array(Vec::new()));
    if let Some(rules) = rules.as_array_mut() {
        rules.push(json!({"rule": rule, "message": message}));
    }
}
