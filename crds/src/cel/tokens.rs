//! The words of an expression.

const OPERATORS: [&str; 22] = [
    "||", "&&", "<=", ">=", "==", "!=", "<", ">", "!", "-", "+", "*", "/", "%", "?", ":", ".", ",", "(", ")", "[", "]",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Name,
    Literal,
    /// The digits of the smallest integer, which count only behind a minus sign.
    Smallest,
    Symbol,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    /// Where it begins, in bytes.
    pub(super) at: usize,
}

pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let first = rest.chars().next().unwrap_or_default();
        let skipped = match first {
            ' ' | '\t' | '\r' | '\n' | '\x0c' => 1,
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ => 0,
        };
        if skipped > 0 {
            at += skipped;
            continue;
        }
        let (kind, length) = token(rest).map_err(|problem| format!("{problem} at byte {at}"))?;
        let text = rest.get(..length).unwrap_or_default();
        let kind = if matches!(text, "9223372036854775808" | "0x8000000000000000") { Kind::Smallest } else { kind };
        tokens.push(Token { kind, text, at });
        at += length;
    }
    Ok(tokens)
}

/// Kind and length of the token that a text begins with.
fn token(text: &str) -> Result<(Kind, usize), &'static str> {
    let bytes = text.as_bytes();
    let prefix = bytes.iter().take_while(|byte| b"rRbB".contains(byte)).count();
    if prefix <= 2 && bytes.get(prefix).is_some_and(|quote| b"'\"".contains(quote)) {
        let is_raw = bytes.iter().take(prefix).any(|byte| byte.eq_ignore_ascii_case(&b'r'));
        return string(text, prefix, is_raw).map(|length| (Kind::Literal, length));
    }
    let first = bytes.first().copied().unwrap_or_default();
    if first.is_ascii_alphabetic() || first == b'_' {
        let length = bytes.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
        let is_literal = matches!(text.get(..length), Some("true" | "false" | "null"));
        return Ok((if is_literal { Kind::Literal } else { Kind::Name }, length));
    }
    let is_fraction = first == b'.' && bytes.get(1).is_some_and(u8::is_ascii_digit);
    if first.is_ascii_digit() || is_fraction {
        return number(text).map(|length| (Kind::Literal, length));
    }
    let symbols = OPERATORS.iter().chain(&["{", "}"]);
    let found = symbols.filter(|symbol| text.starts_with(**symbol)).map(|symbol| symbol.len()).max();
    found.map(|length| (Kind::Symbol, length)).ok_or("an unknown character")
}

/// Length of a quoted text; three quotes may span lines.
fn string(text: &str, prefix: usize, is_raw: bool) -> Result<usize, &'static str> {
    let body = text.get(prefix..).unwrap_or_default();
    let quote = body.get(..1).unwrap_or_default();
    let is_long = body.starts_with(&quote.repeat(3));
    let end = if is_long { quote.repeat(3) } else { quote.to_owned() };
    let mut at = end.len();
    while let Some(rest) = body.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(&end) {
            return Ok(prefix + at + end.len());
        }
        let c = rest.chars().next().unwrap_or_default();
        at += match c {
            '\n' | '\r' if !is_long => return Err("a text that does not end on its line"),
            '\\' if !is_raw => escape(rest)?,
            c => c.len_utf8(),
        };
    }
    Err("a text without end")
}

fn escape(text: &str) -> Result<usize, &'static str> {
    let digits = |from: usize, count: usize, radix: u32| {
        let digits = text.get(from..from + count).filter(|digits| digits.chars().all(|c| c.is_digit(radix)));
        digits.and_then(|digits| u32::from_str_radix(digits, radix).ok())
    };
    let length = match text.chars().nth(1) {
        Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`') => Some(2),
        Some('x' | 'X') => digits(2, 2, 16).map(|_| 4),
        Some('u') => digits(2, 4, 16).and_then(char::from_u32).map(|_| 6),
        Some('U') => digits(2, 8, 16).and_then(char::from_u32).map(|_| 10),
        Some('0'..='3') => digits(1, 3, 8).map(|_| 4),
        _ => None,
    };
    length.ok_or("an unknown escape")
}

fn number(text: &str) -> Result<usize, &'static str> {
    let count = |from: usize, radix: u32| {
        text.get(from..).unwrap_or_default().chars().take_while(|c| c.is_digit(radix)).count()
    };
    if text.starts_with("0x") && count(2, 16) > 0 {
        let end = 2 + count(2, 16);
        let is_unsigned = text.get(end..).is_some_and(|rest| rest.starts_with(['u', 'U']));
        let value = u64::from_str_radix(text.get(2..end).unwrap_or_default(), 16);
        return whole(value.ok(), is_unsigned).map(|()| end + usize::from(is_unsigned));
    }
    let mut end = count(0, 10);
    let mut is_whole = true;
    if text.get(end..).is_some_and(|rest| rest.starts_with('.')) && count(end + 1, 10) > 0 {
        end += 1 + count(end + 1, 10);
        is_whole = false;
    }
    if text.get(end..).is_some_and(|rest| rest.starts_with(['e', 'E'])) {
        let sign = usize::from(text.get(end + 1..).is_some_and(|rest| rest.starts_with(['+', '-'])));
        let digits = count(end + 1 + sign, 10);
        if digits > 0 {
            end += 1 + sign + digits;
            is_whole = false;
        }
    }
    if !is_whole {
        return Ok(end);
    }
    let is_unsigned = text.get(end..).is_some_and(|rest| rest.starts_with(['u', 'U']));
    whole(text.get(..end).and_then(|digits| digits.parse().ok()), is_unsigned)?;
    Ok(end + usize::from(is_unsigned))
}

fn whole(value: Option<u64>, is_unsigned: bool) -> Result<(), &'static str> {
    // One more than the largest is the smallest behind a minus sign.
    let most = if is_unsigned { u64::MAX } else { 1 << 63 };
    value.filter(|value| *value <= most).map(|_| ()).ok_or("a number that is too large")
}
