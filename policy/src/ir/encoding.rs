//! The compiled form as bytes: a postfix program, so that hostile bytes can neither recurse nor share nodes.

use serde::{Deserialize, Serialize};

use super::{Actions, Node, Program, Test};

/// The version that [`encode`] writes and [`decode`] reads. Any change of these types, or of what a test means, takes a new number.
pub(crate) const IR_VERSION: u32 = 2;

/// Bytes beyond this are not decoded. A policy's text has the same limit, and the compiled form is shorter.
const MAX_BYTES: usize = 1 << 20;

/// Nesting beyond this is refused: evaluation and dropping recurse.
const MAX_DEPTH: usize = 128;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Encoded {
    actions: Actions,
    labels: Vec<String>,
    steps: Vec<Step>,
}

/// One step of the postfix program: puts a node on the stack, made from nodes that it takes off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Step {
    Const(bool),
    All(u32),
    Any(u32),
    Not,
    Test(Test, u16),
}

/// Bytes that are not a compiled policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidIr {
    /// Too long.
    #[error("{0} bytes of compiled policy are more than the limit")]
    TooLong(usize),
    /// Not an encoded program.
    #[error("damaged compiled policy: {0}")]
    Damaged(#[from] postcard::Error),
    /// Bytes behind the end.
    #[error("{0} bytes stand behind the compiled policy")]
    Trailing(usize),
    /// The program does not make exactly one condition, or nests too deep.
    #[error("the compiled policy is not one condition of at most {MAX_DEPTH} levels")]
    Shape,
}

/// Encodes a program.
///
/// # Errors
/// When the program nests deeper, or its bytes are longer, than a reader accepts.
pub(crate) fn encode(program: &Program) -> Result<Vec<u8>, InvalidIr> {
    let Program { actions, condition, labels } = program;
    let mut steps = Vec::new();
    flatten(condition, 0, &mut steps)?;
    let bytes = postcard::to_stdvec(&Encoded { actions: *actions, labels: labels.clone(), steps })?;
    if bytes.len() > MAX_BYTES { Err(InvalidIr::TooLong(bytes.len())) } else { Ok(bytes) }
}

fn flatten(node: &Node, depth: usize, steps: &mut Vec<Step>) -> Result<(), InvalidIr> {
    if depth >= MAX_DEPTH {
        return Err(InvalidIr::Shape);
    }
    let step = match node {
        Node::Const(value) => Step::Const(*value),
        Node::Test(test, label) => Step::Test(test.clone(), *label),
        Node::Not(child) => {
            flatten(child, depth + 1, steps)?;
            Step::Not
        }
        Node::All(children) | Node::Any(children) => {
            for child in children {
                flatten(child, depth + 1, steps)?;
            }
            let count = u32::try_from(children.len()).map_err(|_| InvalidIr::Shape)?;
            if matches!(node, Node::All(_)) { Step::All(count) } else { Step::Any(count) }
        }
    };
    steps.push(step);
    Ok(())
}

/// Decodes a program of version [`IR_VERSION`]. Never panics; memory stays within a constant factor of the bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Program, InvalidIr> {
    if bytes.len() > MAX_BYTES {
        return Err(InvalidIr::TooLong(bytes.len()));
    }
    let (encoded, rest) = postcard::take_from_bytes::<Encoded>(bytes)?;
    if !rest.is_empty() {
        return Err(InvalidIr::Trailing(rest.len()));
    }
    let Encoded { actions, labels, steps } = encoded;
    let mut stack: Vec<(Node, usize)> = Vec::new();
    for step in steps {
        let (node, depth) = match step {
            Step::Const(value) => (Node::Const(value), 0),
            Step::Test(test, label) => (Node::Test(test, label), 0),
            Step::Not => {
                let (child, depth) = stack.pop().ok_or(InvalidIr::Shape)?;
                (Node::Not(Box::new(child)), depth + 1)
            }
            Step::All(count) => take(&mut stack, count).map(|(children, depth)| (Node::All(children), depth + 1))?,
            Step::Any(count) => take(&mut stack, count).map(|(children, depth)| (Node::Any(children), depth + 1))?,
        };
        if depth >= MAX_DEPTH {
            return Err(InvalidIr::Shape);
        }
        stack.push((node, depth));
    }
    match (stack.pop(), stack.is_empty()) {
        (Some((condition, _)), true) => Ok(Program { actions, condition, labels }),
        _ => Err(InvalidIr::Shape),
    }
}

fn take(stack: &mut Vec<(Node, usize)>, count: u32) -> Result<(Vec<Node>, usize), InvalidIr> {
    let count = usize::try_from(count).map_err(|_| InvalidIr::Shape)?;
    let from = stack.len().checked_sub(count).ok_or(InvalidIr::Shape)?;
    let taken = stack.split_off(from);
    let depth = taken.iter().map(|(_, depth)| *depth).max().unwrap_or(0);
    Ok((taken.into_iter().map(|(node, _)| node).collect(), depth))
}
