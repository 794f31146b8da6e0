//! The mesh's Cedar schema: its published text, and the parsed form, made once.

use std::sync::OnceLock;

use cedar_policy::{Schema, Validator};

/// The schema's text: what policies may talk about. Published, so that hand-written policies can be checked by Cedar's own tools.
pub const SCHEMA: &str = include_str!("mesh.cedarschema");

/// The schema and its validator.
#[derive(Debug)]
pub(crate) struct MeshSchema {
    pub schema: Schema,
    pub validator: Validator,
}

/// The parsed schema.
///
/// # Errors
/// Never with the schema that a test has seen parse; a caller treats an error like a policy that does not validate.
pub(crate) fn mesh_schema() -> Result<&'static MeshSchema, String> {
    static PARSED: OnceLock<Result<MeshSchema, String>> = OnceLock::new();
    let parsed = PARSED.get_or_init(|| match Schema::from_cedarschema_str(SCHEMA) {
        Ok((schema, _)) => Ok(MeshSchema { validator: Validator::new(schema.clone()), schema }),
        Err(error) => Err(format!("the mesh's own schema does not parse: {error}")),
    });
    parsed.as_ref().map_err(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_parses_without_warnings() {
        let (schema, warnings) = Schema::from_cedarschema_str(SCHEMA).unwrap();
        assert_eq!(warnings.map(|w| w.to_string()).collect::<Vec<_>>(), Vec::<String>::new());
        assert_eq!(schema.actions().count(), 9);
        assert!(mesh_schema().is_ok());
    }

    #[test]
    fn the_published_schema_is_this_one() {
        let published = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/mesh.cedarschema");
        assert_eq!(std::fs::read_to_string(published).unwrap(), SCHEMA);
    }
}
