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
    let translated = Translator { rest: expression, out: String::with_capacity(expression.len()) }.run()?;
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
}

impl Translator<'_> {
    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next();
        self.rest = chars.as_str();
        c
    }

    fn run(mut self) -> Result<String, InvalidRegex> {
        while let Some(c) = self.next() {
            match c {
                '\\' => self.escape(false)?,
                '[' => self.class()?,
                '{' => self.brace()?,
                '(' => self.group()?,
                c => self.out.push(c),
            }
        }
        Ok(self.out)
    }

    /// `{m}`, `{m,}` and `{m,n}` repeat; any other brace is itself.
    fn brace(&mut self) -> Result<(), InvalidRegex> {
        let repetition = self.rest.split_once('}').map(|(inner, _)| inner).filter(|inner| is_repetition(inner));
        let Some(inner) = repetition else {
            self.out.push_str("\\{");
            return Ok(());
        };
        if inner
            .split(',')
            .filter(|count| !count.is_empty())
            .any(|count| count.parse::<u32>().map_or(true, |count| count > MAX_REPEAT))
        {
            return Err(InvalidRegex::RepeatsTooOften);
        }
        let length = inner.len() + 1;
        self.out.push('{');
        self.out.push_str(self.rest.get(..length).unwrap_or_default());
        self.rest = self.rest.get(length..).unwrap_or_default();
        Ok(())
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
            'a' | 'f' | 't' | 'n' | 'r' | 'v' | 'p' | 'P' => {
                self.out.push('\\');
                self.out.push(c);
            }
            'x' => self.out.push_str("\\x"),
            '0'..='7' => self.octal(c)?,
            c if c.is_ascii_punctuation() => {
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
