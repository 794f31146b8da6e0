//! What the source may do in a cluster: the least that works, made from what it does.

use std::collections::BTreeMap;

use serde::Serialize;

use super::kinds::Kind;

/// A rule of a ClusterRole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessRule {
    /// API groups; the empty one is the core group.
    pub api_groups: Vec<String>,
    /// Resources, as the API spells them.
    pub resources: Vec<String>,
    /// What is done to them.
    pub verbs: Vec<String>,
}

/// The rules that reading a cluster's documents needs: everything is listed and watched, nothing written. Of Secrets and
/// ConfigMaps single ones are asked for by name; where not all may be read, a Role in a namespace will do for those in it.
pub fn access_rules() -> Vec<AccessRule> {
    let mut resources: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let versionless = |kind: Kind| kind.resource("v1").plural;
    for kind in Kind::built_in().chain(Kind::of_crds()) {
        resources.entry(kind.group).or_default().push(versionless(kind));
    }
    resources.entry("").or_default().extend(["configmaps", "secrets"].map(str::to_owned));
    resources.entry("apiextensions.k8s.io").or_default().push("customresourcedefinitions".to_owned());
    let rule = |(group, mut resources): (&str, Vec<String>)| {
        resources.sort();
        AccessRule { api_groups: vec![group.to_owned()], resources, verbs: ["list", "watch"].map(str::to_owned).into() }
    };
    resources.into_iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn nothing_is_written_and_no_wildcard_is_used() {
        let rules = access_rules();
        assert!(rules.iter().all(|rule| rule.verbs == ["list", "watch"]));
        assert!(rules.iter().flat_map(|rule| &rule.resources).all(|resource| resource != "*"));
        let core = rules.iter().find(|rule| rule.api_groups == [""]).unwrap();
        assert_eq!(core.resources, ["configmaps", "namespaces", "nodes", "pods", "secrets", "services"]);
    }

    #[test]
    fn the_page_lists_these_rules_and_no_others() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations/kubernetes.md");
        let page = fs::read_to_string(page).unwrap();
        let rows: Vec<String> = access_rules()
            .into_iter()
            .map(|AccessRule { api_groups, resources, verbs: _ }| {
                let group =
                    if api_groups == [""] { "core".to_owned() } else { format!("`{}`", api_groups.join("`, `")) };
                format!("| {group} | {} |", resources.join(", "))
            })
            .collect();
        let expected = format!("| API group | resources |\n|---|---|\n{}\n\n", rows.join("\n"));
        assert!(page.contains(&expected), "the page has to say:\n{expected}");
    }
}
