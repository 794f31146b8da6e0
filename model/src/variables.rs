//! Names of process settings in the environment that no setting reads: most likely mistyped.

use std::collections::BTreeSet;

/// What the names of all settings begin with.
const PREFIX: &str = "PALISADE_";

/// What scripts and tests read beside the programs that they start.
const OF_SCRIPTS: [&str; 4] = ["PALISADE_CACHE", "PALISADE_VENV", "PALISADE_LONG", "PALISADE_GOLDEN"];

/// One line for each variable that looks like a setting and is none of `known`, with the nearest that is. Kubernetes describes Services in the
/// environment of pods; `PALISADE_CONTROL_PORT_15012_TCP_ADDR` is what it says of one called `palisade-control`, and nobody's mistake.
pub fn unread(known: &BTreeSet<String>, set: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut unread: Vec<String> = set.into_iter().filter(|name| name.starts_with(PREFIX)).collect();
    unread.retain(|name| !known.contains(name) && !OF_SCRIPTS.contains(&name.as_str()) && !is_of_a_service(name));
    unread.sort();
    unread
        .into_iter()
        .map(|name| match nearest(&name, known) {
            Some(near) => format!("variable `{name}` is no setting of this program; did you mean `{near}`?"),
            None => format!("variable `{name}` is no setting of this program"),
        })
        .collect()
}

/// `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT[_PORT-NAME]`, `NAME_PORT`, `NAME_PORT_NUMBER_PROTOCOL[_…]`.
fn is_of_a_service(name: &str) -> bool {
    let is_port = |rest: &str| {
        rest.is_empty() || rest.strip_prefix('_').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.match_indices("_PORT").any(|(at, found)| name.get(at + found.len()..).is_some_and(is_port))
}

fn nearest<'a>(name: &str, known: &'a BTreeSet<String>) -> Option<&'a String> {
    let (distance, near) = known.iter().map(|known| (distance(name, known), known)).min()?;
    // A third of the letters behind the prefix may differ.
    (distance <= (name.len().saturating_sub(PREFIX.len()) / 3).max(1)).then_some(near)
}

/// Letters to insert, remove or replace.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (line, from) in a.chars().enumerate() {
        let mut next = vec![line + 1];
        for ((to, left_above), above) in b.iter().zip(&row).zip(row.iter().skip(1)) {
            let left = next.last().copied().unwrap_or_default();
            next.push((left_above + usize::from(from != *to)).min(left + 1).min(above + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(set: &[&str]) -> Vec<String> {
        let known = ["PALISADE_CONTROL", "PALISADE_MAX_HEADERS", "PALISADE_INBOUND_PORT"].map(str::to_owned);
        unread(&known.into(), set.iter().map(|name| (*name).to_owned()))
    }

    #[test]
    fn a_mistyped_variable_is_named_with_the_one_that_is_meant() {
        let expected =
            "variable `PALISADE_MAX_HEADER` is no setting of this program; did you mean `PALISADE_MAX_HEADERS`?";
        assert_eq!(said(&["PALISADE_MAX_HEADER", "PALISADE_CONTROL", "PATH"]), [expected]);
        assert_eq!(said(&["PALISADE_COLOUR"]), ["variable `PALISADE_COLOUR` is no setting of this program"]);
    }

    #[test]
    fn what_kubernetes_says_of_services_is_nobodys_mistake() {
        let said_of_a_service = [
            "PALISADE_CONTROL_SERVICE_HOST",
            "PALISADE_CONTROL_SERVICE_PORT",
            "PALISADE_CONTROL_SERVICE_PORT_GRPC",
            "PALISADE_CONTROL_PORT",
            "PALISADE_CONTROL_PORT_15012_TCP",
            "PALISADE_CONTROL_PORT_15012_TCP_ADDR",
        ];
        assert_eq!(said(&said_of_a_service), [""; 0]);
        assert_eq!(said(&["PALISADE_INBOUND_PORTS"]).len(), 1);
    }
}
