//! The constraints that CRD schemas put on single values.

use serde_json::Value;

use super::Cursor;
use super::cursor::shorten;
use crate::codes::Code;
use crate::duration::Duration;

/// A constraint on a written value. Defaults are not checked.
pub(crate) enum Check {
    /// Characters of a text, at least and at most.
    Length(usize, usize),
    /// Items of a list, at least and at most.
    Items(usize, usize),
    /// Entries of a map, at least and at most.
    Entries(usize, usize),
    /// A number, at least and at most.
    Range(i64, i64),
    /// A number with a fraction, at least and at most.
    RangeF(f64, f64),
    /// A text of a form; the words say which. The CRDs made here leave it to the webhook.
    Format(&'static str, fn(&str) -> bool),
    /// A text of a form, and the same as the pattern of a CRD.
    Pattern(&'static str, fn(&str) -> bool, &'static str),
    /// A text of a form, and the same as a CRD's rule about `self`.
    Rule(&'static str, fn(&str) -> bool, &'static str),
    /// A Go duration of at least one millisecond, the rule that Istio's CRDs put on most durations.
    Positive,
    /// A duration as the Gateway API writes it.
    GatewayDuration,
    /// Each item of a list, or each value of a map.
    Each(&'static [Check]),
    /// Each key of a map, and the same as a CRD's rule about `key`.
    EachKey(&'static str, fn(&str) -> bool, &'static str),
    /// No two items of a list are equal in these fields; without fields, no two items are equal.
    Unique(&'static [&'static str]),
}

impl Check {
    pub(crate) fn run(&self, value: &Value, cursor: &mut Cursor<'_>) {
        match (self, value) {
            (Self::Length(least, most), Value::String(text)) => {
                bounds(text.chars().count(), *least, *most, "characters", cursor)
            }
            (Self::Items(least, most), Value::Array(items)) => bounds(items.len(), *least, *most, "items", cursor),
            (Self::Entries(least, most), Value::Object(fields)) => {
                let written = fields.values().filter(|value| !value.is_null()).count();
                bounds(written, *least, *most, "entries", cursor)
            }
            (Self::Range(least, most), Value::Number(number)) => {
                let whole = number.as_i64();
                if whole.is_none_or(|whole| whole < *least || whole > *most) {
                    cursor.report(Code::OutOfRange, format!("`{number}` is outside {least}..={most}"));
                }
            }
            (Self::RangeF(least, most), Value::Number(number))
                if number.as_f64().is_none_or(|number| number < *least || number > *most) =>
            {
                cursor.report(Code::OutOfRange, format!("`{number}` is outside {least}..={most}"));
            }
            (
                Self::Format(form, matches) | Self::Pattern(form, matches, _) | Self::Rule(form, matches, _),
                Value::String(text),
            ) if !matches(text) => {
                cursor.report(Code::InvalidFormat, format!("`{}` is not {form}", shorten(text)));
            }
            (Self::Positive, Value::String(text))
                if Duration::parse(text).is_ok_and(|duration| duration < Duration::from_millis(1)) =>
            {
                cursor.report(Code::OutOfRange, format!("`{text}` is shorter than 1ms"));
            }
            (Self::GatewayDuration, Value::String(text)) => {
                if let Err(error) = Duration::parse_gateway_api(text) {
                    cursor.report(Code::InvalidFormat, error.to_string());
                }
            }
            (Self::Each(checks), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    cursor.within(index, |cursor| checks.iter().for_each(|check| check.run(item, cursor)));
                }
            }
            (Self::Each(checks), Value::Object(fields)) => {
                for (key, item) in fields {
                    cursor.within(key.as_str(), |cursor| checks.iter().for_each(|check| check.run(item, cursor)));
                }
            }
            (Self::EachKey(form, matches, _), Value::Object(fields)) => {
                for key in fields.keys().filter(|key| !matches(key)) {
                    cursor.report(Code::InvalidFormat, format!("key `{}` is not {form}", shorten(key)));
                }
            }
            (Self::Unique(keys), Value::Array(items)) => unique(keys, items, cursor),
            // Within bounds, or of another type, which was reported by whoever read the value.
            _ => {}
        }
    }
}

fn bounds(count: usize, least: usize, most: usize, unit: &str, cursor: &mut Cursor<'_>) {
    if count < least {
        cursor.report(Code::OutOfRange, format!("{count} {unit}; at least {least} are required"));
    } else if count > most {
        cursor.report(Code::OutOfRange, format!("{count} {unit}; at most {most} are allowed"));
    }
}

fn unique(keys: &[&str], items: &[Value], cursor: &mut Cursor<'_>) {
    let mut seen = std::collections::BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let identity = if keys.is_empty() {
            item.to_string()
        } else {
            keys.iter()
                .map(|key| item.get(key).map(Value::to_string).unwrap_or_default())
                .collect::<Vec<_>>()
                .join("\u{0}")
        };
        if !seen.insert(identity) {
            cursor.report_at(
                index,
                Code::DuplicateItem,
                if keys.is_empty() {
                    "listed twice".to_owned()
                } else {
                    format!("the same `{}` is listed twice", keys.join("`, `"))
                },
            );
        }
    }
}

/// Any length up to the given one.
pub(crate) const fn up_to(most: usize) -> Check {
    Check::Length(0, most)
}

/// RFC 1123 label: lower-case letters, digits and dashes, starting and ending with a letter or digit. No length limit.
pub(crate) fn is_label_chars(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_end = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    is_end(bytes.first())
        && is_end(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

/// An RFC 1123 label of at most 63 characters.
pub(crate) fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_label_chars(text)
}

/// Labels with dots between.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    text.split('.').all(is_label_chars)
}

/// A host name, perhaps with `*.` in front.
pub(crate) fn is_hostname(text: &str) -> bool {
    is_dns_subdomain(text.strip_prefix("*.").unwrap_or(text))
}

/// An API group; the core group is empty.
pub(crate) fn is_group(text: &str) -> bool {
    text.is_empty() || is_dns_subdomain(text)
}

/// A kind: letters, digits and dashes, a letter first, no dash last.
pub(crate) fn is_kind(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// An HTTP token (RFC 9110).
pub(crate) fn is_http_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A header value: visible characters, single spaces or tabs between them.
pub(crate) fn is_header_value(text: &str) -> bool {
    text.split([' ', '\t']).all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic()))
}

/// `domain/path`, as controllers name themselves.
pub(crate) fn is_domain_prefixed_path(text: &str) -> bool {
    text.split_once('/').is_some_and(|(domain, path)| {
        is_dns_subdomain(domain)
            && !path.is_empty()
            && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte))
    })
}

/// Characters of a URI path, percent escapes complete.
pub(crate) fn is_uri_path(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut index = 0;
    while let Some(byte) = bytes.get(index) {
        if *byte == b'%' {
            if !bytes.get(index + 1..index + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) {
                return false;
            }
            index += 3;
        } else if byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(byte) {
            index += 1;
        } else {
            return false;
        }
    }
    !bytes.is_empty()
}

/// A header name without the rarer characters.
pub(crate) fn is_plain_header(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// A URI with a scheme and an authority, as loosely as the Gateway API's pattern has it.
pub(crate) fn is_uri(text: &str) -> bool {
    text.find([':', '/', '?', '#'])
        .is_some_and(|end| end > 0 && text.get(end..).is_some_and(|rest| rest.starts_with("://")))
}

/// A label or annotation key: an optional domain and a name of at most 63 characters.
pub(crate) fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(|prefix| prefix.len() <= 253 && is_dns_subdomain(prefix))
        && is_name_part(name)
        && !name.is_empty()
}

/// A label value: empty, or at most 63 characters of letters, digits, `-`, `_`, `.`, letters or digits at both ends.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_name_part(text)
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// A port name of a WorkloadEntry: letters, digits and dashes, fewer than 63 characters.
pub(crate) fn is_port_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() < 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// What a Gateway listener's protocol looks like: a word, or `domain/word`.
pub(crate) fn is_protocol(text: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match text.rsplit_once('/') {
        // The CRD's pattern anchors the domain at its end alone.
        Some((domain, word)) => {
            domain.bytes().last().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
                && is_word(word)
        }
        None => {
            let bytes = text.as_bytes();
            bytes.first().is_some_and(u8::is_ascii_alphanumeric)
                && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
                && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        }
    }
}

/// What a Gateway address' type looks like. The CRD's pattern anchors only its first and last alternative.
pub(crate) fn is_address_type(text: &str) -> bool {
    text.starts_with("Hostname") || text.contains("IPAddress") || text.contains("NamedAddress") || {
        // The last alternative may begin anywhere, so the domain is the longest suffix before the slash that is one.
        text.match_indices('/').any(|(slash, _)| {
            let (before, path) = (text.get(..slash).unwrap_or_default(), text.get(slash + 1..).unwrap_or_default());
            before.bytes().last().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
                && !path.is_empty()
                && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte))
        })
    }
}

/// [`is_annotation_key`] as a rule.
pub(crate) const ANNOTATION_KEY_RULE: &str = "key.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$') && key.split('/')[0].size() < 253";

/// The looser key form of the Gateway API's infrastructure labels.
pub(crate) fn is_annotation_key(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(|prefix| prefix.len() < 253 && is_dns_subdomain(prefix)) && is_name_part(name)
}

/// `*`, or `http://` or `https://` with a host, perhaps `*.` in front or `*` alone, perhaps a port.
pub(crate) fn is_cors_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else { return false };
    let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
    let is_host = |host: &str| {
        host.split('.')
            .all(|label| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))
    };
    (host == "*" || is_host(host.strip_prefix("*.").unwrap_or(host)))
        && port.is_none_or(|port| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()))
}
