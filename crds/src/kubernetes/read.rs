//! Reading of Kubernetes' kinds through their generated types.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::codes::Code;
use crate::issue::Issue;
use crate::path::{Path, Segment};

/// Reads a whole object. Unknown fields are reported; the first wrong type ends it.
pub(crate) fn read<T: DeserializeOwned>(value: &Value, issues: &mut Vec<Issue>) -> Option<T> {
    let mut track = serde_path_to_error::Track::new();
    let mut ignored = Vec::new();
    let read: Result<T, serde_json::Error> =
        serde_ignored::deserialize(serde_path_to_error::Deserializer::new(value, &mut track), |path| {
            ignored.push(ignored_path(&path))
        });
    for path in ignored {
        let name = path.segments().last().map(|segment| match segment {
            Segment::Key(key) => key.clone(),
            Segment::Index(index) => index.to_string(),
        });
        issues.push(Issue::new(
            Code::UnknownField,
            path,
            format!("unknown field `{}` is ignored", name.unwrap_or_default()),
        ));
    }
    match read {
        Ok(object) => Some(object),
        Err(error) => {
            issues.push(Issue::new(Code::WrongType, error_path(&track.path()), error.to_string()));
            None
        }
    }
}

fn ignored_path(path: &serde_ignored::Path<'_>) -> Path {
    use serde_ignored::Path as Ignored;
    match path {
        Ignored::Root => Path::root(),
        Ignored::Seq { parent, index } => ignored_path(parent).join(*index),
        Ignored::Map { parent, key } => ignored_path(parent).join(key.as_str()),
        Ignored::Some { parent } | Ignored::NewtypeStruct { parent } | Ignored::NewtypeVariant { parent } => {
            ignored_path(parent)
        }
    }
}

fn error_path(path: &serde_path_to_error::Path) -> Path {
    use serde_path_to_error::Segment as Tracked;
    let mut place = Path::root();
    for segment in path {
        match segment {
            Tracked::Seq { index } => place.push(*index),
            Tracked::Map { key } => place.push(key.as_str()),
            Tracked::Enum { variant } => place.push(variant.as_str()),
            Tracked::Unknown => {}
        }
    }
    place
}
