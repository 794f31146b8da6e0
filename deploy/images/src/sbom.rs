//! What an image is made of, as a CycloneDX 1.5 document: the crates of its program and the Debian packages of its files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use serde_json::{Value, json};

use crate::{ImageError, Package};

/// The document of a package of this workspace. It says nothing of when or where it was made.
///
/// # Errors
/// When `Cargo.lock` is not in step with the manifests, or the package is unknown.
pub fn bill_of_materials(
    workspace: &Path,
    package: &str,
    version: &str,
    packages: &BTreeSet<Package>,
) -> Result<Vec<u8>, ImageError> {
    let mut components = crates_of(workspace, package)?;
    components.extend(packages.iter().map(|Package { name, version, source }| {
        json!({
            "type": "library", "name": name, "version": version,
            "purl": format!("pkg:deb/debian/{name}@{}?upstream={}", encoded(version), encoded(source)),
        })
    }));
    let document = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": {
            "type": "container", "name": package, "version": version, "licenses": [{"expression": "Apache-2.0"}],
        }},
        "components": components,
    });
    Ok(serde_json::to_vec_pretty(&document)?)
}

/// A version inside a package URL.
fn encoded(text: &str) -> String {
    text.replace('%', "%25").replace('+', "%2B").replace(':', "%3A").replace('@', "%40")
}

fn crates_of(workspace: &Path, package: &str) -> Result<Vec<Value>, ImageError> {
    let failed = |message: String| ImageError::Crates { package: package.to_owned(), message };
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform", &platform])
        .current_dir(workspace)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let lock = workspace.join("Cargo.lock");
    let locked = fs::read_to_string(&lock).map_err(ImageError::file(&lock))?;
    let checksums = checksums(&locked);
    let packages = by_id(metadata.get("packages"));
    let nodes = by_id(metadata.get("resolve").and_then(|resolve| resolve.get("nodes")));
    let root = packages
        .iter()
        .find(|(_, found)| text(found, "name") == package && found.get("source").is_none_or(Value::is_null))
        .map(|(id, _)| *id)
        .ok_or_else(|| failed("no such package".to_owned()))?;
    let mut components: Vec<(&str, &str, Value)> = Vec::new();
    for id in closure(root, &nodes) {
        let found = packages.get(id).ok_or_else(|| failed(format!("`{id}` is not described")))?;
        let (name, version) = (text(found, "name"), text(found, "version"));
        let mut component = json!({
            "type": "library", "name": name, "version": version, "purl": format!("pkg:cargo/{name}@{}", encoded(version)),
        });
        if let Some(fields) = component.as_object_mut() {
            if let Some(licence) = found.get("license").and_then(Value::as_str) {
                // The older way to write a choice.
                let expression = licence.replace('/', " OR ");
                fields.insert("licenses".to_owned(), json!([{"expression": expression}]));
            }
            if let Some(sum) = checksums.get(&(name, version)) {
                fields.insert("hashes".to_owned(), json!([{"alg": "SHA-256", "content": sum}]));
            }
        }
        components.push((name, version, component));
    }
    components.sort_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)));
    Ok(components.into_iter().map(|(_, _, component)| component).collect())
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn by_id(list: Option<&Value>) -> BTreeMap<&str, &Value> {
    list.and_then(Value::as_array).into_iter().flatten().map(|item| (text(item, "id"), item)).collect()
}

/// What is linked into a package: its own dependencies and theirs, those of tests and of building left out.
fn closure<'a>(root: &'a str, nodes: &BTreeMap<&'a str, &'a Value>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let dependencies = nodes.get(id).and_then(|node| node.get("deps")).and_then(Value::as_array);
        for dependency in dependencies.into_iter().flatten() {
            let kinds = dependency.get("dep_kinds").and_then(Value::as_array);
            let is_linked = kinds.into_iter().flatten().any(|kind| kind.get("kind").is_none_or(Value::is_null));
            if is_linked {
                open.push(text(dependency, "pkg"));
            }
        }
    }
    seen
}

/// The checksums of `Cargo.lock` by name and version.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let mut sums = BTreeMap::new();
    for section in lock.split("[[package]]") {
        let field = |key: &str| {
            let line = section.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
            line.and_then(|value| value.strip_suffix('"'))
        };
        if let (Some(name), Some(version), Some(sum)) = (field("name"), field("version"), field("checksum")) {
            sums.insert((name, version), sum);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lists_what_is_linked_and_nothing_else() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let package = Package { name: "libc6".into(), version: "2.36-9+deb12u1".into(), source: "glibc@2.36".into() };
        let document = bill_of_materials(&workspace, "palisade-images", "1", &[package].into()).unwrap();
        let document: Value = serde_json::from_slice(&document).unwrap();
        let find = |name: &str| document["components"].as_array().unwrap().iter().find(|item| item["name"] == name);
        let tar = find("tar").unwrap();
        assert_eq!(tar["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(tar["hashes"][0]["content"].as_str().unwrap().len(), 64);
        assert_eq!(find("libc6").unwrap()["purl"], "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?upstream=glibc%402.36");
        // A dependency of the tests alone.
        assert_eq!(find("tempfile"), None);
        assert!(bill_of_materials(&workspace, "no-such-package", "1", &BTreeSet::new()).is_err());
    }
}
