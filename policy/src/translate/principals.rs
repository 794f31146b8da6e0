//! Trust-domain aliases: a principal of one of the mesh's own domains stands for all of them.

use palisade_model::identity::SpiffeId;

use crate::TrustDomains;

/// Whether a value is exactly one mesh workload.
pub(super) fn is_account(value: &str) -> bool {
    format!("spiffe://{value}").parse::<SpiffeId>().is_ok() && !value.starts_with('*') && !value.ends_with('*')
}

/// Values of `principals`: those of the form `DOMAIN/ns/NAMESPACE/sa/ACCOUNT` with an own domain, an alias or `cluster.local` are
/// repeated for every own domain. A domain with a star stands for the own ones that it matches, and so for all; those that end as it
/// does it covers itself. Others stay.
pub(super) fn expand_principals(values: &[String], domains: &TrustDomains) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(values.len());
    let mut add = |value: String| {
        if !out.contains(&value) {
            out.push(value);
        }
    };
    for value in values {
        match value.split_once('/') {
            Some((domain, rest)) if rest.split('/').count() == 4 && means_own(domain, domains) => {
                for own in domains.all() {
                    let is_covered = domain.strip_prefix('*').is_some_and(|suffix| own.ends_with(suffix));
                    add(if is_covered { value.clone() } else { format!("{own}/{rest}") });
                }
            }
            _ => add(value.clone()),
        }
    }
    out
}

/// Values of `trustDomains`: one that is exactly an own domain or an alias stands for all of them.
pub(super) fn expand_trust_domains(values: &[String], domains: &TrustDomains) -> Vec<String> {
    let all = domains.all();
    let mut out: Vec<String> = Vec::with_capacity(values.len());
    for value in values {
        let expanded: Vec<&str> = if all.contains(&value.as_str()) { all.clone() } else { vec![value] };
        for value in expanded {
            if !out.iter().any(|o| o == value) {
                out.push(value.to_owned());
            }
        }
    }
    out
}

fn means_own(domain: &str, domains: &TrustDomains) -> bool {
    let matches = |own: &&str| {
        *own == domain
            || domain.strip_prefix('*').is_some_and(|suffix| own.ends_with(suffix))
            || domain.strip_suffix('*').is_some_and(|prefix| own.starts_with(prefix))
    };
    domain == "cluster.local" || domain != "*" && domains.all().iter().any(matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_domains_expand_and_others_stay() {
        let domains = TrustDomains::new("new.example", ["old.example".to_owned()]);
        let expand = |value: &str| expand_principals(&[value.to_owned()], &domains);
        let both = ["new.example/ns/a/sa/b", "old.example/ns/a/sa/b"];
        assert_eq!(expand("old.example/ns/a/sa/b"), both);
        assert_eq!(expand("cluster.local/ns/a/sa/b"), both);
        assert_eq!(expand("other.example/ns/a/sa/b"), ["other.example/ns/a/sa/b"]);
        assert_eq!(expand("*/ns/a/sa/b"), ["*/ns/a/sa/b"]);
        assert_eq!(expand("*.example/ns/a/sa/b"), ["*.example/ns/a/sa/b"]);
        assert_eq!(expand("*ew.example/ns/a/sa/b"), ["*ew.example/ns/a/sa/b", "old.example/ns/a/sa/b"]);
        assert_eq!(expand("*.other/ns/a/sa/b"), ["*.other/ns/a/sa/b"]);
        assert_eq!(expand("ne*/ns/a/sa/b"), both);
        assert_eq!(expand("x*/ns/a/sa/b"), ["x*/ns/a/sa/b"]);
        assert_eq!(expand("new.example/ns/a/sa/*"), ["new.example/ns/a/sa/*", "old.example/ns/a/sa/*"]);
        assert_eq!(expand("new.example/ns/a/*"), ["new.example/ns/a/*"]);
        assert_eq!(expand_trust_domains(&["cluster.local".to_owned()], &domains), ["cluster.local"]);
        assert_eq!(expand_trust_domains(&["old.example".to_owned()], &domains), ["new.example", "old.example"]);
    }
}
