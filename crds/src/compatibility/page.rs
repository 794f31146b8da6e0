//! The reference page of what is served.

use std::fmt::Write as _;

use super::{Handling, fields};
use crate::object::{KNOWN_KINDS, KnownKind, Support};

const HEAD: &str = "# Compatibility

What Palisade does with each field of the Gateway API's and Istio's kinds. This page is written by the table that
`palisade analyze` warns from (`crds/src/compatibility`); `PALISADE_GOLDEN=write cargo test -p palisade-crds` writes it anew.

- **served**: it does what its API says.
- **partly**: it does, but for what is said.
- **ignored**: it has no effect, for the reason that is said. Nothing warns.
- **unsupported**: it has no effect yet; the warning `PLS0301` names it.
- **refused**: ignoring it could weaken security, so the traffic concerned is refused; the warning `PLS0302` names it.

Fields below one that is ignored, unsupported or refused share its fate and are left out. `[]` stands for each item of a list,
`{}` for each value of a map.
";

/// The page, in Markdown.
#[must_use]
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for (title, is_istio) in [("Gateway API", false), ("Istio", true)] {
        let _ = writeln!(page, "\n## {title}");
        for kind in KNOWN_KINDS.iter().filter(|kind| of_api(kind, is_istio)) {
            section(&mut page, kind);
        }
    }
    page
}

fn of_api(kind: &KnownKind, is_istio: bool) -> bool {
    if is_istio { kind.is_istio() } else { kind.group == crate::gateway_api::GROUP }
}

fn section(page: &mut String, kind: &KnownKind) {
    let versions = kind.versions.join(", ");
    // Writing to a text cannot fail.
    let _ = writeln!(page, "\n### {} (`{}`: {versions})\n", kind.kind, kind.group);
    match kind.support {
        Support::Served => {}
        Support::Checked => {
            let _ = writeln!(page, "Read, and checked as admission does; not enforced yet (warning `PLS0114`).");
            return;
        }
        Support::Named => {
            let _ = writeln!(page, "Known by name; not served (warning `PLS0114`).");
            return;
        }
    }
    let _ = writeln!(page, "| field | |\n|---|---|");
    for field in fields(kind).unwrap_or_default() {
        let text = match field.handling {
            Handling::Served => "served".to_owned(),
            Handling::Partly(text) => format!("partly: {text}"),
            Handling::Ignored(text) => format!("ignored: {text}"),
            Handling::Unsupported(text) => format!("unsupported: {text}"),
            Handling::Refused(text) => format!("refused: {text}"),
            Handling::UnsupportedValue(value, text) => format!("served, but for `{value}`: {text}"),
            Handling::RefusedValue(value, text) => format!("served, but for `{value}`, which is refused: {text}"),
        };
        let _ = writeln!(page, "| `{}` | {text} |", field.path);
    }
}
