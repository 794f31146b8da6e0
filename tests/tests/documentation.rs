//! The documentation says what the code does.

use palisade_model::reason::Reason;
use palisade_tests::checkout;

#[test]
fn the_reference_page_lists_every_reason_and_no_other() {
    let page = std::fs::read_to_string(checkout::root().join("docs/reference/reasons.md")).unwrap();
    let listed: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|line| line.split('`').next()).collect();
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(listed, reasons);
}
