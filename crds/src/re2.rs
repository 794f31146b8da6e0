//! Regular expressions as documents write them (RE2), turned into the syntax of the `regex` crate with the same meaning.
//!
//! The two differ: RE2's classes `\d \w \s \b` are ASCII, a brace that is no repetition is itself, `[` inside a class is itself, `\Q…\E` quotes.

use regex::Regex;

/// The longest expression that Istio accepts, in bytes.
pub const MAX_LENGTH: usize = 1024;
/// The largest count in `{m,n}` that RE2 accepts.
const MAX_REPEAT: u32 = 1000;

const ASCII_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

/// Why a text is no RE2 expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRegex {
    /// Longer than [`MAX_LENGTH`].
    #[error("the expression is longer than {MAX_LENGTH} characters")]
    TooLong,
    /// A repetition of a repetition, as in `a**`.
    #[error("a repetition cannot be repeated")]
    RepeatsRepetition,
    /// A repetition above RE2's limit.
    #[error("a repetition counts more than {MAX_REPEAT}")]
    RepeatsTooOften,
    /// Not an expression at all.
    #[error("not a regular expression: {0}")]
    Syntax(String),
}

/// The same expression for the `regex` crate. It matches anywhere; users that need a full match put it between `^(?:` and `)$`.
///
/// # Errors
/// [`InvalidRegex`] where RE2 refuses the expression.
pub fn translate(expression: &str) -> Result<String, InvalidRegex> {
    if expression.len() > MAX_LENGTH {
        return Err(InvalidRegex::TooLong);
    }
    let translated =
        Translator { rest: expression, out: String::with_capacity(expression.len()), last: 1, groups: vec![1] }
            .run()?;
    match Regex::new(&translated) {
        Ok(_) => Ok(translated),
        Err(error) => Err(InvalidRegex::Syntax(reason(&error))),
    }
}

/// The error's own text draws the expression over several lines; the last one says what is wrong.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().next_back().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

struct Translator<'a> {
    rest: &'a str,
    out: String,
    /// How often what is repeated repeats something itself: of the last item, and of each group that is open.
    last: u32,
    groups: Vec<u32>,
}

impl Translator<'_> {
    /// Notes a repetition inside the innermost open group.
    fn within(&mut self, times: u32) {
        if let Some(group) = self.groups.last_mut() {
            *group = times.max(*group);
        }
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next();
        self.rest = chars.as_str();
        c
    }

    fn run(mut self) -> Result<String, InvalidRegex> {
        // The crate takes `a**` for `(?:a*)*`; to RE2 it is a mistake.
        let mut is_repeated = false;
        while let Some(c) = self.next() {
            let was_repeated = std::mem::take(&mut is_repeated);
            if !matches!(c, '{' | '*' | '+' | '?') {
                self.last = 1;
            }
            match c {
                '\\' => self.escape(false)?,
                '[' => self.class()?,
                '(' => {
                    self.groups.push(1);
                    self.group()?;
                }
                ')' => {
                    self.last = self.groups.pop().unwrap_or(1);
                    self.within(self.last);
                    self.out.push(c);
                }
                '{' => is_repeated = self.brace()?,
                '*' | '+' | '?' => {
                    self.out.push(c);
                    is_repeated = true;
                }
                c => self.out.push(c),
            }
            if is_repeated && was_repeated {
                return Err(InvalidRegex::RepeatsRepetition);
            }
            if is_repeated && self.rest.starts_with('?') {
                self.next();
                self.out.push('?');
            }
        }
        Ok(self.out)
    }

    /// `{m}`, `{m,}` and `{m,n}` repeat, as the answer says; any other brace is itself.
    fn brace(&mut self) -> Result<bool, InvalidRegex> {
        let repetition = self.rest.split_once('}').map(|(inner, _)| inner).filter(|inner| is_repetition(inner));
        let Some(inner) = repetition else {
            self.out.push_str("\\{");
            self.last = 1;
            return Ok(false);
        };
        for count in inner.split(',').filter(|count| !count.is_empty()) {
            let count = count.parse::<u32>().unwrap_or(u32::MAX);
            // Nested repetitions multiply.
            if count > MAX_REPEAT || count.saturating_mul(self.last) > MAX_REPEAT {
                return Err(InvalidRegex::RepeatsTooOften);
            }
        }
        let largest = inner.split(',').filter_map(|count| count.parse::<u32>().ok()).max().unwrap_or(1);
        self.last = self.last.saturating_mul(largest.max(1));
        self.within(self.last);
        let length = inner.len() + 1;
        self.out.push('{');
        self.out.push_str(self.rest.get(..length).unwrap_or_default());
        self.rest = self.rest.get(length..).unwrap_or_default();
        Ok(true)
    }

    /// RE2 knows the flags i, m, s and U; the other one of the crate, x, would make spaces vanish.
    fn group(&mut self) -> Result<(), InvalidRegex> {
        self.out.push('(');
        let Some(after) = self.rest.strip_prefix('?') else { return Ok(()) };
        if after.starts_with(['P', '<', ':']) {
            return Ok(());
        }
        let flags = after.split([':', ')']).next().unwrap_or_default();
        if flags.is_empty() || !flags.chars().all(|flag| matches!(flag, 'i' | 'm' | 's' | 'U' | '-')) {
            return Err(InvalidRegex::Syntax(format!("unknown group `(?{flags}`")));
        }
        Ok(())
    }

    fn escape(&mut self, in_class: bool) -> Result<(), InvalidRegex> {
        let Some(c) = self.next() else { return Err(InvalidRegex::Syntax("a backslash at the end".to_owned())) };
        let ascii = match c {
            'd' => "0-9",
            'w' => "0-9A-Za-z_",
            's' => r"\t\n\x0C\r ",
            'D' => "^0-9",
            'W' => "^0-9A-Za-z_",
            'S' => r"^\t\n\x0C\r ",
            _ => "",
        };
        match c {
            'd' | 'w' | 's' if in_class => self.out.push_str(ascii),
            'd' | 'w' | 's' | 'D' | 'W' | 'S' => {
                self.out.push('[');
                self.out.push_str(ascii);
                self.out.push(']');
            }
            'b' if !in_class => self.out.push_str("(?-u:\\b)"),
            // The ASCII form could split a character, which the crate refuses on text; the Unicode form differs beyond ASCII only.
            'B' if !in_class => self.out.push_str("\\B"),
            'Q' if !in_class => {
                let (quoted, rest) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
                self.out.push_str(&regex::escape(quoted));
                self.rest = rest;
            }
            'A' | 'z' if !in_class => {
                self.out.push('\\');
                self.out.push(c);
            }
            'a' | 'f' | 't' | 'n' | 'r' | 'v' => {
                self.out.push('\\');
                self.out.push(c);
            }
            'p' | 'P' | 'x' => {
                self.out.push('\\');
                self.out.push(c);
                // A name or number in braces is part of the escape.
                if let Some((inner, rest)) = self.rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
                    self.out.push('{');
                    self.out.push_str(inner);
                    self.out.push('}');
                    self.rest = rest;
                }
            }
            '0'..='7' => self.octal(c)?,
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => {
                if r"\.+*?()|[]{}^$#&-~".contains(c) {
                    self.out.push('\\');
                }
                self.out.push(c);
            }
            c => return Err(InvalidRegex::Syntax(format!("unknown escape `\\{c}`"))),
        }
        Ok(())
    }

    /// `\0`, `\012`, `\123`; a single digit but 0 would be a back reference, which RE2 does not have.
    fn octal(&mut self, first: char) -> Result<(), InvalidRegex> {
        let digits: String =
            std::iter::once(first).chain(self.rest.chars().take_while(|c| ('0'..='7').contains(c)).take(2)).collect();
        if first != '0' && digits.len() == 1 {
            return Err(InvalidRegex::Syntax(format!("unknown escape `\\{first}`")));
        }
        self.rest = self.rest.get(digits.len() - 1..).unwrap_or_default();
        let code = u32::from_str_radix(&digits, 8).map_err(|error| InvalidRegex::Syntax(error.to_string()))?;
        self.out.push_str(&format!("\\x{{{code:x}}}"));
        Ok(())
    }

    fn class(&mut self) -> Result<(), InvalidRegex> {
        self.out.push('[');
        if self.rest.starts_with('^') {
            self.next();
            self.out.push('^');
        }
        let mut is_first = true;
        loop {
            let Some(c) = self.next() else { return Err(InvalidRegex::Syntax("a class without end".to_owned())) };
            match c {
                ']' if !is_first => {
                    self.out.push(']');
                    return Ok(());
                }
                ']' => self.out.push_str("\\]"),
                '[' if self.rest.starts_with(':') && self.rest.contains(":]") => {
                    let (name, rest) = self.rest.split_once(":]").unwrap_or((self.rest, ""));
                    let class = name.strip_prefix(':').unwrap_or(name);
                    if !ASCII_CLASSES.contains(&class.strip_prefix('^').unwrap_or(class)) {
                        return Err(InvalidRegex::Syntax(format!("unknown class `[:{class}:]`")));
                    }
                    self.out.push('[');
                    self.out.push_str(name);
                    self.out.push_str(":]");
                    self.rest = rest;
                }
                // Nested classes and set operations are the crate's own; RE2 takes the characters as they are.
                '[' | '&' | '~' => {
                    self.out.push('\\');
                    self.out.push(c);
                }
                '-' if is_first || self.rest.starts_with(']') => self.out.push_str("\\-"),
                '\\' => self.escape(true)?,
                c => self.out.push(c),
            }
            is_first = false;
        }
    }
}

fn is_repetition(inner: &str) -> bool {
    let is_count = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match inner.split_once(',') {
        Some((least, most)) => is_count(least) && (most.is_empty() || is_count(most)),
        None => is_count(inner),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(expression: &str, text: &str) -> bool {
        Regex::new(&format!("^(?:{})$", translate(expression).unwrap())).unwrap().is_match(text)
    }

    #[test]
    fn meaning_is_that_of_re2() {
        let rows = [
            ("/items/{id}", "/items/{id}", true),
            ("a{2}", "aa", true),
            ("a{,2}", "a{,2}", true),
            (r"\d+", "12", true),
            (r"\d+", "١٢", false),
            (r"[\d.]+", "1.2", true),
            (r"[\D]+", "ab", true),
            (r"\w", "é", false),
            ("[[a]", "[", true),
            ("[[:alpha:]]+", "ab", true),
            ("[a&&b]", "&", true),
            ("[]a]", "]", true),
            ("[^-a]", "b", true),
            ("[a-]", "-", true),
            (r"\Qa.b\E.", "a.bc", true),
            (r"\Qa.b\E", "axb", false),
            ("(?i)ABC", "abc", true),
            ("a b#c", "a b#c", true),
            (r"^(.*?;)?(user=jason)(;.*)?$", "x=1;user=jason", true),
            (r"\/v1\/.*", "/v1/x", true),
            (r"\bfoo\b", "foo", true),
            (r"\x41\101", "AA", true),
            (r"\x{41}+", "AA", true),
            (r"\p{Greek}+", "αβ", true),
            (r"\p{Greek}", "a", false),
            (r"a\ b", "a b", true),
            ("a+?b{2}?", "aabb", true),
            ("(a{10}){100}b|.*", "x", true),
        ];
        for (expression, text, expected) in rows {
            assert_eq!(matches(expression, text), expected, "{expression} on {text}");
        }
    }

    #[test]
    fn what_re2_refuses_is_refused() {
        for expression in [
            "(",
            "a)",
            "*a",
            "[a",
            r"a\",
            r"\1",
            "(?=a)",
            "(?<!a)",
            "(?x)a b",
            "a{1001}",
            "(a{100}){11}",
            "((a{10}){10}b){11}",
            "a**",
            "a+{2}",
            "a???",
            r"\p{Nowhere}",
            "(?P<n",
            r"\y",
            "[b-a]",
            "[[:nope:]]",
        ] {
            assert!(translate(expression).is_err(), "{expression}");
        }
        assert_eq!(translate(&"a".repeat(1025)), Err(InvalidRegex::TooLong));
    }

    proptest! {
        #[test]
        fn any_text_is_translated_or_refused(text in r"[\[\]\\(){}?*+|^$.&~#a0-9:PQEdDwxb,<> -]{0,40}") {
            if let Ok(translated) = translate(&text) {
                let _ = Regex::new(&translated);
            }
        }
    }
}
