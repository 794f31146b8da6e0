//! Mirrors `palisade_model::policy`.

use palisade_model::policy::{DenyAll, Effect, Policy, PolicyMode, PolicySet};

use crate::{
    field::{wire_enum, wire_struct},
    proto::v1,
};

wire_enum!(Effect => v1::Effect { Permit, Forbid });
wire_enum!(PolicyMode => v1::PolicyMode { Enforce, Audit, Shadow });
wire_struct!(Policy => v1::Policy {
    id: plain,
    source: optional,
    rule: optional,
    effect: plain,
    mode: plain,
    cedar: plain,
    ir_version: same,
    ir: same,
});
wire_struct!(PolicySet => v1::PolicySet {
    key: plain,
    policies: list,
    deny_all: optional,
    has_authentication: same,
    has_external_authorization: same,
});
wire_struct!(DenyAll => v1::DenyAll { id: plain, source: optional, message: plain });
