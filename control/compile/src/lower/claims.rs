//! Claims of tokens in header conditions (`@request.auth.claims`).

use std::sync::Arc;

/// What the names of such conditions begin with, case ignored.
const PREFIX: &str = "@request.auth.claims";

/// The path of the claim that a header condition names: `….sub`, `….a.b` or `…[a][b]`. `None` = it names a header.
pub(crate) fn path(header: &str) -> Option<Arc<[Arc<str>]>> {
    let head = header.get(..PREFIX.len()).filter(|head| head.eq_ignore_ascii_case(PREFIX))?;
    let rest = header.get(head.len()..)?;
    if let Some(names) = rest.strip_prefix('.').filter(|names| !names.is_empty()) {
        return Some(names.split('.').map(Arc::from).collect());
    }
    let names = rest.strip_prefix('[')?.strip_suffix(']')?;
    Some(names.split("][").map(Arc::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_named_by_dots_or_brackets() {
        for (written, expected) in [
            ("@request.auth.claims.sub", Some(vec!["sub"])),
            ("@Request.Auth.Claims.a.b", Some(vec!["a", "b"])),
            ("@request.auth.claims[a.b][c]", Some(vec!["a.b", "c"])),
            ("@request.auth.claims", None),
            ("@request.auth.claims.", None),
            ("x-claims", None),
        ] {
            let found = path(written);
            let found = found.as_ref().map(|path| path.iter().map(|name| &**name).collect::<Vec<_>>());
            assert_eq!(found, expected, "{written}");
        }
    }
}
