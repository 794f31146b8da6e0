//! Sidecar: what the sidecars of a workload take in and see. <https://istio.io/latest/docs/reference/config/networking/sidecar/>

use super::{ConnectionPoolSettings, Destination, LabelSelector, ServerTlsSettings};

record! {
    /// The spec of a Sidecar. Exactly one applies to a workload.
    pub struct Sidecar {
        /// Which workloads; absent is the namespace, or the mesh in the root namespace.
        workload_selector: Option<LabelSelector> = "workloadSelector";
        /// Inbound listeners; absent derives them from Services.
        ingress: Option<Vec<IstioIngressListener>> = "ingress";
        /// Outbound listeners and what they see; absent is everything.
        egress: Option<Vec<IstioEgressListener>> = "egress";
        /// Limits of inbound connections.
        inbound_connection_pool: Option<ConnectionPoolSettings> = "inboundConnectionPool";
        /// Traffic to unknown hosts; absent is the mesh's.
        outbound_traffic_policy: Option<OutboundTrafficPolicy> = "outboundTrafficPolicy";
    }
}

record! {
    /// One inbound listener.
    pub struct IstioIngressListener {
        /// Where it listens.
        port: SidecarPort = "port";
        /// Address to bind; empty is the pod's.
        bind: String = "bind" or String::new();
        /// How traffic gets there.
        capture_mode: CaptureMode = "captureMode" or CaptureMode::Default;
        /// Where the application listens; empty is the same port.
        default_endpoint: String = "defaultEndpoint" or String::new();
        /// TLS on this port.
        tls: Option<ServerTlsSettings> = "tls";
        /// Limits of connections.
        connection_pool: Option<ConnectionPoolSettings> = "connectionPool";
    }
}

record! {
    /// One outbound listener.
    pub struct IstioEgressListener {
        /// Where it listens; absent is every port.
        port: Option<SidecarPort> = "port";
        /// Address to bind, or `unix://` path.
        bind: String = "bind" or String::new();
        /// How traffic gets there.
        capture_mode: CaptureMode = "captureMode" or CaptureMode::Default;
        /// `namespace/host` of what is seen.
        hosts: Vec<String> = "hosts" or_required;
    }
}

record! {
    /// A port of a Sidecar listener.
    pub struct SidecarPort {
        /// 0 is unset.
        number: u32 = "number" or 0;
        /// Protocol; empty is detected.
        protocol: String = "protocol" or String::new();
        /// A name.
        name: String = "name" or String::new();
        /// Without effect.
        target_port: u32 = "targetPort" or 0;
    }
}

choice! {
    /// How traffic gets to a listener.
    pub enum CaptureMode {
        /// The workload's setting.
        Default = "DEFAULT",
        /// By redirection.
        Iptables = "IPTABLES",
        /// The application dials it.
        None = "NONE",
    }
}

record! {
    /// Traffic to unknown hosts.
    pub struct OutboundTrafficPolicy {
        /// Absent is REGISTRY_ONLY, protobuf's zero value.
        mode: OutboundTrafficPolicyMode = "mode" or OutboundTrafficPolicyMode::RegistryOnly;
        /// Where such traffic goes instead.
        egress_proxy: Option<Destination> = "egressProxy";
    }
}

choice! {
    /// Whether unknown hosts can be reached.
    pub enum OutboundTrafficPolicyMode {
        /// No.
        RegistryOnly = "REGISTRY_ONLY",
        /// Yes.
        AllowAny = "ALLOW_ANY",
    }
}
