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
/// }
/// ```
/// A field whose type has no meaning for absence is required unless a default is given; `or_required` makes a list or map required too.
macro_rules! record {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$field_meta:meta])* $field:ident : $type:ty = $key:literal $([$($check:expr),* $(,)?])? $($how:ident $($default:expr)?)? ; )*
        }
        $(at_most_one $([$($alternative:literal),* $(,)?]),+ ;)?
        $(verify $verify:path ;)?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        pub struct $name {
            $( $(#[$field_meta])* #[serde(rename = $key)] pub $field: $type, )*
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
                        fields: &[$($crate::schema::FieldShape {
                            key: $key,
                            shape: <$type as $crate::schema::Decode>::shape,
                        }),*],
                    }
                })
            }
        }
    };
    (@default) => { $crate::schema::Absent::OfType };
    (@default or $default:expr) => { $crate::schema::Absent::Default($default) };
    (@default or_required) => { $crate::schema::Absent::Refused };
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
        }
    };
}

/// Alternatives of which at most one is written; the variant after `otherwise` stands for none.
macro_rules! one_of {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$variant_meta:meta])* $variant:ident($type:ty) = $key:literal, )*
        } otherwise {
            $(#[$none_meta:meta])* $none:ident,
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name {
            $( $(#[$variant_meta])* $variant($type), )*
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
                $crate::schema::Shape::Record(const {
                    &$crate::schema::RecordShape {
                        name: stringify!($name),
                        fields: &[$($crate::schema::FieldShape {
                            key: $key,
                            shape: <$type as $crate::schema::Decode>::shape,
                        }),*],
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
