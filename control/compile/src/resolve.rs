//! Resolving: every reference bound or marked unresolved, conflicts decided. Later steps cannot fail on one.

pub(crate) mod authorization;
mod cedar;
pub(crate) mod check_cache;
pub(crate) mod conversions;
pub(crate) mod delegates;
pub(crate) mod destination_rules;
pub(crate) mod gateway_api;
pub(crate) mod gateways;
pub(crate) mod locality;
mod membership;
pub(crate) mod peers;
pub(crate) mod protocol;
pub(crate) mod providers;
pub(crate) mod secrets;
pub(crate) mod service_entries;
pub(crate) mod services;
pub(crate) mod sidecars;
mod stage;
pub(crate) mod tokens;
pub(crate) mod virtual_services;
pub(crate) mod workloads;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use palisade_model::{hash::HashError, resource::Entry};
use palisade_policy::CedarAdmission;

use crate::{
    inputs::{Input, Inputs},
    lower::shared::SharedEntries,
    memo::{self, Basis, Parts, Read},
    reports::Reports,
    resolve::{
        authorization::{Authorization, PolicyMemo},
        destination_rules::DestinationPolicies,
        gateway_api::GatewayApi,
        peers::Peers,
        providers::CustomPolicy,
        secrets::Secrets,
        services::Services,
        sidecars::Sidecars,
        stage::Stage,
        tokens::TokenPolicies,
        virtual_services::VirtualServices,
        workloads::Workloads,
    },
    settings::MeshSettings,
};

/// Everything that lowering looks things up in.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// What it was made from.
    pub(crate) inputs: Arc<Inputs>,
    /// Mesh-wide settings.
    pub(crate) settings: MeshSettings,
    /// The registry.
    pub(crate) services: Arc<Services>,
    /// Pods and endpoints.
    pub(crate) workloads: Arc<Workloads>,
    /// Sidecars.
    pub(crate) sidecars: Arc<Sidecars>,
    /// Which names and addresses there are at all; noted by [`Resolved::membership`].
    pub(crate) membership: Arc<Membership>,
    /// DestinationRules.
    pub(crate) destinations: Arc<DestinationPolicies>,
    /// VirtualServices.
    pub(crate) virtual_services: Arc<VirtualServices>,
    /// PeerAuthentications.
    pub(crate) peers: Arc<Peers>,
    /// Authorization.
    pub(crate) authorization: Arc<Authorization>,
    /// CUSTOM policies.
    pub(crate) custom: Arc<Vec<CustomPolicy>>,
    /// RequestAuthentications.
    pub(crate) tokens: Arc<TokenPolicies>,
    /// Certificates.
    pub(crate) secrets: Arc<Secrets>,
    /// Gateway API Gateways and routes.
    pub(crate) gateway_api: Arc<GatewayApi>,
    /// Entries that proxies have in common.
    pub(crate) shared: Arc<SharedEntries>,
    /// Parts that slices have in common.
    pub(crate) parts: Arc<Parts>,
    /// What changes seldom, all of it.
    pub(crate) basis: Arc<Basis>,
    /// No other mesh of this process has this number.
    pub(crate) serial: u64,
    stages: Stages,
}

/// Which names and addresses there are at all, as every sidecar is told.
type Membership = Result<Arc<Entry>, HashError>;

/// The steps, kept for the next time.
#[derive(Debug)]
struct Stages {
    services: Stage<Services>,
    workloads: Stage<Workloads>,
    sidecars: Stage<Sidecars>,
    membership: Stage<Membership>,
    destinations: Stage<DestinationPolicies>,
    virtual_services: Stage<VirtualServices>,
    peers: Stage<Peers>,
    admissions: Stage<Vec<CedarAdmission>>,
    authorization: Stage<Authorization>,
    custom: Stage<Vec<CustomPolicy>>,
    tokens: Stage<TokenPolicies>,
    secrets: Stage<Secrets>,
    gateway_api: Stage<GatewayApi>,
}

// What each step reads. A step sees nothing else: an input that is missing here is empty to it.
const SERVICES: &[Input] = &[Input::Services, Input::ServiceEntries];
const WORKLOADS: &[Input] = &[Input::EndpointSlices, Input::Pods, Input::WorkloadEntries, Input::Namespaces];
const SIDECARS: &[Input] = &[Input::Sidecars];
const DESTINATIONS: &[Input] = &[Input::DestinationRules];
const VIRTUAL_SERVICES: &[Input] = &[Input::VirtualServices];
const PEERS: &[Input] = &[Input::PeerAuthentications, Input::BrokenPolicies];
const AUTHORIZATION: &[Input] = &[Input::AuthorizationPolicies, Input::BrokenPolicies];
const CEDAR: &[Input] = &[Input::CedarPolicies];
const CEDAR_TARGETS: &[Input] = &[Input::Services];
const CUSTOM: &[Input] = &[Input::AuthorizationPolicies];
const TOKENS: &[Input] = &[Input::RequestAuthentications, Input::Keys, Input::BrokenPolicies];
const SECRETS: &[Input] = &[
    Input::Secrets,
    Input::ConfigMaps,
    // These name the roots that are gathered in bundles.
    Input::ApiGateways,
    Input::BackendTlsPolicies,
    Input::ReferenceGrants,
];
const GATEWAY_API: &[Input] = &[
    Input::ApiGateways,
    Input::GatewayClasses,
    Input::HttpRoutes,
    Input::GrpcRoutes,
    Input::TlsRoutes,
    Input::TcpRoutes,
    Input::UdpRoutes,
    Input::ListenerSets,
    Input::BackendTlsPolicies,
    Input::ServiceEntries,
    Input::ReferenceGrants,
    Input::Namespaces,
    Input::Services,
    Input::Secrets,
    Input::ConfigMaps,
];

impl Resolved {
    /// Resolves all inputs. Steps whose inputs are equal to those of `previous` are taken over from it: the result is the same
    /// without it.
    pub(crate) fn after(previous: Option<&Self>, inputs: Arc<Inputs>, reports: &mut Reports) -> Self {
        let settings = inputs.settings.clone();
        let root = &settings.root_namespace;
        let held = previous.map(|previous| &previous.stages);
        let services = Stage::of(held.map(|h| &h.services), &inputs, &[SERVICES], reports, |inputs, _| {
            Services::new(inputs, &settings)
        });
        let peers = Stage::of(held.map(|h| &h.peers), &inputs, &[PEERS], reports, |inputs, _| {
            Peers::new(Arc::clone(root), conversions::peer_policies(inputs))
        });
        let endpoints: &[&[Input]] = &[SERVICES, WORKLOADS, PEERS];
        let workloads = Stage::of(held.map(|h| &h.workloads), &inputs, endpoints, reports, |inputs, _| {
            let before = held.map(|held| (held.workloads.value(), held.workloads.seen()));
            let before = before.as_ref().map(|(workloads, seen)| (&**workloads, *seen));
            Workloads::after(before, inputs, &services.value(), &peers.value(), &settings)
        });
        let membership = Stage::of(held.map(|h| &h.membership), &inputs, endpoints, reports, |_, _| {
            let before = held.filter(|held| {
                let before = (&*held.services.value(), &*held.workloads.value());
                membership::holds(before, (&services.value(), &workloads.value()))
            });
            match before {
                Some(held) => (*held.membership.value()).clone(),
                None => membership::entry(&services.value(), &workloads.value()),
            }
        });
        let sidecars = Stage::of(held.map(|h| &h.sidecars), &inputs, &[SIDECARS], reports, |inputs, _| {
            Sidecars::new(inputs, Arc::clone(root))
        });
        let destinations = Stage::of(held.map(|h| &h.destinations), &inputs, &[DESTINATIONS], reports, |inputs, _| {
            DestinationPolicies::new(Arc::clone(root), conversions::destination_policies(inputs, &settings))
        });
        let virtual_services =
            Stage::of(held.map(|h| &h.virtual_services), &inputs, &[VIRTUAL_SERVICES], reports, |inputs, _| {
                VirtualServices::new(inputs.virtual_services.values(), &settings)
            });
        let admissions = Stage::of(held.map(|h| &h.admissions), &inputs, &[CEDAR], reports, |inputs, reports| {
            cedar::admissions(inputs, reports)
        });
        let remembered = held.map(|h| h.authorization.value());
        let authorization = Stage::of(
            held.map(|h| &h.authorization),
            &inputs,
            &[AUTHORIZATION, CEDAR, CEDAR_TARGETS],
            reports,
            |inputs, reports| {
                let (of_cedar, egress) = cedar::restrictions(inputs, &admissions.value(), reports);
                // What AuthorizationPolicies become does not depend on what Cedar policies are aimed at.
                let inputs = &inputs.only(&[AUTHORIZATION]);
                let mut memo = PolicyMemo::after(remembered.as_deref().map(Authorization::memo), inputs);
                let mut restrictions = conversions::restrictions(inputs, &settings, reports, &mut memo);
                restrictions.extend(of_cedar);
                Authorization::new(&settings, restrictions, egress, memo.finish())
            },
        );
        let custom = Stage::of(held.map(|h| &h.custom), &inputs, &[CUSTOM], reports, |inputs, reports| {
            providers::custom_policies(inputs, &settings, reports)
        });
        let tokens = Stage::of(held.map(|h| &h.tokens), &inputs, &[TOKENS], reports, |inputs, reports| {
            TokenPolicies::new(inputs, reports)
        });
        let secrets =
            Stage::of(held.map(|h| &h.secrets), &inputs, &[SECRETS], reports, |inputs, _| Secrets::new(inputs));
        let gateway_api = Stage::of(held.map(|h| &h.gateway_api), &inputs, &[GATEWAY_API], reports, |inputs, _| {
            GatewayApi::after(held.map(|held| held.gateway_api.value()).as_deref(), inputs)
        });
        let basis = Basis::after(previous.map(|previous| &previous.basis), &inputs, &custom.value());
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let stages = Stages {
            services,
            workloads,
            sidecars,
            membership,
            destinations,
            virtual_services,
            peers,
            admissions,
            authorization,
            custom,
            tokens,
            secrets,
            gateway_api,
        };
        Self {
            services: stages.services.value(),
            workloads: stages.workloads.value(),
            sidecars: stages.sidecars.value(),
            membership: stages.membership.value(),
            destinations: stages.destinations.value(),
            virtual_services: stages.virtual_services.value(),
            peers: stages.peers.value(),
            authorization: stages.authorization.value(),
            custom: stages.custom.value(),
            tokens: stages.tokens.value(),
            secrets: stages.secrets.value(),
            gateway_api: stages.gateway_api.value(),
            shared: previous.map(|previous| Arc::clone(&previous.shared)).unwrap_or_default(),
            parts: previous.map(|previous| Arc::clone(&previous.parts)).unwrap_or_default(),
            basis,
            serial: NEXT.fetch_add(1, Ordering::Relaxed),
            inputs,
            settings,
            stages,
        }
    }

    /// Which names and addresses there are at all.
    pub(crate) fn membership(&self) -> &Membership {
        memo::note(|| Read::Membership);
        &self.membership
    }

    /// How many steps both share.
    pub(crate) fn shares_with(&self, other: &Self) -> usize {
        let shared = [
            Arc::ptr_eq(&self.services, &other.services),
            Arc::ptr_eq(&self.workloads, &other.workloads),
            Arc::ptr_eq(&self.sidecars, &other.sidecars),
            Arc::ptr_eq(&self.destinations, &other.destinations),
            Arc::ptr_eq(&self.virtual_services, &other.virtual_services),
            Arc::ptr_eq(&self.peers, &other.peers),
            Arc::ptr_eq(&self.authorization, &other.authorization),
            Arc::ptr_eq(&self.custom, &other.custom),
            Arc::ptr_eq(&self.tokens, &other.tokens),
            Arc::ptr_eq(&self.secrets, &other.secrets),
            Arc::ptr_eq(&self.gateway_api, &other.gateway_api),
        ];
        shared.into_iter().filter(|is_shared| *is_shared).count()
    }
}
