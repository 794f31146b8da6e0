//! The encoding that content hashes are taken over: fields and variants by name, in the order of the type, and fields that
//! are unset not at all.
//!
//! Unset are `None`, `false`, zero, empty texts, lists, sets and maps, and structs of nothing else. A field that is added to a
//! type therefore changes no hash until somebody sets it: proxies and control planes of neighbouring versions agree. Two
//! different values of one type never have the same encoding.

use serde::{
    Serialize,
    ser::{self, Error as _},
};

use super::HashError;

/// The canonical encoding of a value.
///
/// # Errors
/// When the value's `Serialize` fails.
pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, HashError> {
    let mut encoder = Encoder { out: Vec::with_capacity(512) };
    value.serialize(&mut encoder)?;
    Ok(encoder.out)
}

/// Every value says whether it is set.
type IsSet = bool;

/// Before each item of a list, set or map; [`END`] ends it.
const ITEM: u8 = 1;
/// Ends items and fields; no field has an empty name.
const END: u8 = 0;

struct Encoder {
    out: Vec<u8>,
}

/// Items or fields that are being written.
struct Parts<'a> {
    encoder: &'a mut Encoder,
    is_set: IsSet,
}

impl Encoder {
    fn length(&mut self, length: usize) {
        let mut rest = length;
        while rest > 0x7f {
            let low = u8::try_from(rest & 0x7f).unwrap_or_default();
            self.out.push(low | 0x80);
            rest >>= 7;
        }
        self.out.push(u8::try_from(rest).unwrap_or_default());
    }

    fn bytes(&mut self, bytes: &[u8]) -> IsSet {
        self.length(bytes.len());
        self.out.extend_from_slice(bytes);
        !bytes.is_empty()
    }

    fn parts(&mut self, is_set: IsSet) -> Parts<'_> {
        Parts { encoder: self, is_set }
    }
}

impl Parts<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), HashError> {
        self.is_set = true;
        self.encoder.out.push(ITEM);
        value.serialize(&mut *self.encoder).map(drop)
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), HashError> {
        let before = self.encoder.out.len();
        self.encoder.bytes(name.as_bytes());
        if value.serialize(&mut *self.encoder)? {
            self.is_set = true;
        } else {
            self.encoder.out.truncate(before);
        }
        Ok(())
    }

    fn finish(self) -> IsSet {
        self.encoder.out.push(END);
        self.is_set
    }
}

macro_rules! numbers {
    ($($method:ident: $type:ty),+ $(,)?) => {
        $(fn $method(self, value: $type) -> Result<IsSet, HashError> {
            self.out.extend_from_slice(&value.to_le_bytes());
            Ok(value != <$type>::default())
        })+
    };
}

impl<'a> ser::Serializer for &'a mut Encoder {
    type Ok = IsSet;
    type Error = HashError;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Parts<'a>;
    type SerializeTupleStruct = Parts<'a>;
    type SerializeTupleVariant = Parts<'a>;
    type SerializeMap = Parts<'a>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Parts<'a>;

    numbers! {
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_i128: i128,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_u128: u128,
    }

    // Equal numbers of different bits (0.0 and -0.0) and numbers that equal nothing would break "equal has an equal hash".
    fn serialize_f32(self, _: f32) -> Result<IsSet, HashError> {
        Err(HashError::custom("floating point numbers have no canonical form"))
    }

    fn serialize_f64(self, _: f64) -> Result<IsSet, HashError> {
        Err(HashError::custom("floating point numbers have no canonical form"))
    }

    fn serialize_bool(self, value: bool) -> Result<IsSet, HashError> {
        self.out.push(u8::from(value));
        Ok(value)
    }

    fn serialize_char(self, value: char) -> Result<IsSet, HashError> {
        self.serialize_u32(u32::from(value))
    }

    fn serialize_str(self, value: &str) -> Result<IsSet, HashError> {
        Ok(self.bytes(value.as_bytes()))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<IsSet, HashError> {
        Ok(self.bytes(value))
    }

    fn serialize_none(self) -> Result<IsSet, HashError> {
        self.out.push(END);
        Ok(false)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<IsSet, HashError> {
        self.out.push(ITEM);
        value.serialize(self)?;
        Ok(true)
    }

    fn serialize_unit(self) -> Result<IsSet, HashError> {
        Ok(false)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<IsSet, HashError> {
        Ok(false)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<IsSet, HashError> {
        self.bytes(variant.as_bytes());
        Ok(true)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<IsSet, HashError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<IsSet, HashError> {
        self.bytes(variant.as_bytes());
        value.serialize(self)?;
        Ok(true)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'a>, HashError> {
        Ok(self.parts(false))
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts<'a>, HashError> {
        Ok(self.parts(true))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts<'a>, HashError> {
        Ok(self.parts(true))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a>, HashError> {
        self.bytes(variant.as_bytes());
        Ok(self.parts(true))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts<'a>, HashError> {
        Ok(self.parts(false))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts<'a>, HashError> {
        Ok(self.parts(false))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a>, HashError> {
        self.bytes(variant.as_bytes());
        Ok(self.parts(true))
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

macro_rules! items {
    ($($of:ident: $method:ident),+ $(,)?) => {
        $(impl ser::$of for Parts<'_> {
            type Ok = IsSet;
            type Error = HashError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), HashError> {
                self.item(value)
            }

            fn end(self) -> Result<IsSet, HashError> {
                Ok(self.finish())
            }
        })+
    };
}

items! {
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field,
}

impl ser::SerializeMap for Parts<'_> {
    type Ok = IsSet;
    type Error = HashError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), HashError> {
        self.item(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), HashError> {
        value.serialize(&mut *self.encoder).map(drop)
    }

    fn end(self) -> Result<IsSet, HashError> {
        Ok(self.finish())
    }
}

macro_rules! fields {
    ($($of:ident),+) => {
        $(impl ser::$of for Parts<'_> {
            type Ok = IsSet;
            type Error = HashError;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), HashError> {
                self.field(name, value)
            }

            fn end(self) -> Result<IsSet, HashError> {
                Ok(self.finish())
            }
        })+
    };
}

fields!(SerializeStruct, SerializeStructVariant);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::hash::ContentHash;

    #[derive(Serialize, Default)]
    struct Old {
        name: String,
        ports: Vec<u16>,
        limit: Option<u32>,
    }

    #[derive(Serialize, Default, Clone)]
    struct New {
        before: Option<String>,
        name: String,
        weight: u32,
        ports: Vec<u16>,
        inner: Inner,
        limit: Option<u32>,
        labels: BTreeMap<String, String>,
        is_open: bool,
    }

    #[derive(Serialize, Default, Clone)]
    struct Inner {
        text: String,
        choice: Option<Choice>,
    }

    #[derive(Serialize, Clone)]
    enum Choice {
        One,
        Two(u32),
    }

    fn hash(value: &(impl Serialize + ?Sized)) -> ContentHash {
        ContentHash::of(value).unwrap()
    }

    #[test]
    fn a_new_field_changes_no_hash_until_it_is_set() {
        let old = Old { name: "a".into(), ports: vec![80, 0], limit: Some(0) };
        let new = New { name: "a".into(), ports: vec![80, 0], limit: Some(0), ..New::default() };
        assert_eq!(hash(&old), hash(&new));
        let set = [
            New { before: Some(String::new()), ..new.clone() },
            New { weight: 1, ..new.clone() },
            New { inner: Inner { text: "x".into(), choice: None }, ..new.clone() },
            New { inner: Inner { text: String::new(), choice: Some(Choice::One) }, ..new.clone() },
            New { inner: Inner { text: String::new(), choice: Some(Choice::Two(0)) }, ..new.clone() },
            New { labels: [("a".into(), String::new())].into(), ..new.clone() },
            New { is_open: true, ..new.clone() },
            New { limit: None, ..new.clone() },
            New { ports: vec![80], ..new },
        ];
        let mut hashes: Vec<ContentHash> = set.iter().map(hash).chain([hash(&old)]).collect();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), set.len() + 1);
    }

    #[test]
    fn where_one_text_ends_and_the_next_begins_counts() {
        assert_ne!(hash(&vec!["ab", "c"]), hash(&vec!["a", "bc"]));
        assert_ne!(hash(&vec![vec!["a"], vec![]]), hash(&vec![vec![], vec!["a"]]));
        let long = "x".repeat(300);
        assert_ne!(hash(&long), hash(&long[..299]));
        assert_ne!(hash(&Some(0_u32)), hash(&None::<u32>));
    }
}
