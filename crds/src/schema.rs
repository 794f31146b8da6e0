//! How typed kinds are read: every problem of a document is found in one pass, each with its path, and one bad field spoils no other.
//!
//! A kind is declared once with [`record!`], [`choice!`] and [`one_of!`]: fields, types, defaults and the constraints of its CRD schema stand together.

#[macro_use]
mod macros;
mod cursor;
pub(crate) mod formats;
mod leaf;
#[cfg(test)]
mod tests;
pub(crate) mod url;

pub(crate) use cursor::{Cursor, nearest, present, shorten};
pub(crate) use formats::Check;
pub use leaf::{Bytes, IntOrString};

use serde_json::{Map, Value};

/// Whether a field is written and not null.
pub(crate) fn is_present(fields: &Map<String, Value>, key: &str) -> bool {
    present(fields, key).is_some()
}

/// A type that a part of a document can be read into.
pub(crate) trait Decode: Sized {
    /// Reads a value that is not null. `None` if it cannot be used; the reason then is among the cursor's issues.
    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self>;

    /// What an absent field means; `None` makes the field a required one.
    fn absent() -> Option<Self> {
        None
    }

    /// What documents may write there.
    fn shape() -> Shape {
        Shape::Leaf(Leaf::Any)
    }
}

/// What documents may write in one place.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// Nothing that has fields.
    Leaf(Leaf),
    /// Items of this shape.
    List(fn() -> Shape),
    /// Values of this shape, by keys of the user's own.
    Map(fn() -> Shape),
    /// Fields.
    Record(&'static RecordShape),
}

/// What stands in a place that has no fields.
#[derive(Clone, Copy)]
pub(crate) enum Leaf {
    /// Anything at all.
    Any,
    /// A text.
    Text,
    /// A boolean.
    Flag,
    /// A whole number, at least and at most.
    Whole(i128, i128),
    /// A number with a fraction.
    Number,
    /// A text out of a list.
    Choice(&'static [&'static str]),
    /// A number or a text.
    IntOrString,
    /// Bytes in base64.
    Bytes,
}

/// The fields of a record.
pub(crate) struct RecordShape {
    pub(crate) name: &'static str,
    /// Its documentation, by line.
    pub(crate) doc: &'static [&'static str],
    pub(crate) fields: &'static [FieldShape],
    /// Sets of keys of which at most one may be written.
    pub(crate) at_most_one: &'static [&'static [&'static str]],
    /// Rules between fields.
    pub(crate) rules: &'static [CelRule],
}

/// One field of a record.
pub(crate) struct FieldShape {
    pub(crate) key: &'static str,
    /// Its documentation, by line.
    pub(crate) doc: &'static [&'static str],
    pub(crate) shape: fn() -> Shape,
    pub(crate) checks: &'static [Check],
    /// Whether it must be written.
    pub(crate) is_required: fn() -> bool,
}

/// A rule in the Common Expression Language, as CRDs hold them.
pub(crate) struct CelRule {
    pub(crate) rule: &'static str,
    /// What is said when it is broken.
    pub(crate) message: &'static str,
}

/// What it means that a field is not written.
pub(crate) enum Absent<T> {
    /// What [`Decode::absent`] of its type says.
    OfType,
    /// The schema's default.
    Default(T),
    /// The field is required.
    Refused,
}
