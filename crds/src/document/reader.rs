//! From one part of a text to its values and their lines.

use std::borrow::Cow;
use std::collections::BTreeMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, StrInput, Tag};
use serde_json::{Map, Value};

use super::scalar;
use super::span::{SpanTree, line_number};
use super::split::Part;
use super::{MAX_COPIED_BYTES, MAX_DEPTH, MAX_NODES};
use crate::codes::Code;

/// Why a part of a text is no document.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) line: u32,
    pub(super) code: Code,
    pub(super) message: String,
}

/// A value, its lines, and how many nodes it has.
#[derive(Clone)]
struct Node {
    value: Value,
    spans: SpanTree,
    nodes: usize,
    /// The text as written, for keys and for `!!str`.
    depth: usize,
}

/// How often a closing bracket is moved, and how much text is read again for it, in bytes.
const MAX_MOVED_BRACKETS: usize = 64;
const MAX_READ_AGAIN: usize = 32 * 1024 * 1024;

/// The documents of one part. More than one only with `...` between them, or several JSON values in a row.
pub(super) fn read_part(part: &Part<'_>) -> Result<Vec<(Value, SpanTree)>, Problem> {
    let mut text = Cow::Borrowed(part.text);
    let mut attempts = MAX_MOVED_BRACKETS.min(MAX_READ_AGAIN.checked_div(part.text.len()).unwrap_or(0));
    loop {
        let problem = match Reader::new(&text, part.lines_before).read() {
            Ok(read) => return Ok(read),
            Err(problem) => problem,
        };
        if problem.code == Code::InvalidText && part.text.trim_start().starts_with('{') {
            return read_json(part).ok_or(problem);
        }
        let moved = if attempts > 0 { move_bracket(&text, &problem, part.lines_before) } else { None };
        text = Cow::Owned(moved.ok_or(problem)?);
        attempts -= 1;
    }
}

/// YAML wants a closing bracket further in than the key of its list; Kubernetes' reader, and so many a document, has it below the key.
/// Nothing but flow content can begin with a closing bracket, so moving the line changes nothing else.
fn move_bracket(text: &str, problem: &Problem, lines_before: usize) -> Option<String> {
    if problem.code != Code::InvalidText || !problem.message.starts_with("invalid indentation") {
        return None;
    }
    let index = usize::try_from(problem.line).ok()?.checked_sub(1)?.checked_sub(lines_before)?;
    let line = text.split_inclusive('\n').nth(index)?;
    if !line.trim_start_matches(' ').starts_with([']', '}']) {
        return None;
    }
    let offset: usize = text.split_inclusive('\n').take(index).map(str::len).sum();
    let mut moved = String::with_capacity(text.len().saturating_add(MAX_DEPTH));
    moved.push_str(text.get(..offset)?);
    moved.extend(std::iter::repeat_n(' ', MAX_DEPTH));
    moved.push_str(text.get(offset..)?);
    Some(moved)
}

/// JSON that is no YAML: surrogate pairs in escapes, several values in a row. Only the line of the whole value is known.
fn read_json(part: &Part<'_>) -> Option<Vec<(Value, SpanTree)>> {
    let mut values = serde_json::Deserializer::from_str(part.text).into_iter::<UniqueKeys>();
    let mut read = Vec::new();
    loop {
        let rest = part.text.get(values.byte_offset()..)?;
        let start = part.text.len().checked_sub(rest.trim_start().len())?;
        let lines = part.text.get(..start)?.matches('\n').count();
        match values.next() {
            None => return Some(read),
            Some(Ok(UniqueKeys(value))) => {
                read.push((value, SpanTree::scalar(line_number(part.lines_before.saturating_add(lines)))))
            }
            Some(Err(_)) => return None,
        }
    }
}

/// A JSON value in which no object names a key twice. `serde_json` itself limits the depth to 128.
struct UniqueKeys(Value);

impl<'de> serde::Deserialize<'de> for UniqueKeys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueKeysVisitor)
    }
}

struct UniqueKeysVisitor;

impl<'de> serde::de::Visitor<'de> for UniqueKeysVisitor {
    type Value = UniqueKeys;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys(Value::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys(Value::from(value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys(Value::from(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys(Value::from(value)))
    }

    fn visit_unit<E>(self) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys(Value::Null))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<UniqueKeys, A::Error> {
        let mut list = Vec::new();
        while let Some(UniqueKeys(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(UniqueKeys(Value::Array(list)))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut fields: A) -> Result<UniqueKeys, A::Error> {
        let mut map = Map::new();
        while let Some((key, UniqueKeys(value))) = fields.next_entry::<String, UniqueKeys>()? {
            if map.contains_key(&key) {
                return Err(serde::de::Error::custom(format_args!("key `{key}` is written twice")));
            }
            map.insert(key, value);
        }
        Ok(UniqueKeys(Value::Object(map)))
    }
}

struct Reader<'a> {
    events: Parser<'a, StrInput<'a>>,
    lines_before: usize,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    /// Bytes of what was copied for anchors and aliases of the document.
    copied: usize,
}

/// A collection that is still open.
enum Open {
    Mapping(OpenMapping),
    Sequence { items: Vec<Value>, spans: Vec<SpanTree> },
}

#[derive(Default)]
struct OpenMapping {
    fields: Map<String, Value>,
    spans: BTreeMap<String, SpanTree>,
    /// `<<` entries; explicit keys win over them, earlier ones over later ones.
    merged: Vec<Node>,
    key: Option<Key>,
}

struct Key {
    name: String,
    line: u32,
    is_merge: bool,
}

struct Frame {
    open: Open,
    line: u32,
    anchor: usize,
    nodes: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, lines_before: usize) -> Self {
        Self { events: Parser::new_from_str(text), lines_before, anchors: BTreeMap::new(), nodes: 0, copied: 0 }
    }

    fn read(mut self) -> Result<Vec<(Value, SpanTree)>, Problem> {
        let mut documents = Vec::new();
        let mut stack: Vec<Frame> = Vec::new();
        while let Some(event) = self.events.next_event() {
            let (event, span) = event.map_err(|error| self.scan_problem(&error))?;
            let line = self.line(span.start);
            let complete = match event {
                Event::Nothing | Event::StreamStart | Event::DocumentEnd => continue,
                Event::StreamEnd => break,
                Event::DocumentStart(_) => {
                    self.anchors.clear();
                    self.nodes = 0;
                    self.copied = 0;
                    continue;
                }
                Event::SequenceStart(anchor, _) => {
                    self.open(&mut stack, Open::Sequence { items: Vec::new(), spans: Vec::new() }, line, anchor)?;
                    continue;
                }
                Event::MappingStart(anchor, _) => {
                    self.open(&mut stack, Open::Mapping(OpenMapping::default()), line, anchor)?;
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let Some(frame) = stack.pop() else { continue };
                    let anchor = frame.anchor;
                    let node = close(frame)?;
                    self.remember(anchor, &node, line)?;
                    node
                }
                Event::Alias(anchor) => {
                    let Some(held) = self.anchors.get(&anchor) else {
                        return Err(problem(line, Code::InvalidText, "an alias stands inside the node that it names"));
                    };
                    let (nodes, weight) = (held.nodes, weight(&held.value));
                    self.count(nodes, line)?;
                    self.copy(weight, line)?;
                    let Some(node) = self.anchors.get(&anchor).cloned() else { continue };
                    if stack.len().saturating_add(node.depth) > MAX_DEPTH {
                        return Err(too_deep(line));
                    }
                    node
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.count(1, line)?;
                    if let Some(Frame { open: Open::Mapping(mapping), .. }) =
                        stack.last_mut().filter(|frame| frame.expects_key())
                    {
                        mapping.key = Some(key(&text, style, tag.as_deref(), line)?);
                        if anchor != 0 {
                            self.remember(
                                anchor,
                                &Node {
                                    value: Value::String(text.into_owned()),
                                    spans: SpanTree::scalar(line),
                                    nodes: 1,
                                    depth: 1,
                                },
                                line,
                            )?;
                        }
                        continue;
                    }
                    let value = scalar_value(&text, style, tag.as_deref())
                        .map_err(|message| problem(line, Code::InvalidText, message))?;
                    let node = Node { value, spans: SpanTree::scalar(line), nodes: 1, depth: 1 };
                    self.remember(anchor, &node, line)?;
                    node
                }
            };
            match stack.last_mut() {
                Some(frame) => frame.add(complete, line)?,
                // An empty document reads as null: nothing was meant.
                None if complete.value.is_null() => {}
                None => documents.push((complete.value, complete.spans)),
            }
        }
        Ok(documents)
    }

    fn open(&mut self, stack: &mut Vec<Frame>, open: Open, line: u32, anchor: usize) -> Result<(), Problem> {
        self.count(1, line)?;
        if stack.len() >= MAX_DEPTH {
            return Err(too_deep(line));
        }
        stack.push(Frame { open, line, anchor, nodes: 1, depth: 1 });
        Ok(())
    }

    /// Bounds what aliases can expand to, before anything is copied into the result.
    fn count(&mut self, nodes: usize, line: u32) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(problem(line, Code::TooLarge, format!("the document expands to more than {MAX_NODES} values")));
        }
        Ok(())
    }

    /// Bounds what anchors and aliases copy, before it is copied: a few lines can name gigabytes, nested anchors too.
    fn copy(&mut self, bytes: usize, line: u32) -> Result<(), Problem> {
        self.copied = self.copied.saturating_add(bytes);
        if self.copied > MAX_COPIED_BYTES {
            let message = format!("anchors and aliases copy more than {MAX_COPIED_BYTES} bytes");
            return Err(problem(line, Code::TooLarge, message));
        }
        Ok(())
    }

    fn remember(&mut self, anchor: usize, node: &Node, line: u32) -> Result<(), Problem> {
        if anchor != 0 {
            self.copy(weight(&node.value), line)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(())
    }

    fn line(&self, marker: Marker) -> u32 {
        line_number(self.lines_before.saturating_add(marker.line().saturating_sub(1)))
    }

    fn scan_problem(&self, error: &ScanError) -> Problem {
        problem(self.line(*error.marker()), Code::InvalidText, error.info().to_owned())
    }
}

impl Frame {
    fn expects_key(&self) -> bool {
        matches!(&self.open, Open::Mapping(mapping) if mapping.key.is_none())
    }

    fn add(&mut self, node: Node, line: u32) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(node.nodes);
        self.depth = self.depth.max(node.depth.saturating_add(1));
        match &mut self.open {
            Open::Sequence { items, spans } => {
                items.push(node.value);
                spans.push(node.spans);
                Ok(())
            }
            Open::Mapping(mapping) => mapping.add(node, line),
        }
    }
}

impl OpenMapping {
    fn add(&mut self, node: Node, line: u32) -> Result<(), Problem> {
        let Some(key) = self.key.take() else {
            // A key that is a collection, or an alias to one scalar.
            let Value::String(name) = node.value else {
                return Err(problem(line, Code::InvalidText, "a key must be a plain text"));
            };
            self.key = Some(Key { name, line, is_merge: false });
            return Ok(());
        };
        if key.is_merge {
            match node.value {
                Value::Object(_) => self.merged.push(node),
                Value::Array(items) => {
                    for (index, item) in items.into_iter().enumerate() {
                        let spans = node.spans.child(&index.into()).cloned().unwrap_or_default();
                        if !item.is_object() {
                            return Err(problem(line, Code::InvalidText, "`<<` takes a mapping or a list of mappings"));
                        }
                        self.merged.push(Node { value: item, spans, nodes: 0, depth: 0 });
                    }
                }
                _ => return Err(problem(line, Code::InvalidText, "`<<` takes a mapping or a list of mappings")),
            }
            return Ok(());
        }
        if self.fields.contains_key(&key.name) {
            return Err(problem(key.line, Code::DuplicateKey, format!("key `{}` is written twice", key.name)));
        }
        self.spans.insert(key.name.clone(), node.spans.at(key.line));
        self.fields.insert(key.name, node.value);
        Ok(())
    }
}

fn close(frame: Frame) -> Result<Node, Problem> {
    let Frame { open, line, anchor: _, nodes, depth } = frame;
    let (value, spans) = match open {
        Open::Sequence { items, spans } => (Value::Array(items), SpanTree::items(line, spans)),
        Open::Mapping(OpenMapping { mut fields, mut spans, merged, key }) => {
            if let Some(key) = key {
                return Err(problem(key.line, Code::InvalidText, format!("key `{}` has no value", key.name)));
            }
            for Node { value, spans: merged_spans, nodes: _, depth: _ } in merged {
                let Value::Object(merged_fields) = value else { continue };
                for (name, value) in merged_fields {
                    if !fields.contains_key(&name) {
                        if let Some(span) = merged_spans.field_spans().and_then(|spans| spans.get(&name)) {
                            spans.insert(name.clone(), span.clone());
                        }
                        fields.insert(name, value);
                    }
                }
            }
            (Value::Object(fields), SpanTree::fields(line, spans))
        }
    };
    Ok(Node { value, spans, nodes, depth })
}

/// About how many bytes a copy of a value takes, its lines included.
fn weight(value: &Value) -> usize {
    const NODE: usize = 128;
    let inside = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len().saturating_add(weight(value))).sum(),
    };
    inside.saturating_add(NODE)
}

/// Kubernetes turns keys that are numbers or booleans into text.
fn key(text: &str, style: ScalarStyle, tag: Option<&Tag>, line: u32) -> Result<Key, Problem> {
    let is_merge = style == ScalarStyle::Plain && text == "<<";
    let name = match scalar_value(text, style, tag).map_err(|message| problem(line, Code::InvalidText, message))? {
        Value::String(name) => name,
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            return Err(problem(line, Code::InvalidText, "a key must not be null"));
        }
    };
    Ok(Key { name, line, is_merge })
}

fn scalar_value(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() => match tag.suffix.as_str() {
            "str" => Ok(Value::String(text.to_owned())),
            "int" | "float" | "bool" | "null" => scalar::resolve(text).map_err(str::to_owned),
            other => Err(format!("tag `!!{other}` is not supported")),
        },
        Some(tag) if tag.handle == "!" && tag.suffix.is_empty() => Ok(Value::String(text.to_owned())),
        Some(tag) => Err(format!("tag `{tag}` is not supported")),
        None if style == ScalarStyle::Plain => scalar::resolve(text).map_err(str::to_owned),
        None => Ok(Value::String(text.to_owned())),
    }
}

fn problem(line: u32, code: Code, message: impl Into<String>) -> Problem {
    Problem { line, code, message: message.into() }
}

fn too_deep(line: u32) -> Problem {
    problem(line, Code::TooLarge, format!("the document is nested more than {MAX_DEPTH} levels deep"))
}
