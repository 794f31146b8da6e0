//! Definitions as lines of text that can be compared: what is refused, without how it is said.

use serde_json::Value;

/// One line for each field of `spec` in each definition, and one for what surrounds it, sorted.
pub(super) fn flat(definitions: impl Iterator<Item = Value>) -> Vec<String> {
    let mut lines = Vec::new();
    for definition in definitions {
        let spec = &definition["spec"];
        let kind = spec["names"]["kind"].as_str().unwrap_or_default();
        let names = ["plural", "shortNames", "categories"].map(|key| spec["names"][key].to_string());
        lines.push(format!("{kind} names {} {}", spec["scope"], names.join(" ")));
        for version in spec["versions"].as_array().into_iter().flatten() {
            let columns: Vec<String> = version["additionalPrinterColumns"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|column| format!("{}={}", column["name"], column["jsonPath"]))
                .collect();
            let needs_spec = version["schema"]["openAPIV3Schema"]["required"].to_string();
            lines.push(format!(
                "{kind} version {} storage={} served={} required={needs_spec} {}",
                version["name"],
                version["storage"],
                version["served"],
                columns.join(" ")
            ));
        }
        // All versions share one schema, which is a test of its own for ours, and was looked at for Istio's.
        field(
            &spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"],
            &format!("{kind} spec"),
            &mut lines,
        );
    }
    lines.sort();
    lines.dedup();
    lines
}

fn field(schema: &Value, path: &str, lines: &mut Vec<String>) {
    lines.push(format!("{path} {}", constraints(schema).join(" ")));
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        field(inner, &format!("{path}.{name}"), lines);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(inner) = schema.get(key) {
            field(inner, &format!("{path}{mark}"), lines);
        }
    }
}

fn constraints(schema: &Value) -> Vec<String> {
    let is_open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let mut found = vec![schema["type"].as_str().unwrap_or("any").to_owned()];
    if is_open {
        found.push("open".to_owned());
    }
    for key in ["enum", "required", "x-kubernetes-list-map-keys"] {
        let mut items: Vec<&str> = schema[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !items.is_empty() {
            items.sort_unstable();
            found.push(format!("{key}={}", items.join(",")));
        }
    }
    for key in ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "pattern"] {
        if let Some(bound) = schema.get(key) {
            found.push(format!("{key}={bound}"));
        }
    }
    let rules: Vec<&str> = schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|rule| rule["rule"].as_str())
        .collect();
    // Istio bounds ports by a rule.
    let is_port = rules.iter().any(|rule| rule.starts_with("0 < self && self <= 65535"));
    let bound = |key: &str, port: f64| if is_port { Some(port) } else { schema[key].as_f64() };
    for (key, port) in [("minimum", 1.0), ("maximum", 65_535.0)] {
        // Of 32-bit numbers Istio's schema has the format only, which binds nobody but its webhook.
        let is_implied = |bound: &f64| [f64::from(i32::MIN), f64::from(i32::MAX)].contains(bound);
        if let Some(bound) = bound(key, port).filter(|bound| !is_implied(bound)) {
            found.push(format!("{key}={bound}"));
        }
    }
    if rules.iter().any(|rule| rule.starts_with("duration(self)")) {
        found.push("positive".to_owned());
    }
    found
}
