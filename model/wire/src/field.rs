//! Conversion between model and message, field by field, and the errors of the way back.

/// A field of a message that does not mean anything in the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{path}`: {problem}")]
pub struct InvalidField {
    /// Path from the message's root, for example `backends[2].weight`.
    pub path: String,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It must be there.
    #[error("is missing")]
    Missing,
    /// An enumeration value that this version does not know, or the unspecified one.
    #[error("has the unknown value {0}")]
    UnknownValue(i32),
    /// A number outside the field's range.
    #[error("is out of range: {0}")]
    OutOfRange(u64),
    /// A text or bytes of another form.
    #[error("{0}")]
    Malformed(String),
    /// A set that names the same member twice.
    #[error("names a member twice")]
    Duplicate,
}

impl InvalidField {
    pub(crate) fn new(problem: Problem) -> Self {
        Self { path: String::new(), problem }
    }

    pub(crate) fn malformed(error: impl ToString) -> Self {
        Self::new(Problem::Malformed(error.to_string()))
    }

    /// The same error, seen from the message that holds the field.
    pub(crate) fn inside(mut self, field: &str) -> Self {
        self.path = match self.path.chars().next() {
            None => field.to_owned(),
            Some('[') => format!("{field}{}", self.path),
            Some(_) => format!("{field}.{}", self.path),
        };
        self
    }
}

/// A model type that travels as a message (or a scalar).
pub(crate) trait Wire: Sized {
    type Message;

    fn encode(&self) -> Self::Message;

    fn decode(message: Self::Message) -> Result<Self, InvalidField>;
}

/// The ways in which a field of the model maps to a field of a message: each is a pair, there and back.
#[expect(clippy::type_complexity, reason = "pairs of closures read better than a trait with a marker type per mapping")]
pub(crate) mod mapping {
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::Arc,
    };

    use super::{InvalidField, Problem, Wire, items};
    use crate::shared;

    /// A scalar that is the same on both sides.
    pub(crate) fn same<T: Clone>() -> (impl Fn(&T) -> T, impl Fn(T) -> Result<T, InvalidField>) {
        (T::clone, Ok)
    }

    /// A value that the message type holds directly.
    pub(crate) fn plain<T: Wire>() -> (impl Fn(&T) -> T::Message, impl Fn(T::Message) -> Result<T, InvalidField>) {
        (T::encode, T::decode)
    }

    /// A message that must be there.
    pub(crate) fn required<T: Wire>()
    -> (impl Fn(&T) -> Option<T::Message>, impl Fn(Option<T::Message>) -> Result<T, InvalidField>) {
        (
            |value: &T| Some(value.encode()),
            |message: Option<T::Message>| T::decode(message.ok_or(InvalidField::new(Problem::Missing))?),
        )
    }

    /// A message or scalar that may be absent.
    pub(crate) fn optional<T: Wire>()
    -> (impl Fn(&Option<T>) -> Option<T::Message>, impl Fn(Option<T::Message>) -> Result<Option<T>, InvalidField>) {
        (
            |value: &Option<T>| value.as_ref().map(T::encode),
            |message: Option<T::Message>| message.map(T::decode).transpose(),
        )
    }

    /// A message whose absence is the default.
    pub(crate) fn or_default<T: Wire + Default + PartialEq>()
    -> (impl Fn(&T) -> Option<T::Message>, impl Fn(Option<T::Message>) -> Result<T, InvalidField>) {
        (
            |value: &T| (*value != T::default()).then(|| value.encode()),
            |message: Option<T::Message>| message.map_or_else(|| Ok(T::default()), T::decode),
        )
    }

    /// A list in order.
    pub(crate) fn list<T: Wire>()
    -> (impl Fn(&Arc<[T]>) -> Vec<T::Message>, impl Fn(Vec<T::Message>) -> Result<Arc<[T]>, InvalidField>) {
        (
            |items: &Arc<[T]>| items.iter().map(T::encode).collect(),
            // All empty lists are one.
            |messages: Vec<T::Message>| if messages.is_empty() { Ok(Arc::default()) } else { items(messages) },
        )
    }

    /// A set; a repeated member is an error.
    pub(crate) fn set<T: Wire + Ord>()
    -> (impl Fn(&BTreeSet<T>) -> Vec<T::Message>, impl Fn(Vec<T::Message>) -> Result<BTreeSet<T>, InvalidField>) {
        (
            |members: &BTreeSet<T>| members.iter().map(T::encode).collect(),
            |messages: Vec<T::Message>| {
                let mut members = BTreeSet::new();
                for (index, message) in messages.into_iter().enumerate() {
                    let member = T::decode(message).map_err(|error| error.inside(&format!("[{index}]")))?;
                    if !members.insert(member) {
                        return Err(InvalidField::new(Problem::Duplicate).inside(&format!("[{index}]")));
                    }
                }
                Ok(members)
            },
        )
    }

    /// String labels.
    pub(crate) fn labels() -> (
        impl Fn(&BTreeMap<Arc<str>, Arc<str>>) -> BTreeMap<String, String>,
        impl Fn(BTreeMap<String, String>) -> Result<BTreeMap<Arc<str>, Arc<str>>, InvalidField>,
    ) {
        (
            |labels: &BTreeMap<Arc<str>, Arc<str>>| {
                labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
            },
            |labels: BTreeMap<String, String>| {
                Ok(labels.iter().map(|(name, value)| (shared::text(name), shared::text(value))).collect())
            },
        )
    }
}

/// Decodes every item of a list, in order.
pub(crate) fn items<T: Wire, C: FromIterator<T>>(messages: Vec<T::Message>) -> Result<C, InvalidField> {
    messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| T::decode(message).map_err(|error| error.inside(&format!("[{index}]"))))
        .collect()
}

/// Both directions of a struct, every field named on both sides: a new one does not compile until it is mapped.
macro_rules! wire_struct {
    ($model:ty => $message:path { $($field:ident: $mapping:ident),+ $(,)? }) => {
        impl crate::field::Wire for $model {
            type Message = $message;

            fn encode(&self) -> Self::Message {
                use $message as Message;
                let Self { $($field),+ } = self;
                Message { $($field: crate::field::mapping::$mapping().0($field)),+ }
            }

            fn decode(message: Self::Message) -> Result<Self, crate::field::InvalidField> {
                use $message as Message;
                let Message { $($field),+ } = message;
                Ok(Self {
                    $($field: crate::field::mapping::$mapping().1($field)
                        .map_err(|error| error.inside(stringify!($field)))?),+
                })
            }
        }
    };
}

/// Both directions of an enumeration without content. The unspecified and unknown values are errors.
macro_rules! wire_enum {
    ($model:ty => $message:path { $($variant:ident),+ $(,)? }) => {
        impl crate::field::Wire for $model {
            type Message = i32;

            fn encode(&self) -> i32 {
                use $message as Message;
                match self {
                    $(Self::$variant => Message::$variant.into()),+
                }
            }

            fn decode(value: i32) -> Result<Self, crate::field::InvalidField> {
                use $message as Message;
                match Message::try_from(value) {
                    $(Ok(Message::$variant) => Ok(Self::$variant),)+
                    Ok(Message::Unspecified) | Err(_) => Err(crate::field::InvalidField::new(
                        crate::field::Problem::UnknownValue(value),
                    )),
                }
            }
        }
    };
}

pub(crate) use {wire_enum, wire_struct};
