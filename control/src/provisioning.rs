//! What runs the Gateways of a cluster: Deployments, Services and what goes with them, made in each Gateway's namespace, kept as
//! documents want them, and removed. Only the leader writes.

mod classes;
mod held;
mod objects;
mod overlay;
mod pod;
mod provisioner;
mod reconcile;
mod settings;

use std::{collections::BTreeMap, sync::Arc};

use palisade_compile::{ObjectKey, status::Trouble};

pub use provisioner::Provisioner;
pub(crate) use settings::DEFAULT_IMAGE;
pub use settings::{GatewaySettings, Provisioning};

use crate::injection::InjectionSettings;

/// Gateways whose objects are not as they should be, and why.
pub type Troubles = Arc<BTreeMap<ObjectKey, Trouble>>;

/// What the objects are made by.
#[derive(Debug, Clone)]
pub struct GatewayObjects {
    /// What gateways are given.
    pub gateways: GatewaySettings,
    /// Where proxies find the control plane.
    pub injection: InjectionSettings,
    /// Class `istio` is served too.
    pub istio_classes: bool,
}
