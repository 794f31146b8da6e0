//! Route rules with their expressions compiled.

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock, OnceLock},
};

use palisade_model::{
    resource::{Entry, Resource},
    route::{Fault, HeaderMutations, PathMatch, PathRewrite, RouteAction, RouteMatch, RouteRule},
};
use regex::bytes::Regex;

use super::matching::{CompiledCors, CompiledMatch, compile_regex, is_segment_prefix};
use crate::request::changes::CompiledChanges;

/// A rule, ready to be matched.
#[derive(Debug)]
pub struct CompiledRule {
    entry: Arc<Entry>,
    /// As the log names it; made when it is first wanted.
    label: OnceLock<Arc<str>>,
    alternatives: Box<[CompiledMatch]>,
    substitution: Option<Substitution>,
    request: CompiledChanges,
    response: CompiledChanges,
    cors: Option<CompiledCors>,
    backends: Box<[CompiledBackend]>,
    /// Cumulative weights of the backends.
    upto: Box<[u64]>,
}

/// Refuses everything.
static NO_RULE: LazyLock<RouteRule> = LazyLock::new(|| RouteRule {
    key: "".into(),
    source: "".into(),
    name: None,
    rule: 0,
    matches: Arc::new([]),
    fault: Fault::default(),
    cors: None,
    action: RouteAction::Refuse { message: "not a rule".into() },
    response_headers: HeaderMutations::default(),
});

/// Header changes of one backend of a rule.
#[derive(Debug, Default)]
pub struct CompiledBackend {
    /// To the request.
    pub request: CompiledChanges,
    /// To the response.
    pub response: CompiledChanges,
}

/// A compiled path substitution (`uriRegexRewrite`).
#[derive(Debug)]
struct Substitution {
    pattern: Regex,
    replacement: Vec<u8>,
}

impl CompiledRule {
    /// Compiles the rule of an entry; `None` when the entry is not a rule.
    ///
    /// # Errors
    /// A text that says which expression is malformed.
    pub fn compile(entry: &Arc<Entry>) -> Result<Option<Self>, String> {
        let Resource::Route(rule) = entry.resource() else { return Ok(None) };
        let alternatives = rule.matches.iter().map(CompiledMatch::compile).collect::<Result<_, _>>()?;
        let rewrite = match &rule.action {
            RouteAction::Forward(forward) => forward.rewrite.path.as_ref(),
            RouteAction::Redirect(redirect) => redirect.path.as_ref(),
            RouteAction::DirectResponse { status: _, body: _, content_type: _ }
            | RouteAction::Refuse { message: _ } => None,
        };
        let substitution = match rewrite {
            Some(PathRewrite::Regex { pattern, substitution }) => Some(Substitution {
                pattern: compile_regex(pattern)?,
                replacement: replacement_of(substitution).into_bytes(),
            }),
            Some(PathRewrite::Full(_) | PathRewrite::Prefix(_) | PathRewrite::SegmentPrefix(_)) | None => None,
        };
        let mut request = CompiledChanges::default();
        let mut backends = Vec::new();
        let mut upto = Vec::new();
        if let RouteAction::Forward(forward) = &rule.action {
            request = CompiledChanges::compile(&forward.request_headers)?;
            let mut total = 0;
            for backend in forward.backends.iter() {
                total += u64::from(backend.weight);
                upto.push(total);
                backends.push(CompiledBackend {
                    request: CompiledChanges::compile(&backend.request_headers)?,
                    response: CompiledChanges::compile(&backend.response_headers)?,
                });
            }
        }
        Ok(Some(Self {
            entry: Arc::clone(entry),
            label: OnceLock::new(),
            alternatives,
            substitution,
            request,
            response: CompiledChanges::compile(&rule.response_headers)?,
            cors: rule.cors.as_ref().map(CompiledCors::compile).transpose()?,
            backends: backends.into(),
            upto: upto.into(),
        }))
    }

    /// Rule-level changes to the request.
    pub fn request_changes(&self) -> &CompiledChanges {
        &self.request
    }

    /// Rule-level changes to the response.
    pub fn response_changes(&self) -> &CompiledChanges {
        &self.response
    }

    /// Cross-origin rules.
    pub fn cors(&self) -> Option<&CompiledCors> {
        self.cors.as_ref()
    }

    /// Changes of one backend.
    pub fn backend_changes(&self, index: usize) -> Option<&CompiledBackend> {
        self.backends.get(index)
    }

    /// Cumulative weights of the backends, in document order.
    pub fn cumulative_weights(&self) -> &[u64] {
        &self.upto
    }

    /// The rule as the control plane sent it.
    pub fn rule(&self) -> &RouteRule {
        match self.entry.resource() {
            Resource::Route(rule) => rule,
            // INVARIANT: `compile` takes rules only.
            _ => &NO_RULE,
        }
    }

    /// The rule in the access log.
    pub fn label(&self) -> Arc<str> {
        let label = || format!("{}[{}]", self.rule().source, self.rule().rule).into();
        Arc::clone(self.label.get_or_init(label))
    }

    /// The entry that it was made from.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    pub(super) fn alternative(&self, index: usize) -> Option<&CompiledMatch> {
        self.alternatives.get(index)
    }

    pub(super) fn takes_everything(&self) -> bool {
        self.alternatives.is_empty()
    }

    /// The source of one alternative; `None` for a rule that takes everything.
    pub fn source_match(&self, alternative: usize) -> Option<&RouteMatch> {
        self.rule().matches.get(alternative)
    }

    /// The path after `rewrite`, for a path that this alternative matched. Neither has a query.
    pub fn rewritten<'a>(&self, alternative: usize, rewrite: &PathRewrite, path: &'a [u8]) -> Cow<'a, [u8]> {
        let matched = self.source_match(alternative).and_then(|m| m.path.as_ref());
        match rewrite {
            PathRewrite::Full(value) => Cow::Owned(value.as_bytes().to_vec()),
            PathRewrite::Prefix(value) => match matched {
                Some(PathMatch::Prefix { value: prefix, ignore_case: _ }) => {
                    let rest = path.get(prefix.len()..).unwrap_or_default();
                    Cow::Owned([value.as_bytes(), rest].concat())
                }
                // A rule without a path match takes every path as prefix `/` does (Istio translates it so).
                None => {
                    let rest = path.strip_prefix(b"/").unwrap_or(path);
                    Cow::Owned([value.as_bytes(), rest].concat())
                }
                Some(PathMatch::Exact { .. } | PathMatch::SegmentPrefix { .. } | PathMatch::Regex { .. }) => {
                    Cow::Owned(value.as_bytes().to_vec())
                }
            },
            PathRewrite::SegmentPrefix(value) => {
                let prefix = match matched {
                    Some(PathMatch::SegmentPrefix { value } | PathMatch::Prefix { value, ignore_case: _ }) => &**value,
                    Some(PathMatch::Exact { .. } | PathMatch::Regex { .. }) | None => "/",
                };
                Cow::Owned(segment_rewritten(path, prefix.as_bytes(), value.as_bytes()))
            }
            PathRewrite::Regex { pattern: _, substitution: _ } => match &self.substitution {
                Some(Substitution { pattern, replacement }) => pattern.replace_all(path, replacement.as_slice()),
                None => Cow::Borrowed(path),
            },
        }
    }
}

/// Gateway API `ReplacePrefixMatch`: segments are replaced, slashes are neither doubled nor lost.
fn segment_rewritten(path: &[u8], prefix: &[u8], replacement: &[u8]) -> Vec<u8> {
    let prefix = prefix.strip_suffix(b"/").unwrap_or(prefix);
    let rest = if is_segment_prefix(prefix, path) { path.get(prefix.len()..).unwrap_or_default() } else { path };
    let head = replacement.strip_suffix(b"/").unwrap_or(replacement);
    let mut rewritten = [head, rest].concat();
    if rewritten.is_empty() {
        rewritten.push(b'/');
    }
    rewritten
}

/// RE2's `\1` references in the form of the regex crate, `${1}`; its `$` is literal in RE2.
fn replacement_of(substitution: &str) -> String {
    let mut text = String::with_capacity(substitution.len() + 4);
    let mut characters = substitution.chars();
    while let Some(character) = characters.next() {
        match character {
            '$' => text.push_str("$$"),
            '\\' => match characters.next() {
                Some(digit) if digit.is_ascii_digit() => text.push_str(&format!("${{{digit}}}")),
                Some(other) => text.push(other),
                None => text.push('\\'),
            },
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_rewrites_never_double_or_lose_a_slash() {
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
        ] {
            let rewritten = segment_rewritten(path.as_bytes(), prefix.as_bytes(), replacement.as_bytes());
            assert_eq!(String::from_utf8(rewritten).unwrap(), expected, "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn references_are_translated() {
        assert_eq!(replacement_of(r"/x/\1/$2\\"), r"/x/${1}/$$2\");
    }
}
