//! Whether a text is an expression of the Common Expression Language, by its grammar alone: access log filters are checked with it.

mod tokens;

use tokens::{Kind, Token, tokens};

/// The deepest nesting that is read.
const MAX_DEPTH: usize = 100;
const MACROS_WITH_VARIABLE: [&str; 5] = ["all", "exists", "exists_one", "map", "filter"];
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Reads an expression.
///
/// # Errors
/// What is wrong with it, and at which byte.
pub(crate) fn check(text: &str) -> Result<(), String> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, next: 0, depth: 0 };
    parser.expression()?;
    match parser.peek() {
        None => Ok(()),
        Some(_) => parser.fail("an operator or the end"),
    }
}

/// What stands between brackets.
#[derive(Clone, Copy, Debug)]
enum Entry {
    /// Of a list.
    Item,
    /// Of a map.
    Pair,
    /// Of a message.
    Field,
}

struct Parser<'t, 'a> {
    tokens: &'t [Token<'a>],
    next: usize,
    depth: usize,
}

type Parsed = Result<(), String>;

impl<'a> Parser<'_, 'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.next).copied()
    }

    fn takes(&mut self, symbol: &str) -> bool {
        let is_next = self.peek().is_some_and(|token| token.kind != Kind::Literal && token.text == symbol);
        self.next += usize::from(is_next);
        is_next
    }

    fn fail(&self, expected: &str) -> Parsed {
        match self.peek() {
            Some(token) => Err(format!("`{}` at byte {}; expected {expected}", token.text, token.at)),
            None => Err(format!("the expression ends too early; expected {expected}")),
        }
    }

    fn require(&mut self, symbol: &str) -> Parsed {
        if self.takes(symbol) { Ok(()) } else { self.fail(&format!("`{symbol}`")) }
    }

    fn expression(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("the expression is nested too deeply".to_owned());
        }
        self.chain()?;
        if self.takes("?") {
            self.chain()?;
            self.require(":")?;
            self.expression()?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// Operands with binary operators between. How strongly each binds makes no difference here.
    fn chain(&mut self) -> Parsed {
        const BINARY: [&str; 14] = ["||", "&&", "<", "<=", ">=", ">", "==", "!=", "in", "*", "/", "%", "+", "-"];
        loop {
            self.unary()?;
            if !BINARY.iter().any(|operator| self.takes(operator)) {
                return Ok(());
            }
        }
    }

    /// Either exclamation marks or minus signs, not both; a number may have its own minus sign.
    fn unary(&mut self) -> Parsed {
        if self.takes("!") {
            while self.takes("!") {}
            if self.takes("-") {
                let is_number = self.peek().is_some_and(|token| token.text.starts_with(|c: char| c.is_ascii_digit()));
                return if is_number { self.member() } else { self.fail("a number") };
            }
        } else if self.takes("-") {
            while self.takes("-") {}
            if self.peek().is_some_and(|token| token.kind == Kind::Smallest) {
                self.next += 1;
                return Ok(());
            }
        }
        self.member()
    }

    fn member(&mut self) -> Parsed {
        // A message begins with its type: names with dots between.
        let mut may_be_type = self.primary()?;
        loop {
            if self.takes(".") {
                let name = self.name()?;
                if self.takes("(") {
                    self.call(name, true)?;
                    may_be_type = false;
                }
            } else if self.takes("[") {
                self.expression()?;
                self.require("]")?;
                may_be_type = false;
            } else if may_be_type && self.takes("{") {
                self.entries("}", Entry::Field)?;
                may_be_type = false;
            } else {
                return Ok(());
            }
        }
    }

    fn name(&mut self) -> Result<&'a str, String> {
        match self.peek() {
            Some(Token { kind: Kind::Name, text, .. }) if text != "in" => {
                self.next += 1;
                Ok(text)
            }
            _ => self.fail("a name").map(|()| ""),
        }
    }

    /// Whether it is a name by itself.
    fn primary(&mut self) -> Result<bool, String> {
        if self.takes("(") {
            self.expression()?;
            return self.require(")").map(|()| false);
        }
        if self.takes("[") {
            return self.entries("]", Entry::Item).map(|()| false);
        }
        if self.takes("{") {
            return self.entries("}", Entry::Pair).map(|()| false);
        }
        if self.peek().is_some_and(|token| token.kind == Kind::Literal) {
            self.next += 1;
            return Ok(false);
        }
        let is_rooted = self.takes(".");
        let name = self.name()?;
        if self.takes("(") {
            return self.call(if is_rooted { "" } else { name }, false).map(|()| false);
        }
        if RESERVED.contains(&name) { Err(format!("`{name}` is a reserved word")) } else { Ok(true) }
    }

    /// Arguments up to the closing parenthesis.
    fn call(&mut self, name: &str, is_method: bool) -> Parsed {
        let first = self.next;
        let mut count = 0;
        if !self.takes(")") {
            loop {
                self.expression()?;
                count += 1;
                if !self.takes(",") {
                    break;
                }
            }
            self.require(")")?;
        }
        let argument = |at: usize| self.tokens.get(at).copied();
        let is_macro =
            is_method && MACROS_WITH_VARIABLE.contains(&name) && (count == 2 || (count == 3 && name == "map"));
        let is_variable = argument(first).is_some_and(|token| token.kind == Kind::Name)
            && argument(first + 1).is_some_and(|token| token.text == ",");
        if is_macro && !is_variable {
            return Err(format!("the first argument of `{name}` must be a name"));
        }
        let last_field = self.next.checked_sub(3).and_then(argument);
        if !is_method && name == "has" && count == 1 && last_field.is_none_or(|token| token.text != ".") {
            return Err("the argument of `has` must be a field".to_owned());
        }
        Ok(())
    }

    /// Entries up to the closing bracket; a last comma may be left over.
    fn entries(&mut self, end: &str, entry: Entry) -> Parsed {
        loop {
            if self.takes(end) {
                return Ok(());
            }
            match entry {
                Entry::Field => {
                    self.name()?;
                }
                Entry::Item | Entry::Pair => self.expression()?,
            }
            if matches!(entry, Entry::Pair | Entry::Field) {
                self.require(":")?;
                self.expression()?;
            }
            if !self.takes(",") {
                return self.require(end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn expressions_are_told_from_other_texts() {
        let fine = [
            "response.code >= 400",
            "response.code >= 400 && (connection.mtls || request.url_path.contains('v1beta3'))",
            "has(request.headers) ? !has(a.b) : -1",
            "a[0].b['c'].d(1, 2u)",
            "x in [1, 2.5, 'a', b\"c\", r'\\d', null,]",
            "{'a': 1}.a == type.Name{field: 1}.field",
            "list.all(x, x > 0)",
            "!!a || --b == 1e3",
            "!-5",
            "a > -9223372036854775808",
            ".has(a)",
            ".a.b",
            "'''a\nb''' // note",
            "0x1F + 18446744073709551615u",
        ];
        for text in fine {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        let broken = [
            "",
            " ",
            ")++++",
            "a b",
            "a ==",
            "a = b",
            "a.",
            "a..b",
            "(a",
            "[a",
            "{a}",
            "a ? b",
            "'a",
            "'\\y'",
            "'a\nb'",
            "18446744073709551616",
            "9223372036854775808",
            "a -9223372036854775808",
            "T{1: 1}",
            "1 {'a': 1}",
            "if",
            "has(a)",
            "a.all(1, x)",
            "a @ b",
            "!-a",
            "in",
            "response.code >== 400",
        ];
        for text in broken {
            assert!(check(text).is_err(), "{text}");
        }
        assert!(check(&"(".repeat(10_000)).is_err());
        assert!(check(&format!("{}a", "!".repeat(10_000))).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in r#"[a-c.0-9xu'"\\()\[\]{}?:,!&|<=> +*/-]{0,40}"#) {
            let _ = check(&text);
        }
    }
}
