//! Answers of external authorizers that count again, as annotations of CUSTOM policies ask for it.

use std::{collections::BTreeSet, time::Duration};

use palisade_crds::istio::{Action, AuthorizationPolicy};
use palisade_model::external_authorization::{CheckCache, KeyPart};

use crate::{
    object::{Head, Object},
    reports::{Code, Report, Reports},
    time,
};

const LIFETIME: &str = "palisade.dev/ext-authz-cache-lifetime";
const KEY: &str = "palisade.dev/ext-authz-cache-key";
/// An answer never counts for longer.
const MAX_LIFETIME: Duration = Duration::from_secs(3600);
/// Parts of a key at most: each is hashed for every request.
const MAX_PARTS: usize = 32;

/// What a policy's annotations say; `None` = each request is asked about. What cannot be read is reported, and caches nothing.
pub(crate) fn of(head: &Head, is_dry_run: bool, shows_body: bool, reports: &mut Reports) -> Option<CheckCache> {
    let mut warn = |annotation: &str, message: &str| -> Option<CheckCache> {
        let path = format!("metadata.annotations[{annotation}]");
        reports.add(Report::warning(head, Code::CheckCache, &path, &format!("{message}: no answer is cached")));
        None
    };
    let written = [LIFETIME, KEY].map(|name| head.annotations.get(name).map(String::as_str));
    let (lifetime, key) = match written {
        [None, None] => return None,
        [Some(_), None] => return warn(LIFETIME, &format!("it needs `{KEY}` as well")),
        [None, Some(_)] => return warn(KEY, &format!("it needs `{LIFETIME}` as well")),
        [Some(lifetime), Some(key)] => (lifetime, key),
    };
    if is_dry_run {
        return warn(LIFETIME, "a dry run asks about each request");
    }
    if shows_body {
        return warn(LIFETIME, "the provider is shown bodies");
    }
    let lifetime = match palisade_crds::Duration::parse(lifetime).ok().and_then(time::positive) {
        Some(lifetime) if lifetime <= MAX_LIFETIME => lifetime,
        Some(_) | None => {
            return warn(LIFETIME, &format!("`{lifetime}` is not a duration above zero and up to 1h"));
        }
    };
    match parts(key) {
        Ok(key) => Some(CheckCache { lifetime, key: key.into_iter().collect() }),
        Err(message) => warn(KEY, &message),
    }
}

/// Reports the annotations where they mean nothing: on a policy that asks nobody.
pub(crate) fn check_place(document: &Object<AuthorizationPolicy>, reports: &mut Reports) {
    let Object { head, spec, .. } = document;
    for name in [LIFETIME, KEY] {
        if spec.action != Action::Custom && head.annotations.contains_key(name) {
            let path = format!("metadata.annotations[{name}]");
            let message = "it has no effect: only policies with action CUSTOM ask a provider";
            reports.add(Report::warning(head, Code::CheckCache, &path, message));
        }
    }
}

/// Several policies that put requests of one workload before one provider: what all of them allow.
pub(crate) fn merged<'a>(wishes: impl Iterator<Item = Option<&'a CheckCache>>) -> Option<CheckCache> {
    let mut lifetime = MAX_LIFETIME;
    let mut key: BTreeSet<KeyPart> = BTreeSet::new();
    for wish in wishes {
        let CheckCache { lifetime: wished, key: parts } = wish?;
        lifetime = lifetime.min(*wished);
        key.extend(parts.iter().cloned());
    }
    Some(CheckCache { lifetime, key: key.into_iter().collect() })
}

fn parts(text: &str) -> Result<BTreeSet<KeyPart>, String> {
    let parts: BTreeSet<KeyPart> = text.split(',').map(|part| part_of(part.trim())).collect::<Result<_, _>>()?;
    if parts.len() > MAX_PARTS {
        return Err(format!("a key has at most {MAX_PARTS} parts"));
    }
    Ok(parts)
}

fn part_of(text: &str) -> Result<KeyPart, String> {
    Ok(match text {
        "method" => KeyPart::Method,
        "scheme" => KeyPart::Scheme,
        "host" => KeyPart::Host,
        "path" => KeyPart::Path,
        "query" => KeyPart::Query,
        "source.ip" => KeyPart::SourceIp,
        _ => match text.strip_prefix("headers.") {
            Some(name) if is_token(name) => KeyPart::Header(name.to_ascii_lowercase().into()),
            Some(_) | None => {
                let known = "method, scheme, host, path, query, source.ip, headers.NAME";
                return Err(format!("`{text}` is no part of a request: {known}"));
            }
        },
    })
}

/// RFC 9110 section 5.6.2.
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_exactly() {
        let key = parts("path, method,headers.X-User , path").unwrap();
        assert_eq!(key, BTreeSet::from([KeyPart::Method, KeyPart::Path, KeyPart::Header("x-user".into())]));
        for text in ["", "path,", "Path", "header.x", "headers.", "headers.a b", "body", "*"] {
            assert!(parts(text).is_err(), "{text}");
        }
        let many = (0..40).map(|i| format!("headers.x{i}")).collect::<Vec<_>>().join(",");
        assert!(parts(&many).is_err());
    }

    #[test]
    fn what_several_policies_allow_is_the_strictest() {
        let wish =
            |seconds: u64, key: &[KeyPart]| CheckCache { lifetime: Duration::from_secs(seconds), key: key.into() };
        let (a, b) = (wish(30, &[KeyPart::Path]), wish(10, &[KeyPart::Method]));
        assert_eq!(merged([Some(&a), Some(&b)].into_iter()), Some(wish(10, &[KeyPart::Method, KeyPart::Path])));
        assert_eq!(merged([Some(&a), None].into_iter()), None);
    }
}
