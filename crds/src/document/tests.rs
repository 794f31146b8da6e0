//! Tests of reading text into documents.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn values(text: &str) -> Vec<Value> {
    let read = read("f.yaml", text.as_bytes());
    assert_eq!(read.unreadable, [], "{text}");
    read.documents.into_iter().map(|document| document.value).collect()
}

fn only(text: &str) -> Document {
    let mut read = read("f.yaml", text.as_bytes());
    assert_eq!(read.unreadable, []);
    assert_eq!(read.documents.len(), 1);
    read.documents.remove(0)
}

fn problems(text: &str) -> Vec<(u32, Code)> {
    read("f.yaml", text.as_bytes()).unreadable.into_iter().map(|problem| (problem.line, problem.code)).collect()
}

#[test]
fn documents_are_separated_and_empty_ones_skipped() {
    assert_eq!(values("a: 1\n---\n# only a comment\n---\n\n---\nb: 2\n...\n"), [json!({"a": 1}), json!({"b": 2})]);
    assert_eq!(values(""), [] as [Value; 0]);
    assert_eq!(values("--- # comment\na: 1\n"), [json!({"a": 1})]);
    assert_eq!(values("---\na: |\n  text\n---\nb: 2"), [json!({"a": "text\n"}), json!({"b": 2})]);
    assert_eq!(values("%YAML 1.2\n---\na: 1\n"), [json!({"a": 1})]);
    assert_eq!(values("\u{feff}a: 1\r\n---\r\nb: 2\r\n"), [json!({"a": 1}), json!({"b": 2})]);
}

#[test]
fn json_is_read() {
    assert_eq!(values("{\"a\": [1, 2.5, null, \"x\"]}"), [json!({"a": [1, 2.5, null, "x"]})]);
    assert_eq!(values("{\"a\": \"\\ud83d\\ude00\"}"), [json!({"a": "😀"})]);
    assert_eq!(values("{\n\t\"a\": 1\n}\n{\"b\": 2}\n"), [json!({"a": 1}), json!({"b": 2})]);
}

#[test]
fn broken_document_spoils_no_other() {
    let read = read("f.yaml", b"a: 1\n---\nb: [1, 2\nc: 3\n---\nd: 4\n---\n e: 5\nf: 6\n---\ng: 7\n");
    let values: Vec<Value> = read.documents.into_iter().map(|document| document.value).collect();
    assert_eq!(values, [json!({"a": 1}), json!({"d": 4}), json!({"g": 7})]);
    assert_eq!(read.unreadable.len(), 2);
    assert!(read.unreadable.iter().all(|problem| problem.code == Code::InvalidText));
    assert!((3..=5).contains(&read.unreadable[0].line), "{:?}", read.unreadable[0]);
}

#[test]
fn what_is_missing_at_the_end_is_missing_on_the_last_line() {
    for text in ["a: [1,\n", "a: [1,", "b: 1\n---\na: [1,\n"] {
        let last = u32::try_from(text.lines().count()).unwrap();
        assert_eq!(problems(text), [(last, Code::InvalidText)], "{text:?}");
    }
}

#[test]
fn closing_brackets_may_stand_below_their_key() {
    let text = "a:\n  b: [\n    1,\n    2,\n  ]\n  c: {\n    d: 1\n  }\ne: [\n]\nf: |\n  ]\n";
    assert_eq!(values(text), [json!({"a": {"b": [1, 2], "c": {"d": 1}}, "e": [], "f": "]\n"})]);
    assert_eq!(only(text).line_of("e"), Some(9));
}

#[test]
fn a_key_written_twice_is_refused_where_it_is_written_again() {
    assert_eq!(problems("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n"), [(5, Code::DuplicateKey)]);
    assert_eq!(problems("{\"a\": 1, \"a\": 2}"), [(1, Code::DuplicateKey)]);
    assert_eq!(problems("{\"a\": \"\\ud83d\\ude00\", \"a\": 2}").len(), 1);
}

#[test]
fn yaml_booleans_of_old_and_text_in_quotes() {
    assert_eq!(
        values("a: yes\nb: 'yes'\nc: !!str 80\nd: on\n80: x\ntrue: z\n"),
        [json!({"a": true, "b": "yes", "c": "80", "d": true, "80": "x", "true": "z"})]
    );
}

#[test]
fn anchors_aliases_and_merge_keys() {
    let text = "base: &base {a: 1, b: 2}\ncopy: *base\nmerged:\n  <<: *base\n  b: 3\nmany:\n  <<: [*base, {c: 4}]\n";
    assert_eq!(
        values(text),
        [
            json!({"base": {"a": 1, "b": 2}, "copy": {"a": 1, "b": 2}, "merged": {"b": 3, "a": 1}, "many": {"a": 1, "b": 2, "c": 4}})
        ]
    );
    assert_eq!(problems("a: *nothing\n").len(), 1);
}

#[test]
fn expansion_and_depth_are_bounded() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", ")));
    }
    assert_eq!(problems(&bomb).into_iter().map(|(_, code)| code).collect::<Vec<_>>(), [Code::TooLarge]);
    assert_eq!(problems(&format!("{}{}", "[".repeat(200), "]".repeat(200))), [(1, Code::TooLarge)]);
    assert_eq!(problems(&"[".repeat(100_000)).len(), 1);
    assert_eq!(problems(&"- ".repeat(10_000)).len(), 1);
    assert_eq!(problems("a: &a [*a]\n").len(), 1);
}

#[test]
fn lists_stand_for_their_items() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata:\n    name: a\n- apiVersion: v1\n  kind: Service\n  metadata:\n    name: b\n";
    let read = read("f.yaml", text.as_bytes());
    assert_eq!(read.documents.len(), 2);
    assert_eq!(read.documents[1].line_of("metadata.name"), Some(11));
    assert_eq!(
        values("apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: a}\n"),
        [json!({"metadata": {"name": "a"}, "kind": "Service", "apiVersion": "v1"})]
    );
}

#[test]
fn anchors_and_aliases_copy_no_more_than_is_allowed() {
    let nines = |name: char| vec![format!("*{name}"); 9].join(", ");
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, of) in ('b'..='h').zip('a'..) {
        bomb += &format!("{name}: &{name} [{}]\n", nines(of));
    }
    // Each level is copied for its anchor: a long text below many of them.
    let nested =
        (0..100).map(|level| format!("&n{level} [")).collect::<String>() + &"x".repeat(1 << 20) + &"]".repeat(100);
    for text in [bomb, format!("k: {nested}\n")] {
        let read = read("f.yaml", text.as_bytes());
        assert!(read.documents.is_empty());
        assert_eq!(read.unreadable[0].code, Code::TooLarge, "{}", read.unreadable[0].message);
    }
    assert_eq!(values("a: &a {x: 1}\nb: *a\n"), [json!({"a": {"x": 1}, "b": {"x": 1}})]);
}

#[test]
fn every_field_has_its_line() {
    let text = "# first\napiVersion: v1\nspec:\n  rules:\n  - from:\n    - source:\n        principals: [\"a\",\n          \"b\"]\n  - to: []\n  text: |\n    one\n    two\n  last: 1\n  ports: {8080: x}\n";
    let document = only(text);
    let rows = [
        ("", 2),
        ("apiVersion", 2),
        ("spec", 3),
        ("spec.rules", 4),
        ("spec.rules[0]", 5),
        ("spec.rules[0].from", 5),
        ("spec.rules[0].from[0].source", 6),
        ("spec.rules[0].from[0].source.principals", 7),
        ("spec.rules[0].from[0].source.principals[1]", 8),
        ("spec.rules[1].to", 9),
        ("spec.rules[1].to[0]", 9),
        ("spec.text", 10),
        ("spec.last", 13),
        ("spec.ports[8080]", 14),
        ("spec.missing.field", 3),
    ];
    for (path, line) in rows {
        assert_eq!(document.line_of(path), Some(line), "{path}");
    }
    let second = read("f.yaml", format!("a: 1\n---\n{text}").as_bytes()).documents.remove(1);
    assert_eq!(second.line_of("spec.last"), Some(15));
}

#[test]
fn debug_output_shows_no_content() {
    let document = only("apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: n}\ndata: {key: aGlkZGVu}\n");
    let shown = format!("{document:?}");
    assert!(!shown.contains("aGlkZGVu"), "{shown}");
    assert!(shown.contains("Secret"), "{shown}");
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    assert_eq!(read("f.yaml", b"a: 1\nb: \xff\n").unreadable[0].line, 2);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read("f.yaml", &bytes);
    }

    #[test]
    fn any_yaml_like_text_is_read_or_refused(text in "[ \n\t:#&*!|>%@`'\"\\[\\]{}?,a0~<.-]{0,120}") {
        let _ = read("f.yaml", text.as_bytes());
    }

    #[test]
    fn neighbours_survive_any_document(text in "[ \n\t:#&*!|>%@`'\"\\[\\]{}?,a0~<.-]{0,80}") {
        let read = read("f.yaml", format!("first: 1\n---\n{text}\n---\nlast: 2\n").as_bytes());
        let (first, last) = (json!({"first": 1}), json!({"last": 2}));
        prop_assert!(read.documents.iter().any(|document| document.value == first));
        prop_assert!(read.documents.iter().any(|document| document.value == last));
    }

    #[test]
    fn json_values_are_read_back(entries in prop::collection::btree_map("[a-z]{1,5}", any::<i64>(), 0..6)) {
        let value = json!({"map": entries});
        prop_assert_eq!(values(&value.to_string()), [value]);
    }
}

#[test]
fn pieces_are_the_text_and_each_holds_its_documents() {
    let text = "# head\n---\na: 1\n---\nb: [\n---\n{\"c\": 2}\n---\nkind: List\nitems: [{a: 1}]\n";
    let found = pieces(text);
    assert_eq!(found.iter().map(|piece| piece.text).collect::<String>(), text);
    let counts: Vec<Option<usize>> = found.iter().map(|piece| piece.values.as_ref().ok().map(Vec::len)).collect();
    assert_eq!(counts, [Some(0), Some(1), None, Some(1), Some(1)]);
    assert!((5..=6).contains(&found[2].values.as_ref().unwrap_err().0));
    for text in ["", "\n", "---", "---\n---\n", "a: 1", "a: 1\n...\n"] {
        assert_eq!(pieces(text).iter().map(|piece| piece.text).collect::<String>(), text);
    }
}
