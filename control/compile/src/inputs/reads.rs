//! What a step of compiling reads, by name: it sees nothing else, and its result is good for as long as that stays equal.

use crate::{inputs::Inputs, reports::Reports};

/// Names each input once. A new field of [`Inputs`] does not compile before it has its line here.
macro_rules! inputs {
    ($($(#[$doc:meta])* $input:ident: $field:ident,)*) => {
        /// The inputs, by name. The settings are read by everything.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Input {
            $($(#[$doc])* $input,)*
        }

        impl Inputs {
            /// These inputs and no others: what is not named is empty.
            pub(crate) fn only(&self, reads: &[&[Input]]) -> Self {
                fn pick<T: Clone + Default>(is_read: bool, value: &T) -> T {
                    if is_read { value.clone() } else { T::default() }
                }
                let reads = |input: Input| reads.iter().any(|list| list.contains(&input));
                let Self { settings, $($field,)* reports: _ } = self;
                Self {
                    settings: settings.clone(),
                    $($field: pick(reads(Input::$input), $field),)*
                    reports: Reports::default(),
                }
            }

            /// Whether both are equal, whatever was found in them.
            pub(crate) fn is_same(&self, other: &Self) -> bool {
                let Self { settings, $($field,)* reports: _ } = self;
                *settings == other.settings $(&& *$field == other.$field)*
            }
        }
    };
}

inputs! {
    /// Namespaces.
    Namespaces: namespaces,
    /// Labels of nodes.
    Nodes: nodes,
    /// Services.
    Services: services,
    /// EndpointSlices.
    EndpointSlices: endpoint_slices,
    /// Pods.
    Pods: pods,
    /// Secrets.
    Secrets: secrets,
    /// ConfigMaps.
    ConfigMaps: config_maps,
    /// GatewayClasses.
    GatewayClasses: gateway_classes,
    /// Gateway API Gateways.
    ApiGateways: api_gateways,
    /// HTTPRoutes.
    HttpRoutes: http_routes,
    /// ReferenceGrants.
    ReferenceGrants: reference_grants,
    /// Istio Gateways.
    Gateways: gateways,
    /// VirtualServices.
    VirtualServices: virtual_services,
    /// DestinationRules.
    DestinationRules: destination_rules,
    /// ServiceEntries.
    ServiceEntries: service_entries,
    /// WorkloadEntries.
    WorkloadEntries: workload_entries,
    /// Sidecars.
    Sidecars: sidecars,
    /// AuthorizationPolicies.
    AuthorizationPolicies: authorization_policies,
    /// PeerAuthentications.
    PeerAuthentications: peer_authentications,
    /// RequestAuthentications.
    RequestAuthentications: request_authentications,
    /// GRPCRoutes.
    GrpcRoutes: grpc_routes,
    /// TLSRoutes.
    TlsRoutes: tls_routes,
    /// TCPRoutes.
    TcpRoutes: tcp_routes,
    /// UDPRoutes.
    UdpRoutes: udp_routes,
    /// ListenerSets.
    ListenerSets: listener_sets,
    /// BackendTLSPolicies.
    BackendTlsPolicies: backend_tls_policies,
    /// CedarPolicies.
    CedarPolicies: cedar_policies,
    /// Security documents that were rejected.
    BrokenPolicies: broken_policies,
    /// Fetched keys of tokens.
    Keys: keys,
}

impl Inputs {
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
            udp_routes,
            listener_sets,
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
        udp_routes.adopt(&other.udp_routes);
        listener_sets.adopt(&other.listener_sets);
        backend_tls_policies.adopt(&other.backend_tls_policies);
        cedar_policies.adopt(&other.cedar_policies);
    }
}
