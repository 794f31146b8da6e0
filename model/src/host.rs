//! Host patterns: exact names, `*.suffix` wildcards and `*`, ordered most specific first.

use std::{cmp::Ordering, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// A host pattern, lower-case. `*.foo.com` matches any number of labels before `.foo.com`, never `foo.com` itself
/// (Istio `host.Name`; the Gateway API agrees).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// One name (or an IP literal).
    Exact(Arc<str>),
    /// Any name that ends with this suffix, which starts with a dot.
    Suffix(Arc<str>),
    /// Every name.
    Any,
}

/// Why a text is not a host pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a host pattern: a name, `*.name` or `*` is allowed")]
pub struct InvalidHostPattern(String);

impl HostPattern {
    /// Whether the pattern takes `host`, which must be lower-case and without a port.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => &**name == host,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
            Self::Any => true,
        }
    }

    /// Whether every host of `other` is one of `self`'s.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Suffix(_), Self::Exact(name)) => self.matches(name),
            (Self::Suffix(outer), Self::Suffix(inner)) => inner.ends_with(&**outer),
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Suffix(_) | Self::Exact(_), Self::Any) | (Self::Exact(_), Self::Suffix(_)) => false,
        }
    }

    /// The hosts that both take, as the narrower of the two; `None` when there are none.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        if self.covers(other) {
            Some(other.clone())
        } else if other.covers(self) {
            Some(self.clone())
        } else {
            None
        }
    }

    /// Whether this is `*` or `*.suffix`.
    pub fn is_wildcard(&self) -> bool {
        !matches!(self, Self::Exact(_))
    }
}

/// Most specific first: exact names, then longer suffixes, then `*`; ties by text.
impl Ord for HostPattern {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |p: &Self| match p {
            Self::Exact(_) => 0,
            Self::Suffix(_) => 1,
            Self::Any => 2,
        };
        rank(self).cmp(&rank(other)).then_with(|| match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a.cmp(b),
            (Self::Suffix(a), Self::Suffix(b)) => b.len().cmp(&a.len()).then_with(|| a.cmp(b)),
            _ => Ordering::Equal,
        })
    }
}

impl PartialOrd for HostPattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl FromStr for HostPattern {
    type Err = InvalidHostPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        let is_name = |s: &str| {
            !s.is_empty() && s.len() <= 255 && s.bytes().all(|b| b.is_ascii_graphic() && !b"*/@?#".contains(&b))
        };
        match lower.strip_prefix('*') {
            Some("") => Ok(Self::Any),
            Some(suffix) if suffix.len() > 1 && suffix.starts_with('.') && is_name(suffix) => {
                Ok(Self::Suffix(suffix.into()))
            }
            None if is_name(&lower) => Ok(Self::Exact(lower.into())),
            _ => Err(InvalidHostPattern(text.to_owned())),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = InvalidHostPattern;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_wildcard_takes_any_number_of_labels_but_not_its_own_suffix() {
        assert!(p("*.foo.com").matches("a.foo.com"));
        assert!(p("*.foo.com").matches("a.b.foo.com"));
        assert!(!p("*.foo.com").matches("foo.com"));
        assert!(!p("*.foo.com").matches(".foo.com"));
        assert!(!p("*.foo.com").matches("xfoo.com"));
    }

    #[test]
    fn most_specific_sorts_first() {
        let mut patterns = [p("*"), p("*.com"), p("b.com"), p("*.foo.com"), p("A.com")];
        patterns.sort();
        assert_eq!(patterns.map(|p| p.to_string()), ["a.com", "b.com", "*.foo.com", "*.com", "*"]);
    }

    #[test]
    fn an_intersection_is_the_narrower_pattern() {
        assert_eq!(p("*.foo.com").intersect(&p("a.foo.com")), Some(p("a.foo.com")));
        assert_eq!(p("*.b.foo.com").intersect(&p("*.foo.com")), Some(p("*.b.foo.com")));
        assert_eq!(p("*").intersect(&p("x")), Some(p("x")));
        assert_eq!(p("*.foo.com").intersect(&p("foo.com")), None);
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for text in ["", "*foo", "a*", "*.", "a b", "**", "a/b", "*.*.com"] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }
}
