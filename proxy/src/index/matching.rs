//! Compiled conditions of route rules, and the facts that they are tested on.

use std::{borrow::Cow, sync::Arc};

use http::HeaderName;
use palisade_model::route::{ClaimMatch, Cors, HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch};
use palisade_policy::{JwtFacts, claim_key};
use regex::bytes::{Regex, RegexBuilder};

use crate::request::view::HeaderView;

/// Upper bound of one compiled expression. RE2's default budget in Envoy is of this order; larger ones are refused.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// What a route match is tested on: the normalised request.
#[derive(Debug, Clone, Copy)]
pub struct MatchFacts<'a> {
    /// Path without query.
    pub path: &'a [u8],
    /// Query without `?`; `None` when there is none.
    pub query: Option<&'a [u8]>,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Method.
    pub method: &'a str,
    /// Authority as sent, port included.
    pub authority: &'a str,
    /// Header lines.
    pub headers: HeaderView<'a>,
    /// Claims of a verified token; `None` = no token.
    pub jwt: Option<&'a JwtFacts>,
}

/// All conditions of one alternative.
#[derive(Debug, Clone, Default)]
pub(super) struct CompiledMatch {
    pub(super) path: Option<CompiledPath>,
    scheme: Option<CompiledString>,
    method: Option<CompiledString>,
    authority: Option<CompiledString>,
    headers: Box<[CompiledHeader]>,
    query: Box<[CompiledQuery]>,
    claims: Box<[CompiledClaim]>,
}

/// A path condition.
#[derive(Debug, Clone)]
pub(super) enum CompiledPath {
    Exact { value: Arc<str>, ignore_case: bool },
    Prefix { value: Arc<str>, ignore_case: bool },
    SegmentPrefix(Arc<str>),
    Regex(Regex),
}

/// A string condition.
#[derive(Debug, Clone)]
pub(super) enum CompiledString {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Regex(Regex),
}

#[derive(Debug, Clone)]
struct CompiledHeader {
    name: Named,
    value: Option<CompiledString>,
    is_inverted: bool,
}

#[derive(Debug, Clone)]
enum Named {
    Header(HeaderName),
    Authority,
    Method,
    Path,
    Scheme,
    /// Not a name that a request can carry: never present.
    Impossible,
}

#[derive(Debug, Clone)]
struct CompiledQuery {
    name: Arc<str>,
    value: Option<CompiledString>,
}

#[derive(Debug, Clone)]
struct CompiledClaim {
    key: Box<str>,
    value: Option<CompiledString>,
    is_inverted: bool,
}

/// Cross-origin rules, ready to be tested on origins.
#[derive(Debug, Clone)]
pub struct CompiledCors {
    cors: Cors,
    origins: Box<[CompiledString]>,
}

impl CompiledCors {
    /// Compiles rules.
    ///
    /// # Errors
    /// A text that says which expression is malformed or too large.
    pub fn compile(cors: &Cors) -> Result<Self, String> {
        let origins = cors.allow_origins.iter().map(CompiledString::compile).collect::<Result<_, _>>()?;
        Ok(Self { cors: cors.clone(), origins })
    }

    /// The rules as the control plane sent them.
    pub fn cors(&self) -> &Cors {
        &self.cors
    }

    /// Whether an origin is allowed. A condition that takes `*` takes every origin (Envoy).
    pub fn allows(&self, origin: &[u8]) -> bool {
        self.origins.iter().any(|allowed| allowed.matches(b"*") || allowed.matches(origin))
    }
}

impl CompiledMatch {
    /// Compiles one alternative.
    ///
    /// # Errors
    /// A text that says which expression is malformed or too large.
    pub(super) fn compile(source: &RouteMatch) -> Result<Self, String> {
        let RouteMatch { source_index: _, path, scheme, method, authority, headers, query, claims } = source;
        let string = |m: &Option<StringMatch>| m.as_ref().map(CompiledString::compile).transpose();
        Ok(Self {
            path: path.as_ref().map(CompiledPath::compile).transpose()?,
            scheme: string(scheme)?,
            method: string(method)?,
            authority: string(authority)?,
            headers: headers.iter().map(CompiledHeader::compile).collect::<Result<_, _>>()?,
            query: query.iter().map(CompiledQuery::compile).collect::<Result<_, _>>()?,
            claims: claims.iter().map(CompiledClaim::compile).collect::<Result<_, _>>()?,
        })
    }

    /// Whether every condition holds.
    pub(super) fn matches(&self, facts: &MatchFacts<'_>) -> bool {
        self.path.as_ref().is_none_or(|path| path.matches(facts.path)) && self.matches_beside_path(facts)
    }

    /// Whether every condition but the path's holds.
    pub(super) fn matches_beside_path(&self, facts: &MatchFacts<'_>) -> bool {
        let holds = |m: &Option<CompiledString>, text: &str| m.as_ref().is_none_or(|m| m.matches(text.as_bytes()));
        holds(&self.method, facts.method)
            && holds(&self.scheme, facts.scheme)
            && holds(&self.authority, facts.authority)
            && self.headers.iter().all(|header| header.matches(facts))
            && self.query.iter().all(|query| query.matches(facts.query))
            && self.claims.iter().all(|claim| claim.matches(facts.jwt))
    }
}

impl CompiledPath {
    fn compile(source: &PathMatch) -> Result<Self, String> {
        Ok(match source {
            PathMatch::Exact { value, ignore_case } => {
                Self::Exact { value: Arc::clone(value), ignore_case: *ignore_case }
            }
            PathMatch::Prefix { value, ignore_case } => {
                Self::Prefix { value: Arc::clone(value), ignore_case: *ignore_case }
            }
            PathMatch::SegmentPrefix { value } => Self::SegmentPrefix(Arc::clone(value)),
            PathMatch::Regex { value } => Self::Regex(full_regex(value)?),
        })
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact { value, ignore_case: false } => value.as_bytes() == path,
            Self::Exact { value, ignore_case: true } => value.as_bytes().eq_ignore_ascii_case(path),
            Self::Prefix { value, ignore_case: false } => path.starts_with(value.as_bytes()),
            Self::Prefix { value, ignore_case: true } => {
                path.get(..value.len()).is_some_and(|head| head.eq_ignore_ascii_case(value.as_bytes()))
            }
            Self::SegmentPrefix(value) => is_segment_prefix(value.as_bytes(), path),
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

/// Whether `prefix` is a prefix of `path` by whole segments; a trailing slash of `prefix` does not count.
pub(crate) fn is_segment_prefix(prefix: &[u8], path: &[u8]) -> bool {
    let prefix = prefix.strip_suffix(b"/").unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.first().is_none_or(|next| *next == b'/'))
}

impl CompiledString {
    fn compile(source: &StringMatch) -> Result<Self, String> {
        Ok(match source {
            StringMatch::Exact(value) => Self::Exact(Arc::clone(value)),
            StringMatch::Prefix(value) => Self::Prefix(Arc::clone(value)),
            StringMatch::Regex(value) => Self::Regex(full_regex(value)?),
        })
    }

    fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(value) => value.as_bytes() == text,
            Self::Prefix(value) => text.starts_with(value.as_bytes()),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

impl CompiledHeader {
    fn compile(source: &HeaderMatch) -> Result<Self, String> {
        let HeaderMatch { name, value, is_inverted } = source;
        let named = match &**name {
            ":authority" | "host" => Named::Authority,
            ":method" => Named::Method,
            ":path" => Named::Path,
            ":scheme" => Named::Scheme,
            other => HeaderName::try_from(other).map_or(Named::Impossible, Named::Header),
        };
        Ok(Self {
            name: named,
            value: value.as_ref().map(CompiledString::compile).transpose()?,
            is_inverted: *is_inverted,
        })
    }

    fn matches(&self, facts: &MatchFacts<'_>) -> bool {
        let found = match &self.name {
            Named::Header(name) => joined_lines(facts.headers, name),
            Named::Authority => Some(Cow::Borrowed(facts.authority.as_bytes())),
            Named::Method => Some(Cow::Borrowed(facts.method.as_bytes())),
            Named::Path => Some(whole_path(facts)),
            Named::Scheme => Some(Cow::Borrowed(facts.scheme.as_bytes())),
            Named::Impossible => None,
        };
        // Of what is to be absent, or not of this kind, a missing header is an empty one (Envoy).
        let found = found.or_else(|| (self.is_inverted && self.value.is_some()).then_some(Cow::Borrowed(&[][..])));
        let holds = found.is_some_and(|text| self.value.as_ref().is_none_or(|value| value.matches(&text)));
        holds != self.is_inverted
    }
}

/// A header's lines as one value: joined by `,`, cookies by `; ` (RFC 9113 section 8.2.3). `None`: the header is absent.
fn joined_lines<'a>(headers: HeaderView<'a>, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = headers.lines(name);
    let first = lines.next()?.as_bytes();
    let mut joined = Cow::Borrowed(first);
    let separator: &[u8] = if *name == http::header::COOKIE { b"; " } else { b"," };
    for line in lines {
        let text = joined.to_mut();
        text.extend_from_slice(separator);
        text.extend_from_slice(line.as_bytes());
    }
    Some(joined)
}

fn whole_path<'a>(facts: &MatchFacts<'a>) -> Cow<'a, [u8]> {
    match facts.query {
        None => Cow::Borrowed(facts.path),
        Some(query) => Cow::Owned([facts.path, query].join(&b'?')),
    }
}

impl CompiledQuery {
    fn compile(source: &QueryMatch) -> Result<Self, String> {
        let QueryMatch { name, value } = source;
        Ok(Self { name: Arc::clone(name), value: value.as_ref().map(CompiledString::compile).transpose()? })
    }

    fn matches(&self, query: Option<&[u8]>) -> bool {
        let Some(query) = query else { return false };
        let mut parameters = query.split(|byte| *byte == b'&').map(|parameter| {
            match memchr::memchr(b'=', parameter).and_then(|at| parameter.split_at_checked(at)) {
                Some((name, value)) => (name, value.get(1..).unwrap_or_default()),
                None => (parameter, &[][..]),
            }
        });
        parameters
            .find(|(name, _)| *name == self.name.as_bytes())
            .is_some_and(|(_, text)| self.value.as_ref().is_none_or(|value| value.matches(text)))
    }
}

impl CompiledClaim {
    fn compile(source: &ClaimMatch) -> Result<Self, String> {
        let ClaimMatch { path, value, is_inverted } = source;
        let names: Vec<&str> = path.iter().map(|name| &**name).collect();
        Ok(Self {
            key: claim_key(&names).into(),
            value: value.as_ref().map(CompiledString::compile).transpose()?,
            is_inverted: *is_inverted,
        })
    }

    fn matches(&self, jwt: Option<&JwtFacts>) -> bool {
        let texts = jwt.and_then(|jwt| jwt.claims.at(&self.key));
        let holds = texts.is_some_and(|texts| match &self.value {
            Some(value) => texts.iter().any(|text| value.matches(text.as_bytes())),
            None => true,
        });
        holds != self.is_inverted
    }
}

/// An expression that must match the whole text.
pub(super) fn full_regex(pattern: &str) -> Result<Regex, String> {
    // Compiled alone first: a pattern that only closes inside our parentheses is not one the user wrote.
    compile_regex(pattern)?;
    // The line break ends a comment that a pattern in extended mode may close with; elsewhere it would be a literal.
    compile_regex(&format!("\\A(?:{pattern})\\z")).or_else(|_| compile_regex(&format!("\\A(?:{pattern}\n)\\z")))
}

/// An expression that is searched for.
pub(super) fn compile_regex(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(REGEX_SIZE_LIMIT)
        .build()
        .map_err(|error| format!("`{pattern}` is not a usable expression: {}", one_line(&error.to_string())))
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn facts<'a>(path: &'a str, query: Option<&'a str>, headers: &'a HeaderMap) -> MatchFacts<'a> {
        MatchFacts {
            path: path.as_bytes(),
            query: query.map(str::as_bytes),
            scheme: "http",
            method: "GET",
            authority: "a.com:80",
            headers: headers.into(),
            jwt: None,
        }
    }

    fn path(source: PathMatch) -> CompiledPath {
        CompiledPath::compile(&source).unwrap()
    }

    #[test]
    fn paths_match_as_their_kind_says() {
        let exact = path(PathMatch::Exact { value: "/Foo".into(), ignore_case: false });
        let exact_any = path(PathMatch::Exact { value: "/Foo".into(), ignore_case: true });
        let prefix = path(PathMatch::Prefix { value: "/foo".into(), ignore_case: false });
        let prefix_any = path(PathMatch::Prefix { value: "/foo".into(), ignore_case: true });
        let segment = path(PathMatch::SegmentPrefix { value: "/foo".into() });
        let root = path(PathMatch::SegmentPrefix { value: "/".into() });
        let regex = path(PathMatch::Regex { value: "/[a-z]+|/1".into() });
        for (name, compiled, text, expected) in [
            ("exact", &exact, "/Foo", true),
            ("exact is case-sensitive", &exact, "/foo", false),
            ("exact ignoring case", &exact_any, "/fOO", true),
            ("a prefix takes more", &prefix, "/foobar", true),
            ("a prefix is case-sensitive", &prefix, "/FOO", false),
            ("a prefix ignoring case", &prefix_any, "/FOObar", true),
            ("a segment", &segment, "/foo", true),
            ("a segment and more", &segment, "/foo/x", true),
            ("half a segment", &segment, "/foobar", false),
            ("the root takes everything", &root, "/anything", true),
            ("a regex", &regex, "/abc", true),
            ("a regex matches in full", &regex, "/abc/d", false),
            ("alternatives stay inside", &regex, "/1", true),
            ("alternatives are anchored", &regex, "/1x", false),
        ] {
            assert_eq!(compiled.matches(text.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn header_lines_are_joined_and_absence_satisfies_the_inverse() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", "1".parse().unwrap());
        headers.append("x-a", "2".parse().unwrap());
        headers.append("cookie", "user=jason".parse().unwrap());
        headers.append("cookie", "b=c".parse().unwrap());
        let facts = facts("/", None, &headers);
        let header = |name: &str, value: Option<StringMatch>, is_inverted| {
            CompiledHeader::compile(&HeaderMatch { name: name.into(), value, is_inverted }).unwrap().matches(&facts)
        };
        assert!(header("x-a", Some(StringMatch::Exact("1,2".into())), false));
        assert!(!header("x-a", Some(StringMatch::Exact("1".into())), false));
        assert!(header("x-b", Some(StringMatch::Exact("1".into())), true));
        assert!(!header("x-b", Some(StringMatch::Regex(".*".into())), true), "a missing header is an empty one here");
        assert!(header("x-b", None, true));
        assert!(!header("x-a", None, true));
        assert!(header("cookie", Some(StringMatch::Regex("^(.*?;)?(user=jason)(;.*)?$".into())), false));
        assert!(header(":authority", Some(StringMatch::Exact("a.com:80".into())), false));
    }

    #[test]
    fn the_first_occurrence_of_a_query_parameter_counts() {
        let query = |name: &str, value: Option<StringMatch>, text: Option<&str>| {
            CompiledQuery::compile(&QueryMatch { name: name.into(), value }).unwrap().matches(text.map(str::as_bytes))
        };
        let one = || Some(StringMatch::Exact("1".into()));
        assert!(query("x", one(), Some("x=1&x=2")));
        assert!(!query("x", one(), Some("x=2&x=1")));
        assert!(query("x", None, Some("y=1&x")));
        assert!(!query("x", None, None));
    }

    #[test]
    fn malformed_and_huge_expressions_are_refused_by_name() {
        assert!(full_regex("a)(b").unwrap_err().contains("a)(b"));
        assert!(full_regex("(").is_err());
        assert!(full_regex("((a{200}){200}){200}").is_err());
        assert!(full_regex("(?x)/a # all").is_ok_and(|regex| regex.is_match(b"/a") && !regex.is_match(b"/ab")));
    }
}
