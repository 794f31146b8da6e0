//! What a step of compiling reads, by name: it sees nothing else, and its result is good for as long as that stays equal.

use crate::{inputs::Inputs, reports::Reports};

/// The inputs, by name. The settings are read by everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// Namespaces.
    Namespaces,
    /// Services.
    Services,
    /// EndpointSlices.
    EndpointSlices,
    /// Pods.
    Pods,
    /// Secrets.
    Secrets,
    /// ConfigMaps.
    ConfigMaps,
    /// GatewayClasses.
    GatewayClasses,
    /// Gateway API Gateways.
    ApiGateways,
    /// HTTPRoutes.
    HttpRoutes,
    /// ReferenceGrants.
    ReferenceGrants,
    /// Istio Gateways.
    Gateways,
    /// VirtualServices.
    VirtualServices,
    /// DestinationRules.
    DestinationRules,
    /// ServiceEntries.
    ServiceEntries,
    /// WorkloadEntries.
    WorkloadEntries,
    /// Sidecars.
    Sidecars,
    /// AuthorizationPolicies.
    AuthorizationPolicies,
    /// PeerAuthentications.
    PeerAuthentications,
    /// RequestAuthentications.
    RequestAuthentications,
    /// GRPCRoutes.
    GrpcRoutes,
    /// TLSRoutes.
    TlsRoutes,
    /// TCPRoutes.
    TcpRoutes,
    /// BackendTLSPolicies.
    BackendTlsPolicies,
    /// CedarPolicies.
    CedarPolicies,
    /// Labels of nodes.
    Nodes,
    /// Security documents that were rejected.
    BrokenPolicies,
    /// Fetched keys of tokens.
    Keys,
}

impl Inputs {
    /// These inputs and no others: what is not named is empty.
    ///
    /// Every field is named, so that a new one does not compile before it is one of [`Input`].
    pub(crate) fn only(&self, reads: &[&[Input]]) -> Self {
        fn pick<T: Clone + Default>(is_read: bool, value: &T) -> T {
            if is_read { value.clone() } else { T::default() }
        }
        let reads = |input: Input| reads.iter().any(|list| list.contains(&input));
        let Self {
            settings,
            namespaces,
            nodes,
            services,
            endpoint_slices,
            pods,
            secrets,
            config_maps,
            gateway_classes,
            api_gateways,
            http_routes,
            reference_grants,
            gateways,
            virtual_services,
            destination_rules,
            service_entries,
            workload_entries,
            sidecars,
            authorization_policies,
            peer_authentications,
            request_authentications,
            grpc_routes,
            tls_routes,
            tcp_routes,
            backend_tls_policies,
            cedar_policies,
            broken_policies,
            keys,
            reports: _,
        } = self;
        Self {
            settings: settings.clone(),
            namespaces: pick(reads(Input::Namespaces), namespaces),
            nodes: pick(reads(Input::Nodes), nodes),
            services: pick(reads(Input::Services), services),
            endpoint_slices: pick(reads(Input::EndpointSlices), endpoint_slices),
            pods: pick(reads(Input::Pods), pods),
            secrets: pick(reads(Input::Secrets), secrets),
            config_maps: pick(reads(Input::ConfigMaps), config_maps),
            gateway_classes: pick(reads(Input::GatewayClasses), gateway_classes),
            api_gateways: pick(reads(Input::ApiGateways), api_gateways),
            http_routes: pick(reads(Input::HttpRoutes), http_routes),
            reference_grants: pick(reads(Input::ReferenceGrants), reference_grants),
            gateways: pick(reads(Input::Gateways), gateways),
            virtual_services: pick(reads(Input::VirtualServices), virtual_services),
            destination_rules: pick(reads(Input::DestinationRules), destination_rules),
            service_entries: pick(reads(Input::ServiceEntries), service_entries),
            workload_entries: pick(reads(Input::WorkloadEntries), workload_entries),
            sidecars: pick(reads(Input::Sidecars), sidecars),
            authorization_policies: pick(reads(Input::AuthorizationPolicies), authorization_policies),
            peer_authentications: pick(reads(Input::PeerAuthentications), peer_authentications),
            request_authentications: pick(reads(Input::RequestAuthentications), request_authentications),
            grpc_routes: pick(reads(Input::GrpcRoutes), grpc_routes),
            tls_routes: pick(reads(Input::TlsRoutes), tls_routes),
            tcp_routes: pick(reads(Input::TcpRoutes), tcp_routes),
            backend_tls_policies: pick(reads(Input::BackendTlsPolicies), backend_tls_policies),
            cedar_policies: pick(reads(Input::CedarPolicies), cedar_policies),
            broken_policies: pick(reads(Input::BrokenPolicies), broken_policies),
            keys: pick(reads(Input::Keys), keys),
            reports: Reports::default(),
        }
    }

    /// Whether both are equal, whatever was found in them.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let Self {
            settings,
            namespaces,
            nodes,
            services,
            endpoint_slices,
            pods,
            secrets,
            config_maps,
            gateway_classes,
            api_gateways,
            http_routes,
            reference_grants,
            gateways,
            virtual_services,
            destination_rules,
            service_entries,
            workload_entries,
            sidecars,
            authorization_policies,
            peer_authentications,
            request_authentications,
            grpc_routes,
            tls_routes,
            tcp_routes,
            backend_tls_policies,
            cedar_policies,
            broken_policies,
            keys,
            reports: _,
        } = self;
        *settings == other.settings
            && *namespaces == other.namespaces
            && *nodes == other.nodes
            && *services == other.services
            && *endpoint_slices == other.endpoint_slices
            && *pods == other.pods
            && *secrets == other.secrets
            && *config_maps == other.config_maps
            && *gateway_classes == other.gateway_classes
            && *api_gateways == other.api_gateways
            && *http_routes == other.http_routes
            && *reference_grants == other.reference_grants
            && *gateways == other.gateways
            && *virtual_services == other.virtual_services
            && *destination_rules == other.destination_rules
            && *service_entries == other.service_entries
            && *workload_entries == other.workload_entries
            && *sidecars == other.sidecars
            && *authorization_policies == other.authorization_policies
            && *peer_authentications == other.peer_authentications
            && *request_authentications == other.request_authentications
            && *grpc_routes == other.grpc_routes
            && *tls_routes == other.tls_routes
            && *tcp_routes == other.tcp_routes
            && *backend_tls_policies == other.backend_tls_policies
            && *cedar_policies == other.cedar_policies
            && *broken_policies == other.broken_policies
            && *keys == other.keys
    }

    /// Shares with other inputs what is equal in both. One comparison of everything, so that later ones cost nothing.
    pub(crate) fn adopt(&mut self, other: &Self) {
        let Self {
            settings: _,
            namespaces: _,
            nodes: _,
            services,
            endpoint_slices,
            pods,
            secrets,
            config_maps,
            gateway_classes,
            api_gateways,
            http_routes,
            reference_grants,
            gateways,
            virtual_services,
            destination_rules,
            service_entries,
            workload_entries,
            sidecars,
            authorization_policies,
            peer_authentications,
            request_authentications,
            grpc_routes,
            tls_routes,
            tcp_routes,
            backend_tls_policies,
            cedar_policies,
            broken_policies: _,
            keys: _,
            reports: _,
        } = self;
        services.adopt(&other.services);
        endpoint_slices.adopt(&other.endpoint_slices);
        pods.adopt(&other.pods);
        secrets.adopt(&other.secrets);
        config_maps.adopt(&other.config_maps);
        gateway_classes.adopt(&other.gateway_classes);
        api_gateways.adopt(&other.api_gateways);
        http_routes.adopt(&other.http_routes);
        reference_grants.adopt(&other.reference_grants);
        gateways.adopt(&other.gateways);
        virtual_services.adopt(&other.virtual_services);
        destination_rules.adopt(&other.destination_rules);
        service_entries.adopt(&other.service_entries);
        workload_entries.adopt(&other.workload_entries);
        sidecars.adopt(&other.sidecars);
        authorization_policies.adopt(&other.authorization_policies);
        peer_authentications.adopt(&other.peer_authentications);
        request_authentications.adopt(&other.request_authentications);
        grpc_routes.adopt(&other.grpc_routes);
        tls_routes.adopt(&other.tls_routes);
        tcp_routes.adopt(&other.tcp_routes);
        backend_tls_policies.adopt(&other.backend_tls_policies);
        cedar_policies.adopt(&other.cedar_policies);
    }
}
