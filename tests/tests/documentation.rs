//! The documentation says what the code does.

use palisade_model::reason::Reason;
use palisade_tests::checkout;

/// YAML in the pages about tasks compiles without an error.
#[test]
fn documents_of_the_task_pages_compile() {
    let folder = checkout::root().join("docs/tasks");
    for page in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let text = std::fs::read_to_string(&page).unwrap();
        let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
        for (number, block) in blocks.enumerate() {
            let name = format!("{} block {number}", page.display());
            let read = palisade_crds::document::read(&name, block.as_bytes());
            let options = palisade_compile::SourceOptions { is_files: true, ..Default::default() };
            let inputs = palisade_compile::Inputs::from_texts(read, "default", &options);
            let compiled = palisade_compile::compile(&std::sync::Arc::new(inputs));
            assert!(!compiled.reports.has_errors(), "{name}: {:#?}", compiled.reports.diagnostics());
        }
    }
}

#[test]
fn the_reference_page_lists_every_reason_and_no_other() {
    let page = std::fs::read_to_string(checkout::root().join("docs/reference/reasons.md")).unwrap();
    let listed: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|line| line.split('`').next()).collect();
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(listed, reasons);
}
