//! Resolving: every reference bound or marked unresolved, conflicts decided. Later steps cannot fail on one.

pub(crate) mod authorization;
mod cedar;
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
mod service_entries;
pub(crate) mod services;
pub(crate) mod sidecars;
pub(crate) mod tokens;
pub(crate) mod virtual_services;
pub(crate) mod workloads;

use std::sync::Arc;

use palisade_model::{hash::HashError, resource::Entry};

use crate::{
    inputs::Inputs,
    reports::Reports,
    resolve::{
        authorization::Authorization, destination_rules::DestinationPolicies, gateway_api::GatewayApi, peers::Peers,
        providers::CustomPolicy, secrets::Secrets, services::Services, sidecars::Sidecars, tokens::TokenPolicies,
        virtual_services::VirtualServices, workloads::Workloads,
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
    pub(crate) services: Services,
    /// Pods and endpoints.
    pub(crate) workloads: Workloads,
    /// Sidecars.
    pub(crate) sidecars: Sidecars,
    /// Which names and addresses there are at all.
    pub(crate) membership: Result<Arc<Entry>, HashError>,
    /// DestinationRules.
    pub(crate) destinations: DestinationPolicies,
    /// VirtualServices.
    pub(crate) virtual_services: VirtualServices,
    /// PeerAuthentications.
    pub(crate) peers: Peers,
    /// Authorization.
    pub(crate) authorization: Authorization,
    /// CUSTOM policies.
    pub(crate) custom: Vec<CustomPolicy>,
    /// RequestAuthentications.
    pub(crate) tokens: TokenPolicies,
    /// Certificates.
    pub(crate) secrets: Secrets,
    /// Gateway API Gateways and routes.
    pub(crate) gateway_api: GatewayApi,
}

impl Resolved {
    /// Resolves all inputs.
    pub(crate) fn new(inputs: Arc<Inputs>, reports: &mut Reports) -> Self {
        let settings = inputs.settings.clone();
        let root = Arc::clone(&settings.root_namespace);
        let services = Services::new(&inputs, &settings);
        let workloads = Workloads::new(&inputs, &services, &settings);
        let sidecars = Sidecars::new(&inputs, Arc::clone(&root));
        let membership = membership::entry(&services, &workloads);
        let destinations =
            DestinationPolicies::new(Arc::clone(&root), conversions::destination_policies(&inputs, &settings, reports));
        let virtual_services = VirtualServices::new(inputs.virtual_services.values(), &settings);
        let peers = Peers::new(Arc::clone(&root), conversions::peer_policies(&inputs));
        let (of_cedar, egress) = cedar::restrictions(&inputs, reports);
        let mut restrictions = conversions::restrictions(&inputs, &settings, reports);
        restrictions.extend(of_cedar);
        let authorization = Authorization::new(root, restrictions, egress);
        let custom = providers::custom_policies(&inputs, &settings, reports);
        let tokens = TokenPolicies::new(&inputs, reports);
        let secrets = Secrets::new(&inputs);
        let gateway_api = GatewayApi::new(&inputs);
        Self {
            inputs,
            settings,
            services,
            workloads,
            sidecars,
            membership,
            destinations,
            virtual_services,
            peers,
            authorization,
            custom,
            tokens,
            secrets,
            gateway_api,
        }
    }
}
