//! Path normalisation: once, first, so that router, policy and upstream see the same bytes (istio-semantics 1.9).

use std::borrow::Cow;

use palisade_model::settings::{EscapedSlashes, PathNormalization, ProxySettings};

/// What is done to paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathRules {
    /// RFC 3986 normalisation, and `\` read as `/`.
    pub normalizes: bool,
    /// Runs of slashes become one.
    pub merges_slashes: bool,
    /// `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
    /// `;` in a segment is refused.
    pub rejects_parameters: bool,
}

impl PathRules {
    /// The rules of a mesh-wide mode.
    pub const fn new(mode: PathNormalization, rejects_parameters: bool) -> Self {
        use PathNormalization as Mode;
        let decodes = matches!(mode, Mode::DecodeAndMergeSlashes);
        Self {
            normalizes: !matches!(mode, Mode::None),
            merges_slashes: matches!(mode, Mode::MergeSlashes | Mode::DecodeAndMergeSlashes),
            escaped_slashes: if decodes { EscapedSlashes::UnescapeAndForward } else { EscapedSlashes::Keep },
            rejects_parameters,
        }
    }

    /// The rules of a proxy: the mesh's mode, and what its connection settings say beside it.
    pub fn of(settings: &ProxySettings) -> Self {
        let mesh = Self::new(settings.path_normalization, settings.reject_path_parameters);
        let Some(own) = &settings.connections else { return mesh };
        Self {
            merges_slashes: own.merge_slashes.unwrap_or(mesh.merges_slashes),
            escaped_slashes: own.escaped_slashes.unwrap_or(mesh.escaped_slashes),
            ..mesh
        }
    }
}

/// A normalised request target: what everything after this sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// Path, starting with `/` (or `*` alone), without query and fragment.
    pub path: Cow<'a, str>,
    /// Query without `?`, untouched; `None` when there is none.
    pub query: Option<&'a [u8]>,
    /// Encoded slashes were decoded: the client is to ask for the path as it is now.
    pub is_elsewhere: bool,
}

/// Why a path is answered 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// Empty, or not starting with `/`.
    #[error("the path does not start with `/`")]
    NotAbsolute,
    /// A NUL, raw or encoded.
    #[error("the path holds a NUL")]
    Nul,
    /// Control characters or spaces.
    #[error("the path holds a control character")]
    Control,
    /// Not UTF-8, and the mode changes nothing.
    #[error("the path is not UTF-8")]
    NotUtf8,
    /// `;` in a segment, and the mesh rejects it.
    #[error("the path holds a `;` parameter")]
    Parameter,
    /// An encoded slash, and the proxy rejects it.
    #[error("the path holds an encoded slash")]
    EscapedSlash,
}

/// Normalises a request target (origin form).
///
/// # Errors
/// When the target is malformed or ambiguous: answer 400.
pub fn normalize(target: &[u8], rules: PathRules) -> Result<Target<'_>, InvalidTarget> {
    // The fragment goes in every mode: it starts at the first `#`, wherever that is.
    let target = memchr::memchr(b'#', target).and_then(|at| target.get(..at)).unwrap_or(target);
    let (path, query) = match memchr::memchr(b'?', target) {
        Some(at) => (target.get(..at).unwrap_or_default(), target.get(at + 1..)),
        None => (target, None),
    };
    if path != b"*" && path.first() != Some(&b'/') {
        return Err(InvalidTarget::NotAbsolute);
    }
    // Without a way out of the loop, so that many bytes are looked at in one step.
    if target.iter().fold(false, |is_control, byte| is_control | (*byte <= b' ') | (*byte == 0x7f)) {
        return Err(if target.contains(&0) { InvalidTarget::Nul } else { InvalidTarget::Control });
    }
    let PathRules { normalizes, merges_slashes, escaped_slashes, rejects_parameters } = rules;
    let decoded = match escaped_slashes {
        EscapedSlashes::Keep => None,
        EscapedSlashes::Reject | EscapedSlashes::UnescapeAndRedirect | EscapedSlashes::UnescapeAndForward => {
            decode_slashes(path)
        }
    };
    let is_elsewhere = decoded.is_some() && escaped_slashes == EscapedSlashes::UnescapeAndRedirect;
    if decoded.is_some() && escaped_slashes == EscapedSlashes::Reject {
        return Err(InvalidTarget::EscapedSlash);
    }
    let path = match decoded {
        Some(decoded) => Cow::Owned(resolved(&decoded, normalizes)?.into_owned()),
        None => resolved(path, normalizes)?,
    };
    let path = if merges_slashes { merge_slashes(path) } else { path };
    if rejects_parameters && path.contains(';') {
        return Err(InvalidTarget::Parameter);
    }
    Ok(Target { path, query, is_elsewhere })
}

fn resolved(path: &[u8], normalizes: bool) -> Result<Cow<'_, str>, InvalidTarget> {
    match normalizes {
        true => base(path),
        false => std::str::from_utf8(path).map(Cow::Borrowed).map_err(|_| InvalidTarget::NotUtf8),
    }
}

/// RFC 3986 normalisation as Envoy's canonicaliser does it: percent-encoded unreserved characters are decoded, `\` is
/// `/`, bytes that must be encoded are, dot segments are resolved. `%2F`, `%5C` and runs of slashes stay.
fn base(path: &[u8]) -> Result<Cow<'_, str>, InvalidTarget> {
    let bytes = recode(path)?;
    let bytes = if has_dot_segment(&bytes) { Cow::Owned(remove_dot_segments(&bytes)) } else { bytes };
    // INVARIANT: `recode` leaves ASCII only.
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| InvalidTarget::NotUtf8),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| InvalidTarget::NotUtf8),
    }
}

const fn is_plain(byte: u8) -> bool {
    // No short circuits: see `recode`.
    (byte < 0x80)
        & (byte != b'%')
        & (byte != b'\\')
        & (byte != b'"')
        & (byte != b'<')
        & (byte != b'>')
        & (byte != b'`')
        & (byte != b'{')
        & (byte != b'}')
        & (byte != b'^')
}

fn recode(path: &[u8]) -> Result<Cow<'_, [u8]>, InvalidTarget> {
    if path.iter().fold(true, |all, byte| all & is_plain(*byte)) {
        return Ok(Cow::Borrowed(path));
    }
    let mut out = Vec::with_capacity(path.len() + 8);
    let mut bare = Vec::new();
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'\\' => out.push(b'/'),
            b'%' => match (tail.first().and_then(hex), tail.get(1).and_then(hex)) {
                (Some(high), Some(low)) => {
                    let decoded = high << 4 | low;
                    if decoded == 0 {
                        return Err(InvalidTarget::Nul);
                    }
                    if is_unreserved(decoded) {
                        out.push(decoded);
                    } else {
                        out.push(b'%');
                        out.extend(tail.iter().take(2));
                    }
                    rest = tail.get(2..).unwrap_or_default();
                }
                // A `%` that begins no escape is passed on as it is, as browsers and Envoy do.
                _ => {
                    bare.push(out.len());
                    out.push(b'%');
                }
            },
            byte if is_plain(byte) => out.push(byte),
            byte => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
                out.extend([b'%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    keep_bare(&mut out, &bare);
    Ok(Cow::Owned(out))
}

/// A bare `%` that decoding has put before two digits would be an escape for the next hop, which would then read another path
/// than the one judged here: it becomes `%25`, so that normalising again changes nothing.
fn keep_bare(out: &mut Vec<u8>, bare: &[usize]) {
    for at in bare.iter().rev() {
        if out.get(at + 1).and_then(hex).is_some() && out.get(at + 2).and_then(hex).is_some() {
            out.splice(at + 1..at + 1, *b"25");
        }
    }
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn hex(byte: &u8) -> Option<u8> {
    char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn has_dot_segment(path: &[u8]) -> bool {
    memchr::memchr(b'.', path).is_some()
        && path.split(|byte| *byte == b'/').any(|segment| segment == b"." || segment == b"..")
}

/// RFC 3986 section 5.2.4. An empty segment is a segment: `/a//../b` is `/a/b`.
fn remove_dot_segments(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            b"." | b".." => {
                if segment == b".." {
                    kept.pop();
                }
                if is_last {
                    kept.push(b"");
                }
            }
            segment => kept.push(segment),
        }
    }
    let mut out = Vec::with_capacity(path.len());
    for segment in &kept {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

fn merge_slashes(path: Cow<'_, str>) -> Cow<'_, str> {
    if !path.contains("//") {
        return path;
    }
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    Cow::Owned(merged)
}

/// The path with `/` and `\` for `%2F` and `%5C`; `None` where it holds none.
fn decode_slashes(path: &[u8]) -> Option<Vec<u8>> {
    let is_escape = |at: usize| {
        let escape = path.get(at..at.saturating_add(3)).unwrap_or_default();
        escape.eq_ignore_ascii_case(b"%2f") || escape.eq_ignore_ascii_case(b"%5c")
    };
    memchr::memchr_iter(b'%', path).find(|at| is_escape(*at))?;
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        let decoded = match (byte, tail.first(), tail.get(1)) {
            (b'%', Some(b'2'), Some(b'f' | b'F')) => Some(b'/'),
            (b'%', Some(b'5'), Some(b'c' | b'C')) => Some(b'\\'),
            _ => None,
        };
        out.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None as Off};

    use super::*;

    fn path(target: &str, mode: PathNormalization) -> Result<String, InvalidTarget> {
        normalize(target.as_bytes(), PathRules::new(mode, false)).map(|t| t.path.into_owned())
    }

    /// Input, then the result under NONE, BASE, MERGE_SLASHES, DECODE_AND_MERGE_SLASHES; `!` = 400.
    #[test]
    fn every_mode_follows_istios_table() {
        for (input, results) in [
            ("/", ["/"; 4]),
            ("/app#foo", ["/app"; 4]),
            ("/app/", ["/app/"; 4]),
            ("/app/../admin", ["/app/../admin", "/admin", "/admin", "/admin"]),
            ("/app//", ["/app//", "/app//", "/app/", "/app/"]),
            ("/app/%2f", ["/app/%2f", "/app/%2f", "/app/%2f", "/app/"]),
            ("/app%2f/", ["/app%2f/", "/app%2f/", "/app%2f/", "/app/"]),
            ("/xyz%30..//abc", ["/xyz%30..//abc", "/xyz0..//abc", "/xyz0../abc", "/xyz0../abc"]),
            ("/app/%2E./admin", ["/app/%2E./admin", "/admin", "/admin", "/admin"]),
            ("/app/%2e./admin", ["/app/%2e./admin", "/admin", "/admin", "/admin"]),
            (r"/app\admin", [r"/app\admin", "/app/admin", "/app/admin", "/app/admin"]),
            (r"/app/\/\/\admin", [r"/app/\/\/\admin", "/app//////admin", "/app/admin", "/app/admin"]),
            (
                "/%2Fapp%5cadmin%5Cabc",
                ["/%2Fapp%5cadmin%5Cabc", "/%2Fapp%5cadmin%5Cabc", "/%2Fapp%5cadmin%5Cabc", "/app/admin/abc"],
            ),
            ("/%c0%2e", ["/%c0%2e", "/%c0.", "/%c0.", "/%c0."]),
            ("/%00", ["/%00", "!", "!", "!"]),
            ("/..;/admin", ["/..;/admin"; 4]),
            ("/%252e%252e/x", ["/%252e%252e/x"; 4]),
            ("/../x", ["/../x", "/x", "/x", "/x"]),
            ("/a/..", ["/a/..", "/", "/", "/"]),
            ("/a/.", ["/a/.", "/a/", "/a/", "/a/"]),
            ("/a/..%2f..%2fb", ["/a/..%2f..%2fb", "/a/..%2f..%2fb", "/a/..%2f..%2fb", "/b"]),
            ("/a//../b", ["/a//../b", "/a/b", "/a/b", "/a/b"]),
            ("/é", ["/é", "/%C3%A9", "/%C3%A9", "/%C3%A9"]),
            ("/a%zz%4", ["/a%zz%4"; 4]),
        ] {
            for (mode, expected) in [Off, Base, MergeSlashes, DecodeAndMergeSlashes].into_iter().zip(results) {
                let result = path(input, mode);
                assert_eq!(result.as_deref().unwrap_or("!"), expected, "{input} under {mode:?}");
            }
        }
    }

    #[test]
    fn the_query_is_not_touched() {
        let target = normalize(b"/a/../b?x=/../%2e#f?y", PathRules::new(Base, false)).unwrap();
        assert_eq!((&*target.path, target.query), ("/b", Some(&b"x=/../%2e"[..])));
        assert_eq!(normalize(b"/a#x?y", PathRules::new(Base, false)).unwrap().query, None);
        assert_eq!(normalize(b"/a?", PathRules::new(Base, false)).unwrap().query, Some(&b""[..]));
    }

    #[test]
    fn malformed_targets_are_refused() {
        for (target, expected) in [
            (&b""[..], InvalidTarget::NotAbsolute),
            (b"a", InvalidTarget::NotAbsolute),
            (b"?x", InvalidTarget::NotAbsolute),
            (b"/\0", InvalidTarget::Nul),
            (b"/a\nb", InvalidTarget::Control),
            (b"/a b", InvalidTarget::Control),
        ] {
            assert_eq!(normalize(target, PathRules::new(Base, false)), Err(expected));
        }
        assert_eq!(normalize(b"/\xff", PathRules::new(Off, false)), Err(InvalidTarget::NotUtf8));
        assert_eq!(&*normalize(b"/\xff", PathRules::new(Base, false)).unwrap().path, "/%FF");
        assert_eq!(normalize(b"*", PathRules::new(Base, false)).unwrap().path, "*");
    }

    #[test]
    fn parameters_are_refused_where_the_mesh_says_so() {
        assert_eq!(normalize(b"/a;x=1/b", PathRules::new(Base, true)), Err(InvalidTarget::Parameter));
        assert!(normalize(b"/a?x;y", PathRules::new(Base, true)).is_ok());
        assert!(normalize(b"/a;x", PathRules::new(Base, false)).is_ok());
    }

    #[test]
    fn a_proxys_own_settings_beat_the_meshs_mode() {
        use EscapedSlashes::{Keep, Reject, UnescapeAndForward, UnescapeAndRedirect};
        for (mode, merges_slashes, escaped_slashes, input, expected) in [
            (Base, true, UnescapeAndRedirect, "/a%2f%2Fb//c", Ok(("/a/b/c", true))),
            (Base, true, UnescapeAndRedirect, r"/a%5c..%5Cb", Ok(("/b", true))),
            (Base, true, UnescapeAndRedirect, "/a//b", Ok(("/a/b", false))),
            (Base, true, UnescapeAndRedirect, "/a%252fb", Ok(("/a%252fb", false))),
            (Base, false, UnescapeAndForward, "/a%2f/b", Ok(("/a//b", false))),
            (Off, false, UnescapeAndRedirect, "/a%2f../b", Ok(("/a/../b", true))),
            (Base, false, Reject, "/a%2Fb", Err(InvalidTarget::EscapedSlash)),
            (Base, false, Reject, "/a/b", Ok(("/a/b", false))),
            (DecodeAndMergeSlashes, false, Keep, "/a%2f//b", Ok(("/a%2f//b", false))),
        ] {
            let rules = PathRules { merges_slashes, escaped_slashes, ..PathRules::new(mode, false) };
            let target = normalize(input.as_bytes(), rules);
            let seen = target.as_ref().map(|target| (&*target.path, target.is_elsewhere)).map_err(|error| *error);
            assert_eq!(seen, expected, "{input} under {rules:?}");
        }
        // What stands in the query is not the path's.
        let rules = PathRules { escaped_slashes: Reject, ..PathRules::new(Base, false) };
        assert!(normalize(b"/a?b=%2f", rules).is_ok());
    }

    #[test]
    fn decoding_never_makes_a_new_escape() {
        for (input, expected) in [
            ("/%%361dmin", "/%2561dmin"),
            ("/%6%31dmin", "/%2561dmin"),
            ("/%%36%31dmin", "/%2561dmin"),
            ("/x/%%32e%%32e/admin", "/x/%252e%252e/admin"),
            ("/x/%2%65%2%65/admin", "/x/%252e%252e/admin"),
            ("/100%", "/100%"),
        ] {
            assert_eq!(path(input, Base).unwrap(), expected);
        }
        assert_eq!(path("/%2%66admin", DecodeAndMergeSlashes).unwrap(), "/%252fadmin");
    }

    proptest::proptest! {
        #[test]
        fn normalising_twice_is_normalising_once(
            pieces in proptest::collection::vec("[%./\\\\a2-6eEfF]|%[0-9a-fA-F]{2}|.", 0..24)
        ) {
            let input = format!("/{}", pieces.concat());
            for mode in [Base, MergeSlashes, DecodeAndMergeSlashes] {
                let Ok(once) = path(&input, mode) else { continue };
                proptest::prop_assert_eq!(path(&once, mode), Ok(once.clone()), "{} under {:?}", input, mode);
            }
        }
    }

    #[test]
    fn dot_segments_never_survive() {
        for input in ["/a/%2e%2e/b", r"/\..\x", "/%41%2f..//", "/a%zz/..", "/./../.%2e/x"] {
            for mode in [Base, MergeSlashes, DecodeAndMergeSlashes] {
                assert!(!has_dot_segment(path(input, mode).unwrap().as_bytes()), "{input} under {mode:?}");
            }
        }
    }
}
