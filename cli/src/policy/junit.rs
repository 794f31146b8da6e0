//! Results of policy tests as JUnit XML, as continuous integration reads them.

use std::{collections::BTreeMap, fmt::Write};

use super::test::Outcome;

/// The whole document: one suite a PolicyTest.
pub(super) fn render(outcomes: &[Outcome], seconds: f64) -> String {
    let mut suites: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        suites.entry(&outcome.suite).or_default().push(outcome);
    }
    let count = |of: &[&Outcome]| {
        let errors = of.iter().filter(|outcome| outcome.error.is_some()).count();
        let failures = of.iter().filter(|outcome| outcome.error.is_none() && !outcome.is_passed()).count();
        format!("tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\"", of.len())
    };
    let all: Vec<&Outcome> = outcomes.iter().collect();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing into a String cannot fail.
    let _ = writeln!(xml, "<testsuites name=\"palisade policy test\" {} time=\"{seconds:.6}\">", count(&all));
    for (suite, outcomes) in &suites {
        let time: f64 = outcomes.iter().map(|outcome| outcome.seconds).sum();
        let _ = writeln!(xml, "  <testsuite name=\"{}\" {} time=\"{time:.6}\">", escape(suite), count(outcomes));
        for outcome in outcomes {
            let (name, suite, seconds) = (escape(&outcome.name), escape(suite), outcome.seconds);
            let _ = write!(xml, "    <testcase name=\"{name}\" classname=\"{suite}\" time=\"{seconds:.6}\"");
            let inside = match &outcome.error {
                Some(error) => format!("<error message=\"{}\"/>", escape(error)),
                None if outcome.is_passed() => String::new(),
                None => format!("<failure message=\"{}\"/>", escape(&outcome.differences.join("; "))),
            };
            let _ = match inside.is_empty() {
                true => writeln!(xml, "/>"),
                false => writeln!(xml, ">{inside}</testcase>"),
            };
        }
        let _ = writeln!(xml, "  </testsuite>");
    }
    xml += "</testsuites>\n";
    xml
}

/// A text inside an attribute; characters that XML 1.0 cannot carry become U+FFFD.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\n' | '\t' | '\r' => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_their_attributes() {
        let outcome = |name: &str, differences: &[&str], error: Option<&str>| Outcome {
            suite: "a/b".to_owned(),
            name: name.to_owned(),
            differences: differences.iter().map(|d| (*d).to_owned()).collect(),
            error: error.map(str::to_owned),
            seconds: 0.0,
        };
        let xml =
            render(&[outcome("<x>\"&\u{1}", &[], None), outcome("b", &["c"], None), outcome("d", &[], Some("e"))], 1.0);
        assert!(xml.contains("name=\"&lt;x&gt;&quot;&amp;\u{fffd}\""), "{xml}");
        assert!(xml.contains("tests=\"3\" failures=\"1\" errors=\"1\""), "{xml}");
    }
}
