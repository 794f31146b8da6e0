//! One object laid over another, as Kubernetes' strategic merge patch does it: maps by key, lists of named things by name.

use serde_json::{Map, Value};

/// Lists whose items have a key, by the name of the list. All other lists are taken as a whole.
const KEYED: [(&str, &str); 15] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("ephemeralContainers", "name"),
    ("env", "name"),
    ("volumes", "name"),
    ("volumeMounts", "mountPath"),
    ("volumeDevices", "devicePath"),
    ("imagePullSecrets", "name"),
    ("hostAliases", "ip"),
    ("topologySpreadConstraints", "topologyKey"),
    ("resourceClaims", "name"),
    ("secrets", "name"),
    ("schedulingGates", "name"),
    ("claims", "name"),
    ("sysctls", "name"),
];

/// What a map says about itself.
const DIRECTIVE: &str = "$patch";

/// Lays `over` over an object. `null` takes a field away; `$patch: delete` an item of a list, `$patch: replace` what is there.
///
/// # Errors
/// In one line, where something is no patch.
pub(super) fn lay(object: &mut Value, over: &Value) -> Result<(), String> {
    value(object, over, "", "")
}

fn value(under: &mut Value, over: &Value, list: &str, path: &str) -> Result<(), String> {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => map(under, over, path),
        (Value::Array(under), Value::Array(over)) => match key_of(list, over) {
            Some(key) => items(under, over, key, path),
            None => {
                *under = over.iter().map(|item| plain(item, path)).collect::<Result<_, _>>()?;
                Ok(())
            }
        },
        (under, over) => {
            *under = plain(over, path)?;
            Ok(())
        }
    }
}

fn map(under: &mut Map<String, Value>, over: &Map<String, Value>, path: &str) -> Result<(), String> {
    if directive(over, path)? == Some("replace") {
        under.clear();
    }
    for (key, over) in over.iter().filter(|(key, _)| *key != DIRECTIVE) {
        let path = format!("{path}.{key}");
        if key.starts_with('$') {
            return Err(format!("`{}` is not understood; `$patch` is", path.trim_start_matches('.')));
        }
        match under.get_mut(key) {
            _ if over.is_null() => {
                under.shift_remove(key);
            }
            Some(under) => value(under, over, key, &path)?,
            None => {
                under.insert(key.clone(), plain(over, &path)?);
            }
        }
    }
    Ok(())
}

fn items(under: &mut Vec<Value>, over: &[Value], key: &str, path: &str) -> Result<(), String> {
    for item in over {
        let fields =
            item.as_object().ok_or_else(|| format!("`{}`: an item is no object", path.trim_start_matches('.')))?;
        let directive = directive(fields, path)?;
        let Some(name) = item.get(key) else {
            // A directive by itself is about the list.
            if directive == Some("replace") && fields.len() == 1 {
                under.clear();
                continue;
            }
            return Err(format!("`{}`: an item has no `{key}`", path.trim_start_matches('.')));
        };
        let found = under.iter().position(|own| own.get(key) == Some(name) && same_protocol(own, item));
        match (directive, found.and_then(|index| under.get_mut(index))) {
            (Some("delete"), _) => under.retain(|own| own.get(key) != Some(name)),
            (_, Some(own)) => value(own, item, "", path)?,
            (_, None) => under.push(plain(item, path)?),
        }
    }
    Ok(())
}

/// Ports of one number differ by protocol.
fn same_protocol(a: &Value, b: &Value) -> bool {
    let protocol = |item: &Value| item.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned();
    protocol(a) == protocol(b)
}

/// The field by which items of a list are known.
fn key_of(list: &str, items: &[Value]) -> Option<&'static str> {
    if list == "ports" {
        let is_container = items.iter().any(|item| item.get("containerPort").is_some());
        return Some(if is_container { "containerPort" } else { "port" });
    }
    KEYED.iter().find(|(name, _)| *name == list).map(|(_, key)| *key)
}

fn directive<'a>(fields: &'a Map<String, Value>, path: &str) -> Result<Option<&'a str>, String> {
    match fields.get(DIRECTIVE).map(Value::as_str) {
        None => Ok(None),
        Some(Some(text @ ("merge" | "replace" | "delete"))) => Ok(Some(text)),
        Some(_) => Err(format!("`{}.$patch` is none of merge, replace, delete", path.trim_start_matches('.'))),
    }
}

/// What is new, without nulls and directives.
fn plain(over: &Value, path: &str) -> Result<Value, String> {
    match over {
        Value::Object(fields) => {
            let mut made = Map::new();
            map(&mut made, fields, path)?;
            Ok(Value::Object(made))
        }
        Value::Array(items) => Ok(Value::Array(items.iter().map(|item| plain(item, path)).collect::<Result<_, _>>()?)),
        other => Ok(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn laid(under: Value, over: Value) -> Result<Value, String> {
        let mut object = under;
        lay(&mut object, &over)?;
        Ok(object)
    }

    #[test]
    fn maps_merge_and_null_takes_away() {
        let laid =
            laid(json!({"a": {"b": 1, "c": 2}, "d": 3}), json!({"a": {"b": 4, "c": null}, "e": {"f": null, "g": 5}}));
        assert_eq!(laid.unwrap(), json!({"a": {"b": 4}, "d": 3, "e": {"g": 5}}));
    }

    #[test]
    fn items_merge_by_name_and_others_are_replaced() {
        let under = json!({"containers": [{"name": "a", "args": ["1", "2"], "env": [{"name": "X", "value": "1"}]}]});
        let over = json!({"containers": [
            {"name": "a", "args": ["3"], "env": [{"name": "Y", "value": "2"}]}, {"name": "b", "image": "c"},
        ]});
        let expected = json!({"containers": [
            {"name": "a", "args": ["3"], "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b", "image": "c"},
        ]});
        assert_eq!(laid(under, over).unwrap(), expected);
    }

    #[test]
    fn ports_are_known_by_number_and_protocol() {
        let under = json!({"ports": [{"port": 53, "protocol": "TCP", "name": "t"}, {"port": 53, "protocol": "UDP", "name": "u"}]});
        let over = json!({"ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}]});
        let laid = laid(under, over).unwrap();
        assert_eq!(laid.pointer("/ports/1/nodePort"), Some(&json!(30053)));
        assert_eq!(laid.pointer("/ports/0/nodePort"), None);
    }

    #[test]
    fn directives_delete_and_replace() {
        let under = || json!({"volumes": [{"name": "a"}, {"name": "b"}], "securityContext": {"runAsUser": 1}});
        let over = json!({"volumes": [{"name": "a", "$patch": "delete"}], "securityContext": {"$patch": "replace", "fsGroup": 2}});
        assert_eq!(
            laid(under(), over).unwrap(),
            json!({"volumes": [{"name": "b"}], "securityContext": {"fsGroup": 2}})
        );
        let over = json!({"volumes": [{"$patch": "replace"}, {"name": "c"}]});
        assert_eq!(laid(under(), over).unwrap().pointer("/volumes"), Some(&json!([{"name": "c"}])));
    }

    #[test]
    fn what_is_no_patch_is_refused_with_its_place() {
        for (over, expected) in [
            (json!({"volumes": [{"emptyDir": {}}]}), "`volumes`: an item has no `name`"),
            (json!({"volumes": ["a"]}), "`volumes`: an item is no object"),
            (json!({"a": {"$patch": "remove"}}), "`a.$patch`"),
            (json!({"a": {"$setElementOrder/b": []}}), "`a.$setElementOrder/b`"),
        ] {
            let error = laid(json!({"volumes": [], "a": {}}), over).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
