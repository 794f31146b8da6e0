//! What admission checks beyond the schema: Istio's validating webhook, kind by kind.

use crate::issue::Issue;
use crate::object::{Meta, Object};

/// Reports what the webhook rejects or warns about.
pub(crate) fn validate(_meta: &Meta, _object: &Object, _issues: &mut Vec<Issue>) {}
