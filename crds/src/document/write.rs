//! From a value to YAML that every reader takes for the same value, in the order of its keys.

use serde_json::Value;

use super::scalar::resolve;

/// The value as YAML in block style, with a line break at its end.
///
/// Texts are quoted wherever a reader of YAML 1.1 or 1.2 could take them for something else.
#[must_use]
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => object(fields, 0, &mut text),
        Value::Array(items) if !items.is_empty() => array(items, 0, &mut text),
        _ => {
            leaf(value, 0, &mut text);
        }
    }
    text
}

fn indent(depth: usize, text: &mut String) {
    text.extend(std::iter::repeat_n("  ", depth));
}

fn object(fields: &serde_json::Map<String, Value>, depth: usize, text: &mut String) {
    for (index, (key, value)) in fields.iter().enumerate() {
        // The first field of a list item stands on the line of its dash.
        if index > 0 || !text.ends_with("- ") {
            indent(depth, text);
        }
        text.push_str(&inline(key));
        text.push(':');
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                text.push('\n');
                object(fields, depth + 1, text);
            }
            Value::Array(items) if !items.is_empty() => {
                text.push('\n');
                array(items, depth, text);
            }
            _ => {
                text.push(' ');
                leaf(value, depth + 1, text);
            }
        }
    }
}

fn array(items: &[Value], depth: usize, text: &mut String) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 || !text.ends_with("- ") {
            indent(depth, text);
        }
        text.push_str("- ");
        match item {
            Value::Object(fields) if !fields.is_empty() => object(fields, depth + 1, text),
            Value::Array(items) if !items.is_empty() => array(items, depth + 1, text),
            _ => leaf(item, depth + 1, text),
        }
    }
}

fn leaf(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::String(string) if is_block(string) => block(string, depth, text),
        Value::String(string) => {
            text.push_str(&inline(string));
            text.push('\n');
        }
        // An empty list, an empty object, or a scalar: JSON is YAML.
        other => {
            text.push_str(&other.to_string());
            text.push('\n');
        }
    }
}

/// Whether a text is written over several lines.
fn is_block(text: &str) -> bool {
    text.trim_end_matches('\n').contains('\n')
        && !text.starts_with([' ', '\t', '\n'])
        && text.chars().all(|c| c == '\n' || c == '\t' || is_plain_char(c))
        && !text.lines().any(|line| line.ends_with([' ', '\t']) || line.starts_with('\t'))
}

fn is_plain_char(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

fn block(string: &str, depth: usize, text: &mut String) {
    let body = string.trim_end_matches('\n');
    text.push_str(match string.len() - body.len() {
        0 => "|-\n",
        1 => "|\n",
        _ => "|+\n",
    });
    let lines = if string.len() - body.len() > 1 { string.strip_suffix('\n').unwrap_or(string) } else { body };
    for line in lines.split('\n') {
        if !line.is_empty() {
            indent(depth, text);
            text.push_str(line);
        }
        text.push('\n');
    }
}

/// A text on one line, plain where no reader can mistake it.
fn inline(text: &str) -> String {
    let begins_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let is_plain = begins_plain
        && text.chars().all(is_plain_char)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && matches!(resolve(text), Ok(Value::String(_)));
    if is_plain { text.to_owned() } else { quoted(text) }
}

/// In double quotes, as JSON has it; JSON leaves some characters bare that YAML does not.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string().chars().fold(String::new(), |mut quoted, c| {
        if is_plain_char(c) {
            quoted.push(c);
        } else {
            quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
        quoted
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_could_be_mistaken_is_quoted() {
        let value = json!({
            "a": "text", "b": "yes", "c": "1", "d": "a: b", "e": "", "f": "two\nlines\n", "g": [], "h": {}, "i": [{"x": 1, "y": [["z"]]}],
            "on": null, "j": "a #b", "k": "*", "l": "end\n\n\n", "m": "tab\there", "n": [{"deep": "two\n  lines"}], "o": "- a", "p": 1.5,
        });
        let text = to_yaml(&value);
        let expected = "a: text\nb: \"yes\"\nc: \"1\"\nd: \"a: b\"\ne: \"\"\nf: |\n  two\n  lines\ng: []\nh: {}\ni:\n- x: 1\n  \"y\":\n  - - z\n\"on\": null\nj: \"a #b\"\nk: \"*\"\nl: \"end\\n\\n\\n\"\nm: \"tab\\there\"\n\"n\":\n- deep: |-\n    two\n      lines\no: \"- a\"\np: 1.5\n";
        assert_eq!(text, expected);
        assert_eq!(super::super::read("a.yaml", text.as_bytes()).documents[0].value, value);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c0-9 :#\\-\\n\\t\"'\\\\*&!%@`{}\\[\\],?|>~./é\u{1}\u{85}\u{2028}\u{feff}]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-c1 :\\-#~]{0,4}", inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in prop::collection::vec(any_value(), 1..3)) {
            let value = json!({"values": value});
            let text = to_yaml(&value);
            let read = super::super::read("a.yaml", text.as_bytes());
            prop_assert!(read.unreadable.is_empty(), "{:?}\n{text}", read.unreadable);
            prop_assert_eq!(&read.documents[0].value, &value, "{}", text);
        }
    }
}
