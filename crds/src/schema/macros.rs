//! The declarations that kinds are written in.

/// An object with named fields.
///
/// ```text
/// record! {
///     pub struct Name {
///         field: Type = "key" [checks] or default;
///     }
///     at_most_one ["a", "b"];     // CRD `oneOf`: at most one of these keys
///     verify function;            // rules between fields: fn(&Name, &mut Cursor)
///     cel ["self.a < self.b", "a must be below b"];   // the same rules for the CRD, with what they say when broken
/// }
/// ```
/// A field whose type has no meaning for absence is required unless a default is given; `or_required` makes a list or map required too.
macro_rules! record {
    (
        $(#[doc = $doc:literal])*
        $(#[derive($($derive:ident),*)])?
        pub struct $name:ident {
            $( $(#[doc = $field_doc:literal])* $field:ident : $type:ty = $key:literal $([$($check:expr),* $(,)?])? $($how:ident $($default:expr)?)? ; )*
        }
        $(at_most_one $([$($alternative:literal),* $(,)?]),+ ;)?
        $(verify $verify:path ;)?
        $(cel $([$rule:literal, $message:literal]),+ ;)?
    ) => {
        $(#[doc = $doc])*
        $(#[derive($($derive),*)])?
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        pub struct $name {
            $( $(#[doc = $field_doc])* #[serde(rename = $key)] pub $field: $type, )*
        }

        impl $crate::schema::Decode for $name {
            fn decode(value: &serde_json::Value, cursor: &mut $crate::schema::Cursor<'_>) -> Option<Self> {
                const KEYS: &[&str] = &[$($key),*];
                let fields = cursor.object(value, KEYS)?;
                let _ = fields;
                $($( cursor.at_most_one(fields, &[$($alternative),*]); )+)?
                $( let $field = cursor.field::<$type>(fields, $key, const { &[$($($check),*)?] }, record!(@default $($how $($default)?)?)); )*
                let record = Self { $( $field: $field?, )* };
                $( $verify(&record, cursor); )?
                Some(record)
            }

            fn shape() -> $crate::schema::Shape {
                $crate::schema::Shape::Record(const {
                    &$crate::schema::RecordShape {
                        name: stringify!($name),
                        doc: &[$($doc),*],
                        fields: &[$($crate::schema::FieldShape {
                            key: $key,
                            doc: &[$($field_doc),*],
                            shape: <$type as $crate::schema::Decode>::shape,
                            checks: &[$($($check),*)?],
                            is_required: record!(@required $type, $($how)?),
                        }),*],
                        at_most_one: &[$($(&[$($alternative),*]),+)?],
                        rules: &[$($($crate::schema::CelRule { rule: $rule, message: $message }),+)?],
                    }
                })
            }
        }
    };
    (@default) => { $crate::schema::Absent::OfType };
    (@default or $default:expr) => { $crate::schema::Absent::Default($default) };
    (@default or_required) => { $crate::schema::Absent::Refused };
    (@required $type:ty, ) => { || <$type as $crate::schema::Decode>::absent().is_none() };
    (@required $type:ty, or) => { || false };
    (@required $type:ty, or_required) => { || true };
}

/// A text out of a fixed list.
macro_rules! choice {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        pub enum $name {
            $( $(#[$variant_meta])* #[serde(rename = $text)] $variant, )*
        }

        impl $name {
            /// The value as written in documents.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl $crate::schema::Decode for $name {
            fn decode(value: &serde_json::Value, cursor: &mut $crate::schema::Cursor<'_>) -> Option<Self> {
                let text = <String as $crate::schema::Decode>::decode(value, cursor)?;
                match text.as_str() {
                    $($text => Some(Self::$variant),)*
                    _ => {
                        cursor.unknown_value(&text, &[$($text),*]);
                        None
                    }
                }
            }

            fn shape() -> $crate::schema::Shape {
                $crate::schema::Shape::Leaf($crate::schema::Leaf::Choice(&[$($text),*]))
            }
        }
    };
}

/// Alternatives of which at most one is written; the variant after `otherwise` stands for none.
macro_rules! one_of {
    (
        $(#[doc = $doc:literal])*
        pub enum $name:ident {
            $( $(#[doc = $variant_doc:literal])* $variant:ident($type:ty) = $key:literal, )*
        } otherwise {
            $(#[$none_meta:meta])* $none:ident,
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name {
            $( $(#[doc = $variant_doc])* $variant($type), )*
            $(#[$none_meta])* $none,
        }

        impl $crate::schema::Decode for $name {
            fn decode(value: &serde_json::Value, cursor: &mut $crate::schema::Cursor<'_>) -> Option<Self> {
                const KEYS: &[&str] = &[$($key),*];
                let fields = cursor.object(value, KEYS)?;
                cursor.at_most_one(fields, KEYS);
                $(
                    if $crate::schema::is_present(fields, $key) {
                        return cursor.field::<$type>(fields, $key, &[], $crate::schema::Absent::OfType).map(Self::$variant);
                    }
                )*
                Some(Self::$none)
            }

            fn shape() -> $crate::schema::Shape {
                const KEYS: &[&str] = &[$($key),*];
                $crate::schema::Shape::Record(const {
                    &$crate::schema::RecordShape {
                        name: stringify!($name),
                        doc: &[$($doc),*],
                        fields: &[$($crate::schema::FieldShape {
                            key: $key,
                            doc: &[$($variant_doc),*],
                            shape: <$type as $crate::schema::Decode>::shape,
                            checks: &[],
                            is_required: || false,
                        }),*],
                        at_most_one: &[KEYS],
                        rules: &[],
                    }
                })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeMap as _;
                let mut map = serializer.serialize_map(None)?;
                match self {
                    $(Self::$variant(value) => map.serialize_entry($key, value)?,)*
                    Self::$none => {}
                }
                map.end()
            }
        }
    };
}
