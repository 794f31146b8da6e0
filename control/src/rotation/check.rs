//! Whether a change of roots would break anybody: a pure question about what proxies say of themselves.

use std::collections::BTreeSet;

use palisade_model::trust::{Fingerprint, Standing};
use serde::{Deserialize, Serialize};

use crate::ca::CertificateAuthority;

/// Which roots are in force, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Roots {
    /// The one that signs.
    pub signing: Option<Fingerprint>,
    /// Those that are trusted.
    pub trusted: BTreeSet<Fingerprint>,
}

/// From which roots to which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What is in force.
    pub from: Roots,
    /// What would be.
    pub to: Roots,
}

/// Somebody who would break, or of whom it is not known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Obstacle {
    /// The proxy, replica, namespace.
    pub who: String,
    /// Why.
    pub why: String,
}

impl Roots {
    /// Those of an authority.
    pub fn of(authority: &CertificateAuthority) -> Self {
        Self { signing: authority.trust().signing, trusted: authority.trusted().keys().copied().collect() }
    }
}

impl Change {
    /// Whether nothing that a proxy could break on is different.
    pub fn is_none(&self) -> bool {
        self.from == self.to
    }

    /// Roots that are to be trusted no more.
    fn gone(&self) -> bool {
        !self.from.trusted.is_subset(&self.to.trusted)
    }

    /// Whether certificates of another root are to be issued.
    pub fn signs_anew(&self) -> bool {
        self.from.signing != self.to.signing
    }

    /// Why a proxy would break; `None` = it would not.
    pub fn against(&self, standing: Option<&Standing>) -> Option<String> {
        if !self.signs_anew() && !self.gone() {
            return None;
        }
        let Some(standing) = standing else {
            return Some(
                "it does not say what it trusts: an older proxy, or one that has only just connected".to_owned(),
            );
        };
        if let Some(signing) = self.to.signing.filter(|signing| self.signs_anew() && !standing.roots.contains(signing))
        {
            let problem = standing.problem.as_ref().map(|problem| format!(" ({problem})")).unwrap_or_default();
            return Some(format!("it does not trust the root {} that would sign{problem}", short(&signing)));
        }
        if self.gone() && standing.not_after != 0 && standing.leaf_roots.is_disjoint(&self.to.trusted) {
            let own: Vec<String> = standing.leaf_roots.iter().map(short).collect();
            let own = if own.is_empty() { "unknown".to_owned() } else { own.join(", ") };
            return Some(format!("its certificate is of the root {own}, which would be trusted no more"));
        }
        None
    }
}

/// The first digits of a fingerprint, as people compare them.
pub fn short(fingerprint: &Fingerprint) -> String {
    fingerprint.to_string().chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(text: &str) -> Fingerprint {
        Fingerprint::of_bytes(text.as_bytes())
    }

    fn roots(signing: &str, trusted: &[&str]) -> Roots {
        Roots { signing: Some(print(signing)), trusted: trusted.iter().map(|root| print(root)).collect() }
    }

    fn standing(roots: &[&str], leaf: &[&str]) -> Standing {
        let set = |names: &[&str]| names.iter().map(|root| print(root)).collect();
        let not_after = u64::from(!leaf.is_empty());
        Standing { roots: set(roots), leaf_roots: set(leaf), not_after, ..Standing::default() }
    }

    #[test]
    fn a_step_is_safe_for_those_who_have_taken_the_one_before() {
        let (start, both, signing, end) =
            (roots("a", &["a"]), roots("a", &["a", "b"]), roots("b", &["a", "b"]), roots("b", &["b"]));
        let told = |roots: &[&str], leaf: &[&str]| Some(standing(roots, leaf));
        for (from, to, standing, expected) in [
            // To trust one more breaks nobody, not even those who say nothing.
            (&start, &both, None, None),
            (&start, &both, told(&["a"], &["a"]), None),
            (&both, &signing, told(&["a", "b"], &["a"]), None),
            (&both, &signing, told(&["a"], &["a"]), Some("does not trust the root")),
            (&both, &signing, None, Some("does not say")),
            (&signing, &end, told(&["a", "b"], &["b"]), None),
            (&signing, &end, told(&["a", "b"], &["a"]), Some("its certificate is of the root")),
            (&signing, &end, told(&["a", "b"], &[]), None),
            (&signing, &end, None, Some("does not say")),
            // A certificate that is good under both goes on being good.
            (&signing, &end, told(&["a", "b"], &["a", "b"]), None),
            // Back again.
            (&signing, &both, told(&["a", "b"], &["b"]), None),
            (&both, &start, told(&["a", "b"], &["b"]), Some("its certificate is of the root")),
            // In one leap.
            (&start, &end, told(&["a"], &["a"]), Some("does not trust the root")),
            (&start, &start, None, None),
        ] {
            let change = Change { from: from.clone(), to: to.clone() };
            let found = change.against(standing.as_ref());
            match expected {
                None => assert_eq!(found, None, "{change:?} {standing:?}"),
                Some(text) => assert!(found.as_ref().is_some_and(|why| why.contains(text)), "{found:?}"),
            }
        }
    }

    #[test]
    fn a_proxy_whose_certificate_chains_to_nothing_known_is_in_the_way() {
        let change = Change { from: roots("b", &["a", "b"]), to: roots("b", &["b"]) };
        let odd = Standing { not_after: 7, roots: change.from.trusted.clone(), ..Standing::default() };
        assert!(change.against(Some(&odd)).is_some_and(|why| why.contains("unknown")));
    }
}
