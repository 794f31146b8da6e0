//! Names and label values of what is made for a Gateway: as the Gateway API recommends (GEP-1762), within Kubernetes' limits.

use palisade_model::hash::ContentHash;

/// Longest name of a Service, and longest value of a label.
const LONGEST: usize = 63;

/// Digits that tell shortened names apart.
const DIGITS: usize = 8;

/// Name of every object that runs a Gateway: `GATEWAY-CLASS`, or something like it where a Service cannot have that name.
pub(crate) fn object_name(gateway: &str, class: &str) -> String {
    let plain = format!("{gateway}-{class}");
    let is_letter = |text: &str| text.starts_with(|c: char| c.is_ascii_lowercase());
    if plain.len() <= LONGEST && is_letter(&plain) && !plain.contains('.') {
        return plain;
    }
    let dashed = plain.replace('.', "-");
    shortened(&if is_letter(&dashed) { dashed } else { format!("gateway-{dashed}") }, &plain)
}

/// The value of a label that names a Gateway or its class.
pub fn label_value(name: &str) -> String {
    if name.len() <= LONGEST { name.to_owned() } else { shortened(name, name) }
}

/// As much of a text as there is room for, and digits made of the whole.
fn shortened(text: &str, whole: &str) -> String {
    let digits: String = ContentHash::of_bytes(whole.as_bytes()).to_string().chars().take(DIGITS).collect();
    let start: String = text.chars().take(LONGEST - DIGITS - 1).collect();
    format!("{}-{digits}", start.trim_end_matches(['-', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_gateway_api_recommends_where_they_can_be() {
        assert_eq!(object_name("edge", "palisade"), "edge-palisade");
        let longest = "a".repeat(LONGEST - "-palisade".len());
        assert_eq!(object_name(&longest, "palisade").len(), LONGEST);
        assert!(object_name(&longest, "palisade").ends_with("-palisade"));
    }

    #[test]
    fn names_that_no_service_can_have_become_ones_that_it_can_and_stay_apart() {
        let long = "a".repeat(250);
        let (a, b) = (format!("{long}x"), format!("{long}y"));
        let dash = format!("{}-{}", "a".repeat(53), "b".repeat(60));
        let names = [&*a, &*b, &*dash, "edge.one", "edge-one", "1st"].map(|name| object_name(name, "palisade"));
        for name in &names {
            let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(name.len() <= LONGEST && name.chars().all(is_plain), "{name}");
            assert!(name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.contains("--"), "{name}");
        }
        let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        assert_ne!(object_name("a-b", "c"), object_name("a.b", "c"));
    }

    #[test]
    fn labels_hold_long_names_too() {
        assert_eq!(label_value("edge.one"), "edge.one");
        let long = "a.".repeat(100) + "a";
        assert!(label_value(&long).len() <= LONGEST && !label_value(&long).contains(".-"));
        assert_ne!(label_value(&long), label_value(&(long.clone() + "b")));
    }
}
