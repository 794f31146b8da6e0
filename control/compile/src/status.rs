//! What the status of each object should say: pure, from the compiled mesh, its reports, and what proxies have acknowledged.

mod addresses;
mod backend_tls;
mod cedar;
mod condition;
mod features;
mod gateway;
mod holds;
mod istio;
mod render;
mod route;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use palisade_model::{origin::Origin, settings::WorkloadRef};

pub use condition::{Acked, Acks, Concern, Condition, Truth};
pub use features::SUPPORTED_FEATURES;
pub use holds::{Holding, find, generations, holding};

use crate::{
    inputs::{CONTROLLER, GATEWAY_NAME_LABEL},
    mesh::{Mesh, PROXY_LABEL},
    object::ObjectKey,
    reports::{Diagnostic, ObjectName, Reports},
    settings::Revisions,
};

/// Name of the controller in statuses of the Gateway API.
pub const CONTROLLER_NAME: &str = CONTROLLER;

/// Entries that a list of ancestors may have (GEP-713).
const MAX_ANCESTORS: usize = 16;

/// What all statuses of a mesh should say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statuses {
    /// By object.
    pub objects: BTreeMap<ObjectName, Arc<ObjectStatus>>,
    /// Proxies that should be connected: those of pods that are ready.
    pub expected: Vec<ExpectedProxy>,
}

/// A proxy that should be connected.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpectedProxy {
    /// Its pod.
    pub pod: WorkloadRef,
    /// The Gateways of the Gateway API that it serves.
    pub gateways: Vec<ObjectKey>,
    /// The control plane that it is for, as the pod's label says.
    pub revision: Option<Arc<str>>,
}

/// What one object's status should say, apart from what proxies have acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectStatus {
    /// The object, at the generation that was compiled.
    pub origin: Origin,
    /// What there is to say.
    pub body: Body,
}

/// What there is to say, by the shape that the kind's status has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A GatewayClass.
    Class {
        /// `Accepted`, `SupportedVersion`.
        conditions: Vec<Condition>,
    },
    /// A Gateway of the Gateway API.
    Gateway(GatewayStatus),
    /// A route: our entries of `parents`.
    Route {
        /// One for each parent that is ours.
        parents: Vec<Attachment>,
        /// Which proxies it concerns.
        concern: Concern,
    },
    /// A BackendTLSPolicy: our entries of `ancestors`.
    Ancestors {
        /// One for each Gateway, else for each target.
        ancestors: Vec<Attachment>,
        /// Which proxies it concerns.
        concern: Concern,
    },
    /// Istio's kinds and our own: conditions of the object as a whole.
    Object(WholeStatus),
}

/// The status of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayStatus {
    /// `Accepted`, `ResolvedRefs`.
    pub conditions: Vec<Condition>,
    /// Why it cannot be programmed whatever proxies say.
    pub obstacle: Option<Condition>,
    /// `IPAddress` or `Hostname`, and the value.
    pub addresses: Vec<(&'static str, String)>,
    /// In document order.
    pub listeners: Vec<ListenerStatus>,
    /// The Gateway itself, as the one whose proxies are asked.
    pub key: ObjectKey,
}

/// The status of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Kinds of routes that it takes.
    pub kinds: Vec<&'static str>,
    /// Routes that are attached.
    pub attached_routes: u32,
    /// `Accepted`, `Conflicted`, `ResolvedRefs` and perhaps `OverlappingTLSConfig`.
    pub conditions: Vec<Condition>,
    /// It is served as far as documents go.
    pub is_valid: bool,
}

/// Our entry about one parent of a route, or one ancestor of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The parent or ancestor.
    pub reference: Reference,
    /// Conditions from documents.
    pub conditions: Vec<Condition>,
    /// Proxies are to enforce it there.
    pub is_accepted: bool,
}

/// An object that others refer to, as the Gateway API writes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace, where one is written.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Listener or port name.
    pub section_name: Option<String>,
    /// Port.
    pub port: Option<u16>,
}

/// The status of an object as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeStatus {
    /// `Accepted`.
    pub accepted: Condition,
    /// Findings, for `validationMessages`; `None` = the kind has none.
    pub messages: Option<Vec<Finding>>,
    /// Objects that it attaches to, for `ancestors`; `None` = the kind has none.
    pub ancestors: Option<Vec<Reference>>,
    /// Addresses that its hosts have been given, for `addresses`; empty for all kinds but ServiceEntry.
    pub addresses: Vec<(Arc<str>, IpAddr)>,
    /// It changes no answer.
    pub is_dry_run: bool,
    /// Which proxies it concerns; `None` = it becomes no resource of its own, nobody can say who enforces it.
    pub concern: Option<Concern>,
}

/// A finding as Istio's statuses have it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// `PLS…`.
    pub code: &'static str,
    /// `ERROR`, `WARNING` or `INFO`.
    pub level: &'static str,
    /// What is wrong.
    pub message: String,
}

/// What is known besides documents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusOptions {
    /// Version of the Gateway API's CRDs that are installed; `None` = not known.
    pub gateway_api_version: Option<String>,
    /// Gateways whose objects could not be made as they should be.
    pub troubles: Arc<BTreeMap<ObjectKey, Trouble>>,
}

/// Why the objects that run a Gateway are not as they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What its owner says about them is the reason.
    pub is_parameters: bool,
    /// For a person.
    pub message: String,
}

/// What all statuses should say.
pub fn statuses(mesh: &Mesh, reports: &Reports, options: &StatusOptions) -> Statuses {
    let resolved = mesh.resolved();
    let mut objects = BTreeMap::new();
    gateway::classes(resolved, options, &mut objects);
    gateway::gateways(resolved, options, &mut objects);
    route::routes(resolved, &mut objects);
    backend_tls::policies(resolved, &mut objects);
    let mut findings: BTreeMap<&ObjectName, Vec<&Diagnostic>> = BTreeMap::new();
    for diagnostic in reports.diagnostics() {
        findings.entry(&diagnostic.object).or_default().push(diagnostic);
    }
    istio::objects(resolved, reports, &findings, &mut objects);
    cedar::policies(resolved, reports, &findings, &mut objects);
    Statuses { objects, expected: expected(mesh) }
}

fn expected(mesh: &Mesh) -> Vec<ExpectedProxy> {
    let pods = mesh.inputs().pods.values().filter(|pod| pod.spec.is_ready && !pod.spec.is_gone);
    let proxies = pods.filter_map(|pod| {
        // Other controllers mark their pods in the same way: only Gateways of ours count.
        let is_gateway = mesh.is_gateway(pod);
        let served = || mesh.resolved().gateway_api.served().by(&pod.head.key.namespace, &pod.head.labels);
        let gateways = if is_gateway { served() } else { Vec::new() };
        // A pod that documents lead to may run another mesh's gateway, unless it says that it is ours.
        let says = pod.head.labels.get(PROXY_LABEL).is_some_and(|proxy| proxy == "gateway");
        let is_marked = says || pod.head.labels.contains_key(GATEWAY_NAME_LABEL) && !gateways.is_empty();
        let is_expected = is_marked || pod.spec.gateway.is_some() || (pod.spec.is_injected && pod.spec.is_palisade);
        let ObjectKey { namespace, name } = pod.head.key.clone();
        let revision = pod.head.labels.get(Revisions::LABEL).map(|label| label.as_str().into());
        is_expected.then_some(ExpectedProxy { pod: WorkloadRef { namespace, name }, gateways, revision })
    });
    proxies.collect()
}
