//! From documents to the mesh model: pure functions, the same bytes for the same inputs whatever the order of arrival.
//!
//! [`Inputs::new`] takes parsed documents; [`compile`] resolves them to a [`Mesh`] and [`Reports`], [`compile_after`] with what an earlier mesh already knows; [`scope`] cuts one proxy's
//! [`Snapshot`](palisade_model::snapshot::Snapshot) out of the mesh. [`plan()`] says what a mesh on one machine has to run.

mod checks;
mod hosts;
mod infrastructure;
pub mod inputs;
mod keys;
mod lower;
mod memo;
mod mesh;
mod object;
mod plan;
mod references;
mod reports;
mod resolve;
pub mod settings;
mod slice;
pub mod status;
mod time;

pub use infrastructure::{ExposedPort, Infrastructure, Overlays, Wanted, infrastructure, label_value as gateway_label};
pub use inputs::{GatewayKind, Inputs, KeptInputs, SourceDocument, SourceOptions};
pub use keys::{FetchedKeys, KeySource, Keys, key_sources, public_keys};
pub use mesh::{Compiled, Mesh, PROXY_LABEL, ProxyRef, ScopeError, compile, compile_after, scope};
pub use object::{Head, Location, Object, ObjectKey};
pub use plan::{GatewayPlan, Plan, PodPlan, plan};
pub use references::{Reference, ReferenceKind, references};
pub use reports::{Code, Condition, Diagnostic, ObjectName, Reports};
pub use settings::{ControlSettings, InvalidSetting, MeshSettings, Revisions};
pub use slice::{Slice, scope_after};
