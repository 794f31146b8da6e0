//! CustomResourceDefinitions of Palisade's kinds and of Istio's, made from the declarations that documents are read by.
//!
//! What a schema can say is said: types, bounds, enumerations, required fields, patterns and CEL rules. `palisade analyze` reports each of
//! them as an error, so the API server and files give one verdict. What no schema can say is left to the validating webhook.

mod kinds;
mod schema;
mod status;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use crate::document::to_yaml;
use kinds::{ISTIO, Kind, PALISADE};

/// A definition and the name of the file that holds it.
#[derive(Clone, Debug)]
pub struct Definition {
    /// `PLURAL.GROUP`, which also is the object's name.
    pub name: String,
    /// The object.
    pub object: Value,
}

impl Definition {
    /// As YAML.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        to_yaml(&self.object)
    }
}

/// Definitions of Palisade's own kinds, by name.
#[must_use]
pub fn palisade() -> Vec<Definition> {
    PALISADE.iter().map(definition).collect()
}

/// Definitions of Istio's kinds, for clusters that have none.
#[must_use]
pub fn istio() -> Vec<Definition> {
    ISTIO.iter().map(definition).collect()
}

fn definition(kind: &Kind) -> Definition {
    let name = format!("{}.{}", kind.plural, kind.group);
    let mut names = Map::new();
    names.insert("kind".to_owned(), kind.kind.into());
    names.insert("listKind".to_owned(), format!("{}List", kind.kind).into());
    names.insert("plural".to_owned(), kind.plural.into());
    names.insert("singular".to_owned(), kind.kind.to_ascii_lowercase().into());
    if !kind.short_names.is_empty() {
        names.insert("shortNames".to_owned(), kind.short_names.into());
    }
    names.insert("categories".to_owned(), kind.categories.into());
    let versions: Vec<Value> = kind.versions.iter().map(|version| one_version(kind, version)).collect();
    let object = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/part-of": "palisade"},
            // Deleting a definition deletes every object of its kind.
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": kind.group,
            "names": names,
            "scope": "Namespaced",
            "versions": versions,
        },
    });
    Definition { name, object }
}

/// What is said of a spec, as said of the object.
fn of_object(text: &str) -> String {
    let rest = |beginning: &str| text.strip_prefix(beginning);
    match (rest("The spec of an "), rest("The spec of a ")) {
        (Some(rest), _) => format!("An {rest}"),
        (None, Some(rest)) => format!("A {rest}"),
        (None, None) => text.to_owned(),
    }
}

fn one_version(kind: &Kind, version: &str) -> Value {
    let mut fields = Map::new();
    fields.insert("name".to_owned(), version.into());
    fields.insert("served".to_owned(), true.into());
    fields.insert("storage".to_owned(), (version == kind.storage).into());
    fields.insert("subresources".to_owned(), json!({"status": {}}));
    let columns: Vec<Value> = kind.columns.iter().map(kinds::Column::to_value).collect();
    if !columns.is_empty() {
        fields.insert("additionalPrinterColumns".to_owned(), columns.into());
    }
    let mut schema = json!({
        "type": "object",
        "description": of_object(&schema::text((kind.spec)().doc())),
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the API that the object is written in."},
            "kind": {"type": "string", "description": "Kind of the object."},
            "metadata": {"type": "object"},
            "spec": schema::of((kind.spec)()),
            "status": (kind.status)(),
        },
    });
    if let (true, Some(schema)) = (kind.needs_spec, schema.as_object_mut()) {
        schema.insert("required".to_owned(), json!(["spec"]));
    }
    fields.insert("schema".to_owned(), json!({"openAPIV3Schema": schema}));
    Value::Object(fields)
}
