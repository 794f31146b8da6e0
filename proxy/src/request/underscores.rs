//! Header names with `_`, which some servers take for `-`: they pass, are refused, or are gone before anything reads them.

use http::{HeaderMap, HeaderName};
use palisade_model::settings::{ProxySettings, UnderscoreHeaders};

use super::changes::HeaderChange;

/// A request without its lines of such names.
#[derive(Debug)]
pub(super) struct Underscored {
    /// What is left.
    pub(super) headers: HeaderMap,
    dropped: Vec<HeaderName>,
}

/// A header name with `_`, and the proxy refuses it: answered 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header name holds `_`")]
pub(super) struct UnderscoreRefused;

/// What the proxy's settings make of a request's header names; `None` = they stay as they are.
///
/// # Errors
/// When the request is refused.
pub(super) fn judge(settings: &ProxySettings, headers: &HeaderMap) -> Result<Option<Underscored>, UnderscoreRefused> {
    let rule = settings.connections.as_ref().and_then(|own| own.underscores).unwrap_or(UnderscoreHeaders::Allow);
    if rule == UnderscoreHeaders::Allow {
        return Ok(None);
    }
    let dropped: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    if dropped.is_empty() {
        return Ok(None);
    }
    if rule == UnderscoreHeaders::Reject {
        return Err(UnderscoreRefused);
    }
    let mut headers = headers.clone();
    for name in &dropped {
        headers.remove(name);
    }
    Ok(Some(Underscored { headers, dropped }))
}

impl Underscored {
    /// The changes that take the same lines out of the request that goes upstream.
    pub(super) fn removals(&self) -> impl Iterator<Item = HeaderChange> {
        self.dropped.iter().cloned().map(HeaderChange::Remove)
    }
}
