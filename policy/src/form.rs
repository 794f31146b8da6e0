//! Istio's string forms: any non-empty text, prefix, suffix, exact; and path templates.

/// How a value matches a text. `*` stands for "not empty"; one star at the start makes a suffix, else one at the end a prefix; any other
/// star is a star.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form<'a> {
    /// `*`
    Any,
    /// `x*`
    Prefix(&'a str),
    /// `*x`
    Suffix(&'a str),
    /// `x`
    Exact(&'a str),
}

/// A path template, validated: literals, `{*}` for one segment, at most one `{**}` for any rest, which no `{*}` follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    /// What stands before `{**}` (or everything): literal pieces, between which one segment each is matched.
    head: Vec<Box<str>>,
    /// The literal after `{**}`; `None` without `{**}`.
    tail: Option<Box<str>>,
}

impl<'a> Form<'a> {
    /// The form of a user's value. The order of the tests is Istio's.
    pub(crate) fn of(value: &'a str) -> Self {
        if value == "*" {
            Self::Any
        } else if let Some(suffix) = value.strip_prefix('*') {
            Self::Suffix(suffix)
        } else if let Some(prefix) = value.strip_suffix('*') {
            Self::Prefix(prefix)
        } else {
            Self::Exact(value)
        }
    }

    /// Whether a text matches.
    pub(crate) fn is_match(self, text: &[u8]) -> bool {
        match self {
            Self::Any => !text.is_empty(),
            Self::Prefix(prefix) => text.starts_with(prefix.as_bytes()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_bytes()),
            Self::Exact(exact) => text == exact.as_bytes(),
        }
    }
}

impl Template {
    /// Whether a path value is a template at all.
    pub(crate) fn is_template(value: &str) -> bool {
        value.contains("{*}") || value.contains("{**}")
    }

    /// Parses a template.
    ///
    /// # Errors
    /// What is wrong with it, as one line.
    pub(crate) fn parse(value: &str) -> Result<Self, String> {
        let Some(rest) = value.strip_prefix('/') else {
            return Err("a path template starts with `/`".to_owned());
        };
        let mut head: Vec<Box<str>> = Vec::new();
        let mut piece = String::from("/");
        let mut has_rest = false;
        for (position, segment) in rest.split('/').enumerate() {
            if position > 0 {
                piece.push('/');
            }
            match segment {
                "{*}" if has_rest => return Err("`{**}` must be the last operator".to_owned()),
                "{**}" if has_rest => return Err("only one `{**}` is allowed".to_owned()),
                "{*}" | "{**}" => {
                    has_rest = segment == "{**}";
                    head.push(std::mem::take(&mut piece).into());
                }
                literal => {
                    if let Some(bad) = literal.chars().find(|c| !is_template_literal(*c)) {
                        return Err(format!("`{bad}` is not allowed in segment `{literal}` of a path template"));
                    }
                    piece.push_str(literal);
                }
            }
        }
        if has_rest {
            Ok(Self { head, tail: Some(piece.into()) })
        } else {
            head.push(piece.into());
            Ok(Self { head, tail: None })
        }
    }

    /// `PREFIX*SUFFIX`, where that says the same: no single-segment operator.
    pub(crate) fn as_prefix_suffix(&self) -> Option<(&str, &str)> {
        match (self.head.as_slice(), &self.tail) {
            ([prefix], Some(suffix)) => Some((prefix, suffix)),
            _ => None,
        }
    }

    /// The text that every matching path starts with.
    pub(crate) fn literal_prefix(&self) -> &str {
        self.head.first().map_or("", |p| p)
    }

    /// Whether a path matches. Linear in the path's length: a segment operator takes exactly up to the next slash.
    pub(crate) fn is_match(&self, path: &[u8]) -> bool {
        let mut rest = path;
        for (position, piece) in self.head.iter().enumerate() {
            if position > 0 {
                let segment = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
                if segment == 0 {
                    return false;
                }
                rest = rest.get(segment..).unwrap_or_default();
            }
            let Some(after) = rest.strip_prefix(piece.as_bytes()) else { return false };
            rest = after;
        }
        match &self.tail {
            Some(tail) => rest.ends_with(tail.as_bytes()),
            None => rest.is_empty(),
        }
    }
}

/// The literal characters of Envoy's URI templates, without the star.
fn is_template_literal(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~%!$&'()+,;:@=".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_in_istios_order() {
        assert_eq!(Form::of("*"), Form::Any);
        assert_eq!(Form::of("*x*"), Form::Suffix("x*"));
        assert_eq!(Form::of("a*b"), Form::Exact("a*b"));
        assert_eq!(Form::of("a*"), Form::Prefix("a"));
        assert!(!Form::Any.is_match(b""));
        assert!(Form::of("*x*").is_match(b"ax*"));
        assert!(!Form::of("*x*").is_match(b"axb"));
    }

    #[test]
    fn templates_match_as_documented() {
        let rows = [
            ("/allow/admin/{**}", "/allow/admin/", true),
            ("/allow/admin/{**}", "/allow/admin", false),
            ("/allow/admin/{**}", "/allow/admin/a/b", true),
            ("/foo/{*}/bar/{**}", "/foo//bar/x", false),
            ("/foo/{*}/bar/{**}", "/foo/a/bar/x/y", true),
            ("/foo/{*}/bar/{**}", "/foo/a/b/bar/x", false),
            ("/store/{**}/cart", "/store//cart", true),
            ("/store/{**}/cart", "/store/cart", false),
            ("/store/{**}/cart", "/store/a/b/cart", true),
            ("/a/{*}", "/a/b", true),
            ("/a/{*}", "/a/b/", false),
            ("/a/{*}", "/a/", false),
            ("/{*}", "/x", true),
            ("/{**}", "/", true),
            ("/anything/{**}", "/anything/*abc", true),
            ("/anything/{*}", "/anything/*abc", true),
        ];
        for (template, path, expected) in rows {
            assert_eq!(Template::parse(template).unwrap().is_match(path.as_bytes()), expected, "{template} {path}");
        }
    }

    #[test]
    fn broken_templates_are_refused() {
        for value in ["/{**}/{*}", "/{**}/{**}", "/a{*}", "/{*}b", "/{x}/{*}", "{*}", "/a*/{*}", "/a b/{*}"] {
            assert!(Template::parse(value).is_err(), "{value}");
        }
    }
}
