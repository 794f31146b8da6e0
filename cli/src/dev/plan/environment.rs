//! A container's environment variables, as a kubelet makes them.

use std::net::IpAddr;

use palisade_compile::inputs::core::{Container, EnvFrom, EnvObject, EnvValue, EnvVar, KeyedBytes, Pod};

use palisade_compile::{Head, Inputs, ObjectKey};

/// The whole environment that the documents give, `envFrom` first; of equal names the last one counts.
///
/// # Errors
/// Why a kubelet would not start the container: a missing object or key, or a field that is known only on a node.
pub(super) fn resolve(
    inputs: &Inputs,
    head: &Head,
    pod: &Pod,
    container: &Container,
) -> Result<Vec<(String, String)>, String> {
    let mut environment = Vec::new();
    for EnvFrom { prefix, object } in &container.env_from {
        let Some(entries) = entries(inputs, &head.key, object)? else { continue };
        // A kubelet passes over keys that are no names, and values that are no text.
        let texts = entries.entries.iter().filter_map(|(key, value)| Some((key, str::from_utf8(value).ok()?)));
        let named = texts.filter(|(key, _)| is_name(key));
        environment.extend(named.map(|(key, value)| (format!("{prefix}{key}"), value.to_owned())));
    }
    for EnvVar { name, value } in &container.env {
        let value = match value {
            EnvValue::Literal(text) => Some(expand(text, &environment)),
            EnvValue::Field(path) => Some(
                field(head, pod, path).ok_or_else(|| format!("variable `{name}`: no pod has a field `{path}` here"))?,
            ),
            EnvValue::Key { object, key } => {
                text(inputs, &head.key, object, key).map_err(|why| format!("variable `{name}`: {why}"))?
            }
            EnvValue::KubeletOnly(source) => {
                return Err(format!("variable `{name}`: `{source}` needs a node, which this machine is not"));
            }
        };
        environment.extend(value.map(|value| (name.clone(), value)));
    }
    Ok(environment)
}

/// Kubernetes' `$(NAME)`: a variable of the container, left as it is where there is none; `$$` is one `$`.
pub(in crate::dev) fn expand(word: &str, environment: &[(String, String)]) -> String {
    let mut expanded = String::with_capacity(word.len());
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(escaped) = after.strip_prefix('$') {
            expanded.push('$');
            rest = escaped;
            continue;
        }
        let variable = after.strip_prefix('(').and_then(|after| after.split_once(')'));
        let value = variable.and_then(|(name, _)| environment.iter().rev().find(|(known, _)| known == name));
        match (variable, value) {
            (Some((_, behind)), Some((_, value))) => {
                expanded.push_str(value);
                rest = behind;
            }
            _ => {
                expanded.push('$');
                rest = after;
            }
        }
    }
    expanded.push_str(rest);
    expanded
}

fn is_name(key: &str) -> bool {
    let mut letters = key.chars();
    letters.next().is_some_and(|first| !first.is_ascii_digit())
        && key.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.'))
}

/// `None`: it is not there and need not be.
fn entries<'a>(inputs: &'a Inputs, pod: &ObjectKey, object: &EnvObject) -> Result<Option<&'a KeyedBytes>, String> {
    let EnvObject { is_secret, name, is_optional } = object;
    let (kind, objects) = if *is_secret { ("Secret", &inputs.secrets) } else { ("ConfigMap", &inputs.config_maps) };
    let key = ObjectKey::new(pod.namespace.clone(), name.as_str());
    match objects.get(&key) {
        Some(object) => Ok(Some(&object.spec)),
        None if *is_optional => Ok(None),
        None => Err(format!("there is no {kind} `{}/{name}`", pod.namespace)),
    }
}

fn text(inputs: &Inputs, pod: &ObjectKey, object: &EnvObject, key: &str) -> Result<Option<String>, String> {
    let Some(entries) = entries(inputs, pod, object)? else { return Ok(None) };
    match entries.entries.get(key) {
        Some(value) => match str::from_utf8(value) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(format!("key `{key}` of `{}/{}` is no text", pod.namespace, object.name)),
        },
        None if object.is_optional => Ok(None),
        None => Err(format!("`{}/{}` has no key `{key}`", pod.namespace, object.name)),
    }
}

/// The fields that the downward API gives to variables. On one machine the pod's primary address stands for the node's.
fn field(head: &Head, pod: &Pod, path: &str) -> Option<String> {
    let addresses = || pod.ips.iter().map(IpAddr::to_string).collect::<Vec<_>>();
    let subscript = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    Some(match path {
        "metadata.name" => head.key.name.to_string(),
        "metadata.namespace" => head.key.namespace.to_string(),
        "metadata.uid" => head.uid.to_string(),
        "spec.nodeName" => pod.node.clone(),
        "spec.serviceAccountName" => pod.service_account.clone(),
        "status.podIP" | "status.hostIP" => addresses().into_iter().next().unwrap_or_default(),
        "status.podIPs" | "status.hostIPs" => addresses().join(","),
        _ => {
            if let Some(label) = subscript("metadata.labels") {
                head.labels.get(label).cloned().unwrap_or_default()
            } else {
                let annotation = subscript("metadata.annotations")?;
                head.annotations.get(annotation).cloned().unwrap_or_default()
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use palisade_compile::{ControlSettings, SourceDocument, SourceOptions};
    use palisade_crds::document;

    use super::*;

    fn environment(documents: &str) -> Result<Vec<(String, String)>, String> {
        let read = document::read("test.yaml", documents.as_bytes());
        assert!(read.unreadable.is_empty(), "{:?}", read.unreadable);
        let documents = read.documents.into_iter().map(|document| SourceDocument::parse(document, "shop"));
        let inputs = Inputs::new(documents, &SourceOptions { control: ControlSettings::default(), is_files: true });
        let pod = inputs.pods.values().next().unwrap();
        resolve(&inputs, &pod.head, &pod.spec, &pod.spec.containers[0])
    }

    fn pod(container: &str) -> String {
        format!(
            "
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{LEVEL: high, 1bad: x}}
---
apiVersion: v1
kind: Secret
metadata: {{name: password}}
stringData: {{word: hush}}
---
apiVersion: v1
kind: Pod
metadata: {{name: cart, labels: {{app: cart}}}}
spec:
  serviceAccountName: seller
  containers:
  - name: cart
    image: cart
    {container}
"
        )
    }

    #[test]
    fn variables_come_from_fields_maps_and_secrets_in_order() {
        let documents = pod("envFrom: [{prefix: APP_, configMapRef: {name: settings}}]
    env:
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: APP, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}}
    - {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: WORD, valueFrom: {secretKeyRef: {name: password, key: word}}}
    - {name: ABSENT, valueFrom: {configMapKeyRef: {name: nowhere, key: a, optional: true}}}
    - {name: URL, value: 'http://$(NAME)/$(APP_LEVEL)?$$(NAME)&$(UNKNOWN)'}");
        let expected = [
            ("APP_LEVEL", "high"),
            ("NAME", "cart"),
            ("APP", "cart"),
            ("ACCOUNT", "seller"),
            ("WORD", "hush"),
            ("URL", "http://cart/high?$(NAME)&$(UNKNOWN)"),
        ];
        let expected: Vec<_> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(environment(&documents).unwrap(), expected);
    }

    #[test]
    fn what_is_missing_is_named() {
        let rows = [
            ("env: [{name: A, valueFrom: {configMapKeyRef: {name: nowhere, key: a}}}]", "no ConfigMap `shop/nowhere`"),
            ("env: [{name: A, valueFrom: {secretKeyRef: {name: password, key: a}}}]", "`shop/password` has no key `a`"),
            ("env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.phase}}}]", "field `status.phase`"),
            ("env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}]", "`resourceFieldRef`"),
            ("envFrom: [{secretRef: {name: nowhere}}]", "no Secret `shop/nowhere`"),
        ];
        for (container, expected) in rows {
            let error = environment(&pod(container)).unwrap_err();
            assert!(error.contains(expected), "{container}: {error}");
        }
    }
}
