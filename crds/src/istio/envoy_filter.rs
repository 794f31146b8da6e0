//! EnvoyFilter: changes to Envoy's own configuration. <https://istio.io/latest/docs/reference/config/networking/envoy-filter/>

use std::collections::BTreeMap;

use serde_json::Value;

use super::{LabelSelector, PolicyTargetReference};
use crate::codes::Code;
use crate::schema::Check::{Items, Range};
use crate::schema::Cursor;

record! {
    /// The spec of an EnvoyFilter.
    pub struct EnvoyFilter {
        /// Workloads it applies to.
        workload_selector: Option<LabelSelector> = "workloadSelector";
        /// Objects it applies to.
        target_refs: Vec<PolicyTargetReference> = "targetRefs" [Items(0, 16)];
        /// The changes.
        config_patches: Vec<ConfigPatch> = "configPatches";
        /// Order among EnvoyFilters.
        priority: i32 = "priority" or 0;
    }
    at_most_one ["workloadSelector", "targetRefs"];
}

record! {
    /// One change.
    pub struct ConfigPatch {
        /// What is changed.
        apply_to: ApplyTo = "applyTo" or ApplyTo::Invalid;
        /// Where.
        r#match: Option<ConfigMatch> = "match";
        /// How.
        patch: Option<Patch> = "patch";
    }
}

choice! {
    /// What is changed.
    pub enum ApplyTo {
        /// Nothing.
        Invalid = "INVALID",
        /// Listeners.
        Listener = "LISTENER",
        /// Filter chains.
        FilterChain = "FILTER_CHAIN",
        /// Network filters.
        NetworkFilter = "NETWORK_FILTER",
        /// HTTP filters.
        HttpFilter = "HTTP_FILTER",
        /// Route configurations.
        RouteConfiguration = "ROUTE_CONFIGURATION",
        /// Virtual hosts.
        VirtualHost = "VIRTUAL_HOST",
        /// Routes.
        HttpRoute = "HTTP_ROUTE",
        /// Clusters.
        Cluster = "CLUSTER",
        /// Extension configurations.
        ExtensionConfig = "EXTENSION_CONFIG",
        /// The bootstrap configuration.
        Bootstrap = "BOOTSTRAP",
        /// Listener filters.
        ListenerFilter = "LISTENER_FILTER",
    }
}

choice! {
    /// Which proxies and directions.
    pub enum PatchContext {
        /// All but waypoints.
        Any = "ANY",
        /// Sidecars, inbound.
        SidecarInbound = "SIDECAR_INBOUND",
        /// Sidecars, outbound.
        SidecarOutbound = "SIDECAR_OUTBOUND",
        /// Gateways.
        Gateway = "GATEWAY",
        /// Waypoints.
        Waypoint = "WAYPOINT",
    }
}

record! {
    /// Where a change is made.
    pub struct ConfigMatch {
        /// Which proxies and directions.
        context: Option<PatchContext> = "context";
        /// Properties of the proxy.
        proxy: Option<ProxyMatch> = "proxy";
        /// Listeners.
        listener: Option<ListenerMatch> = "listener";
        /// Route configurations.
        route_configuration: Option<RouteConfigurationMatch> = "routeConfiguration";
        /// Clusters.
        cluster: Option<ClusterMatch> = "cluster";
        /// Waypoints.
        waypoint: Option<WaypointMatch> = "waypoint";
    }
    at_most_one ["listener", "routeConfiguration", "cluster", "waypoint"];
    verify waypoint_fits_context;
    cel ["(has(self.context) && self.context == 'WAYPOINT') == has(self.waypoint)", "`waypoint` goes with the context WAYPOINT alone"];
}

fn waypoint_fits_context(matched: &ConfigMatch, cursor: &mut Cursor<'_>) {
    if (matched.context == Some(PatchContext::Waypoint)) != matched.waypoint.is_some() {
        cursor.report_at("waypoint", Code::InvalidCombination, "`waypoint` goes with the context WAYPOINT alone");
    }
}

record! {
    /// Properties of the proxy.
    pub struct ProxyMatch {
        /// A regular expression for its version.
        proxy_version: String = "proxyVersion" or String::new();
        /// Metadata.
        metadata: BTreeMap<String, String> = "metadata";
    }
}

record! {
    /// Which listeners.
    pub struct ListenerMatch {
        /// Port.
        port_number: Option<u32> = "portNumber";
        /// Name of the port.
        port_name: Option<String> = "portName";
        /// Filter chains.
        filter_chain: Option<FilterChainMatch> = "filterChain";
        /// Listener filters.
        listener_filter: Option<String> = "listenerFilter";
        /// Name.
        name: Option<String> = "name";
    }
}

record! {
    /// Which filter chains.
    pub struct FilterChainMatch {
        /// Name.
        name: Option<String> = "name";
        /// Server name.
        sni: Option<String> = "sni";
        /// Transport protocol.
        transport_protocol: Option<String> = "transportProtocol";
        /// Application protocols.
        application_protocols: Option<String> = "applicationProtocols";
        /// Filters.
        filter: Option<FilterMatch> = "filter";
        /// Port.
        destination_port: Option<u32> = "destinationPort";
        /// Transport socket.
        transport_socket: Option<String> = "transportSocket";
    }
}

record! {
    /// Which filters.
    pub struct FilterMatch {
        /// Name.
        name: String = "name" or String::new();
        /// A filter inside of it.
        sub_filter: Option<SubFilterMatch> = "subFilter";
    }
}

record! {
    /// Which filter inside another.
    pub struct SubFilterMatch {
        /// Name.
        name: String = "name" or String::new();
    }
}

record! {
    /// Which route configurations.
    pub struct RouteConfigurationMatch {
        /// Port.
        port_number: Option<u32> = "portNumber";
        /// Name of the port.
        port_name: Option<String> = "portName";
        /// Istio Gateway.
        gateway: Option<String> = "gateway";
        /// Virtual hosts.
        vhost: Option<VirtualHostMatch> = "vhost";
        /// Name.
        name: Option<String> = "name";
    }
}

record! {
    /// Which virtual hosts.
    pub struct VirtualHostMatch {
        /// Name.
        name: Option<String> = "name";
        /// Domain.
        domain_name: Option<String> = "domainName";
        /// Routes.
        route: Option<RouteMatch> = "route";
    }
}

record! {
    /// Which routes.
    pub struct RouteMatch {
        /// Name.
        name: Option<String> = "name";
        /// What they do.
        action: Option<RouteAction> = "action";
    }
}

choice! {
    /// What a route does.
    pub enum RouteAction {
        /// Anything.
        Any = "ANY",
        /// Forward.
        Route = "ROUTE",
        /// Redirect.
        Redirect = "REDIRECT",
        /// Answer.
        DirectResponse = "DIRECT_RESPONSE",
    }
}

record! {
    /// Which clusters.
    pub struct ClusterMatch {
        /// Port.
        port_number: Option<u32> = "portNumber";
        /// Host.
        service: Option<String> = "service";
        /// Subset.
        subset: Option<String> = "subset";
        /// Name.
        name: Option<String> = "name";
    }
}

record! {
    /// Where in a waypoint.
    pub struct WaypointMatch {
        /// Port.
        port_number: Option<u32> = "portNumber" [Range(1, 65535)];
        /// Filters.
        filter: Option<FilterMatch> = "filter";
        /// Routes.
        route: Option<WaypointRouteMatch> = "route";
    }
}

record! {
    /// Which routes of a waypoint.
    pub struct WaypointRouteMatch {
        /// Name.
        name: Option<String> = "name";
    }
}

record! {
    /// How something is changed.
    pub struct Patch {
        /// What is done.
        operation: PatchOperation = "operation" or PatchOperation::Invalid;
        /// With what: a piece of Envoy's configuration, which is not looked into.
        value: Option<BTreeMap<String, Value>> = "value";
        /// Where an inserted filter stands.
        filter_class: Option<FilterClass> = "filterClass";
    }
}

choice! {
    /// What is done.
    pub enum PatchOperation {
        /// Nothing.
        Invalid = "INVALID",
        /// Merge.
        Merge = "MERGE",
        /// Add.
        Add = "ADD",
        /// Remove.
        Remove = "REMOVE",
        /// Insert before the match.
        InsertBefore = "INSERT_BEFORE",
        /// Insert after the match.
        InsertAfter = "INSERT_AFTER",
        /// Insert as the first.
        InsertFirst = "INSERT_FIRST",
        /// Replace.
        Replace = "REPLACE",
        /// Merge, but replace lists.
        MergeAndReplaceList = "MERGE_AND_REPLACE_LIST",
    }
}

choice! {
    /// Where an inserted filter stands.
    pub enum FilterClass {
        /// Default.
        Unspecified = "UNSPECIFIED",
        /// Before authentication.
        Authn = "AUTHN",
        /// Before authorization.
        Authz = "AUTHZ",
        /// Before statistics.
        Stats = "STATS",
    }
}
