//! Tables about proxies, for people.

use std::{collections::BTreeSet, fmt::Write as _};

use serde_json::Value;

use super::text;

/// Characters of a hash that are shown.
const SHORT: usize = 12;

/// Whether a proxy does all that it should: `current`, `withheld`, `refused`, `pending`, or `unofferable`.
pub(super) fn state(proxy: &Value) -> &'static str {
    let is_null = |field: &str| proxy.get(field).is_none_or(Value::is_null);
    let withheld = proxy.get("withheld").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if !is_null("unofferable") {
        "unofferable"
    } else if withheld {
        "withheld"
    } else if !is_null("target") && proxy.get("target") == proxy.get("acked") {
        "current"
    } else if !is_null("nack") {
        "refused"
    } else {
        "pending"
    }
}

/// Features that a proxy lacks of those that something withheld needs.
fn lacking(proxy: &Value) -> String {
    let withheld = proxy.get("withheld").and_then(Value::as_array).into_iter().flatten();
    let missing = withheld.filter_map(|item| item.get("missing")?.as_array()).flatten();
    let features: BTreeSet<&str> = missing.filter_map(Value::as_str).collect();
    features.into_iter().collect::<Vec<_>>().join(",")
}

/// One line for each proxy.
pub(super) fn proxies(proxies: &[&Value], is_wide: bool) -> String {
    let mut head = vec!["PROXY", "STATE", "TARGET", "ACKED", "LAST ACK", "LAST NACK", "SUBSCRIPTIONS"];
    if is_wide {
        head.extend(["RESOURCES", "BUILD", "CONNECTED", "REPLICA", "LACKS"]);
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<String>>()];
    for proxy in proxies {
        let count = |field: &str| proxy.get(field).and_then(Value::as_array).map_or(0, Vec::len).to_string();
        let nack = proxy.get("nack").filter(|nack| !nack.is_null());
        let mut row = vec![
            format!("{}/{}", text(proxy, "namespace"), text(proxy, "name")),
            state(proxy).to_owned(),
            short(text(proxy, "target")),
            short(text(proxy, "acked")),
            dash(text(proxy, "ackedAt")),
            nack.map_or_else(|| "-".to_owned(), |nack| format!("{}: {}", text(nack, "at"), text(nack, "message"))),
            count("subscriptions"),
        ];
        if is_wide {
            row.push(proxy.get("resources").and_then(Value::as_u64).unwrap_or(0).to_string());
            row.extend(["build", "connected", "replica"].map(|field| dash(text(proxy, field))));
            row.push(dash(&lacking(proxy)));
        }
        rows.push(row);
    }
    aligned(&rows)
}

/// A proxy, and a line for each of its resources.
pub(super) fn content(page: &Value, is_wide: bool) -> String {
    let null = Value::Null;
    let proxy = page.get("proxy").unwrap_or(&null);
    let list = |field: &str| {
        let values = proxy.get(field).and_then(Value::as_array).into_iter().flatten();
        let names: Vec<&str> = values.filter_map(Value::as_str).collect();
        if names.is_empty() { "-".to_owned() } else { names.join(", ") }
    };
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a text cannot fail.
        let _ = writeln!(out, "{name:<15}{value}");
    };
    line("proxy", format!("{}/{}", text(proxy, "namespace"), text(proxy, "name")));
    line("state", state(proxy).to_owned());
    line("target", dash(text(proxy, "target")));
    line("acked", format!("{} {}", dash(text(proxy, "acked")), text(proxy, "ackedAt")).trim_end().to_owned());
    if let Some(nack) = proxy.get("nack").filter(|nack| !nack.is_null()) {
        let resource = dash(text(nack, "resource"));
        line("last nack", format!("{} {resource}: {}", text(nack, "at"), text(nack, "message")));
    }
    line("subscriptions", list("subscriptions"));
    let mut rows = Vec::new();
    for (kind, entries) in page.get("content").and_then(Value::as_object).into_iter().flatten() {
        for entry in entries.as_array().into_iter().flatten() {
            let mut row = vec![
                kind.clone(),
                text(entry, "name").to_owned(),
                short(text(entry, "hash")),
                text(entry, "state").to_owned(),
            ];
            if is_wide {
                let origins = entry.get("origins").and_then(Value::as_array).into_iter().flatten();
                row.push(origins.filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
            }
            rows.push(row);
        }
    }
    if !rows.is_empty() {
        let mut head = vec!["KIND", "NAME", "HASH", "STATE"];
        if is_wide {
            head.push("MADE FROM");
        }
        rows.insert(0, head.into_iter().map(str::to_owned).collect());
        out.push('\n');
        out.push_str(&aligned(&rows));
    }
    out
}

fn short(hash: &str) -> String {
    dash(hash.get(..SHORT).unwrap_or(hash))
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// Rows with columns as wide as they have to be.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_proxy_is_current_when_it_has_acknowledged_its_target() {
        let proxy = |target: &str, acked: Value, nack: Value| json!({"target": target, "acked": acked, "nack": nack, "withheld": []});
        assert_eq!(state(&proxy("a", json!("a"), Value::Null)), "current");
        assert_eq!(state(&proxy("b", json!("a"), Value::Null)), "pending");
        assert_eq!(state(&proxy("b", json!("a"), json!({"message": "no"}))), "refused");
        assert_eq!(state(&json!({"target": null, "acked": null})), "pending");
    }

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [vec!["A".to_owned(), "B".to_owned()], vec!["long".to_owned(), "x".to_owned()]];
        assert_eq!(aligned(&rows), "A     B\nlong  x\n");
    }
}
