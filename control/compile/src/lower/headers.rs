//! Header changes of VirtualServices.

use std::sync::Arc;

use palisade_crds::istio::HeaderOperations;
use palisade_model::route::HeaderMutations;

/// Changes to request headers, and the authority that they set (`Host` or `:authority`; `set` before `add`).
pub(crate) fn request(written: Option<&HeaderOperations>) -> (HeaderMutations, Option<Arc<str>>) {
    let Some(written) = written else { return (HeaderMutations::default(), None) };
    let authority = |pairs: &std::collections::BTreeMap<String, String>| {
        pairs.iter().rev().find(|(name, _)| is_authority(name)).map(|(_, value)| Arc::from(value.as_str()))
    };
    let host = authority(&written.set).or_else(|| authority(&written.add));
    (response(Some(written)), host)
}

/// Changes to response headers. Pseudo headers and `Host` cannot be changed.
pub(crate) fn response(written: Option<&HeaderOperations>) -> HeaderMutations {
    let Some(HeaderOperations { set, add, remove }) = written else { return HeaderMutations::default() };
    let pairs = |pairs: &std::collections::BTreeMap<String, String>| {
        pairs
            .iter()
            .filter(|(name, _)| !is_internal(name))
            .map(|(name, value)| (Arc::from(name.to_ascii_lowercase()), Arc::from(value.as_str())))
            .collect()
    };
    HeaderMutations {
        remove: remove
            .iter()
            .filter(|name| !is_internal(name))
            .map(|name| Arc::from(name.to_ascii_lowercase()))
            .collect(),
        set: pairs(set),
        add: pairs(add),
    }
}

fn is_internal(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}
