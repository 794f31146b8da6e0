//! Reading of texts, numbers, lists and maps.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{Cursor, Decode, Leaf, Shape};
use crate::codes::Code;
use crate::duration::Duration;

impl Decode for String {
    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
        let text = value.as_str();
        if text.is_none() {
            cursor.wrong_type("a text", value);
        }
        text.map(str::to_owned)
    }

    fn shape() -> Shape {
        Shape::Leaf(Leaf::Text)
    }
}

/// Absent means false, as for every boolean of the kinds read here that has no third state.
impl Decode for bool {
    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
        let flag = value.as_bool();
        if flag.is_none() {
            cursor.wrong_type("a boolean", value);
        }
        flag
    }

    fn shape() -> Shape {
        Shape::Leaf(Leaf::Flag)
    }

    fn absent() -> Option<Self> {
        Some(false)
    }
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Decode for $integer {
            fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
                let Value::Number(number) = value else {
                    cursor.wrong_type("a whole number", value);
                    return None;
                };
                let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
                let Some(whole) = whole else {
                    cursor.wrong_type("a whole number", value);
                    return None;
                };
                let narrowed = Self::try_from(whole).ok();
                if narrowed.is_none() {
                    cursor.report(Code::OutOfRange, format!("`{whole}` is outside {}..={}", Self::MIN, Self::MAX));
                }
                narrowed
            }

            fn shape() -> Shape {
                Shape::Leaf(Leaf::Whole(i128::from(Self::MIN), i128::from(Self::MAX)))
            }
        }
    )*};
}

integers!(i32, i64, u16, u32, u64);

impl Decode for f64 {
    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
        let number = value.as_f64();
        if number.is_none() {
            cursor.wrong_type("a number", value);
        }
        number
    }

    fn shape() -> Shape {
        Shape::Leaf(Leaf::Number)
    }
}

impl Decode for Duration {
    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
        let text = String::decode(value, cursor)?;
        let duration = Self::parse(&text);
        if let Err(error) = &duration {
            cursor.report(Code::InvalidFormat, error.to_string());
        }
        duration.ok()
    }

    fn shape() -> Shape {
        Shape::Leaf(Leaf::Text)
    }
}

impl Decode for Value {
    fn decode(value: &Value, _cursor: &mut Cursor<'_>) -> Option<Self> {
        Some(value.clone())
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
        T::decode(value, cursor).map(Some)
    }

    fn shape() -> Shape {
        T::shape()
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl<T: Decode> Decode for Box<T> {
    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
        T::decode(value, cursor).map(Self::new)
    }

    fn shape() -> Shape {
        T::shape()
    }

    fn absent() -> Option<Self> {
        T::absent().map(Self::new)
    }
}

/// Absent means empty; where the two differ the field is an `Option`. All items are read before the list is given up because of one.
impl<T: Decode> Decode for Vec<T> {
    fn shape() -> Shape {
        Shape::List(T::shape)
    }

    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
        let Value::Array(items) = value else {
            cursor.wrong_type("a list", value);
            return None;
        };
        let read: Vec<Option<T>> = items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                cursor.within(index, |cursor| {
                    if item.is_null() {
                        cursor.report(Code::WrongType, "a list item must not be null");
                        return None;
                    }
                    T::decode(item, cursor)
                })
            })
            .collect();
        read.into_iter().collect()
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }
}

/// Absent means empty. A key with a null value is no entry, as in the Kubernetes API.
impl<T: Decode> Decode for BTreeMap<String, T> {
    fn shape() -> Shape {
        Shape::Map(T::shape)
    }

    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
        let Value::Object(fields) = value else {
            cursor.wrong_type("an object", value);
            return None;
        };
        let read: Vec<Option<(String, T)>> = fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| {
                cursor.within(key.as_str(), |cursor| T::decode(value, cursor)).map(|value| (key.clone(), value))
            })
            .collect();
        read.into_iter().collect()
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }
}

/// Bytes, written in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Decode for Bytes {
    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
        let text = String::decode(value, cursor)?;
        let bytes = STANDARD.decode(text.as_bytes()).ok();
        if bytes.is_none() {
            cursor.report(Code::InvalidFormat, "not base64");
        }
        bytes.map(Self)
    }

    fn shape() -> Shape {
        Shape::Leaf(Leaf::Bytes)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

/// A number or a text, such as a port given by number or name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// By number.
    Int(i32),
    /// By name.
    String(String),
}

impl Decode for IntOrString {
    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::String(text.clone())),
            _ => i32::decode(value, cursor).map(Self::Int),
        }
    }

    fn shape() -> Shape {
        Shape::Leaf(Leaf::IntOrString)
    }
}
