//! How connections to a service are made: load balancing, pools, health, TLS. Part of DestinationRule and Sidecar.

use std::collections::BTreeMap;

use super::PortSelector;
use crate::duration::Duration;
use crate::schema::Check::{Each, Items, Positive, Range, RangeF};

record! {
    /// The settings of a DestinationRule or one of its subsets. A subset overrides block by block, not field by field.
    pub struct TrafficPolicy {
        /// How an endpoint is chosen.
        load_balancer: Option<LoadBalancerSettings> = "loadBalancer";
        /// Limits of connections and requests.
        connection_pool: Option<ConnectionPoolSettings> = "connectionPool";
        /// Ejection of failing endpoints; absent is off.
        outlier_detection: Option<OutlierDetection> = "outlierDetection";
        /// TLS towards the endpoints; absent leaves it to auto-mTLS.
        tls: Option<ClientTlsSettings> = "tls";
        /// Settings of single ports, which replace these entirely there.
        port_level_settings: Option<Vec<PortTrafficPolicy>> = "portLevelSettings" [Items(0, 4096)];
        /// TCP through an HTTP tunnel.
        tunnel: Option<TunnelSettings> = "tunnel";
        /// PROXY protocol towards the endpoints.
        proxy_protocol: Option<ProxyProtocol> = "proxyProtocol";
        /// Limit of retries as a share of the running requests.
        retry_budget: Option<RetryBudget> = "retryBudget";
    }
}

record! {
    /// The settings of one port. Blocks left out go back to the defaults, not to the parent.
    pub struct PortTrafficPolicy {
        /// The Service port.
        port: Option<PortSelector> = "port";
        /// As in [`TrafficPolicy`].
        load_balancer: Option<LoadBalancerSettings> = "loadBalancer";
        /// As in [`TrafficPolicy`].
        connection_pool: Option<ConnectionPoolSettings> = "connectionPool";
        /// As in [`TrafficPolicy`].
        outlier_detection: Option<OutlierDetection> = "outlierDetection";
        /// As in [`TrafficPolicy`].
        tls: Option<ClientTlsSettings> = "tls";
    }
}

record! {
    /// How an endpoint is chosen. Without any of the first three: least request.
    pub struct LoadBalancerSettings {
        /// One of the plain algorithms.
        simple: Option<SimpleLb> = "simple";
        /// By a hash of something in the request.
        consistent_hash: Option<ConsistentHashLb> = "consistentHash";
        /// By reported load of the endpoints.
        backend_utilization: Option<BackendUtilizationLb> = "backendUtilization";
        /// Preference by locality; absent is the mesh's.
        locality_lb_setting: Option<LocalityLbSetting> = "localityLbSetting";
        /// Preference by zone.
        zone_aware_lb_setting: Option<ZoneAwareLbSetting> = "zoneAwareLbSetting";
        /// Deprecated form of `warmup.duration`.
        warmup_duration_secs: Option<Duration> = "warmupDurationSecs" [Positive];
        /// Gradual increase for new endpoints.
        warmup: Option<WarmupConfiguration> = "warmup";
    }
    at_most_one ["simple", "consistentHash", "backendUtilization"];
}

choice! {
    /// Plain load balancing algorithms.
    pub enum SimpleLb {
        /// The default: least request.
        Unspecified = "UNSPECIFIED",
        /// Deprecated name of least request.
        LeastConn = "LEAST_CONN",
        /// Any endpoint.
        Random = "RANDOM",
        /// The address that the client asked for.
        Passthrough = "PASSTHROUGH",
        /// In turn.
        RoundRobin = "ROUND_ROBIN",
        /// The less busy of two.
        LeastRequest = "LEAST_REQUEST",
    }
}

record! {
    /// The same key goes to the same endpoint. Without a key: by nothing, as random.
    pub struct ConsistentHashLb {
        /// Value of this header.
        http_header_name: Option<String> = "httpHeaderName";
        /// A cookie.
        http_cookie: Option<HttpCookie> = "httpCookie";
        /// The client's address.
        use_source_ip: Option<bool> = "useSourceIp";
        /// Value of this query parameter.
        http_query_parameter_name: Option<String> = "httpQueryParameterName";
        /// Ketama ring; the default.
        ring_hash: Option<RingHash> = "ringHash";
        /// Maglev table.
        maglev: Option<Maglev> = "maglev";
        /// Deprecated form of `ringHash.minimumRingSize`; 0 is unset.
        minimum_ring_size: u64 = "minimumRingSize" or 0;
    }
    at_most_one ["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"], ["ringHash", "maglev"];
}

record! {
    /// A cookie that carries the hash key.
    pub struct HttpCookie {
        /// Its name.
        name: String = "name";
        /// Its path; empty leaves the attribute out.
        path: String = "path" or String::new();
        /// Lifetime of a generated cookie; 0 is the session, absent generates none.
        ttl: Option<Duration> = "ttl";
        /// Further attributes of a generated cookie.
        attributes: Vec<CookieAttribute> = "attributes";
    }
}

record! {
    /// One attribute of a cookie.
    pub struct CookieAttribute {
        /// Its name.
        name: String = "name";
        /// Its value; empty is an attribute without value.
        value: String = "value" or String::new();
    }
}

record! {
    /// Ketama ring.
    pub struct RingHash {
        /// At least this many points; 0 is 1024.
        minimum_ring_size: u64 = "minimumRingSize" or 0;
    }
}

record! {
    /// Maglev table.
    pub struct Maglev {
        /// A prime below 5000011; 0 is unset.
        table_size: u64 = "tableSize" or 0;
    }
}

record! {
    /// Weighted round robin by load that endpoints report.
    pub struct BackendUtilizationLb {
        /// Names of the reported metrics.
        metric_names: Vec<String> = "metricNamesForComputingUtilization";
        /// Reports older than this do not count.
        weight_expiration_period: Option<Duration> = "weightExpirationPeriod";
        /// New endpoints count only after this time.
        weight_stabilization_period: Option<Duration> = "weightStabilizationPeriod";
        /// How often weights are computed.
        weight_update_period: Option<Duration> = "weightUpdatePeriod";
        /// Penalty for errors.
        error_utilization_penalty_percent: Option<u32> = "errorUtilizationPenaltyPercent";
    }
}

record! {
    /// Preference by locality.
    pub struct LocalityLbSetting {
        /// Explicit shares; excludes failover.
        distribute: Vec<LocalityDistribute> = "distribute";
        /// Which region takes over for which.
        failover: Vec<LocalityFailover> = "failover";
        /// Labels by which endpoints are ranked instead of locality.
        failover_priority: Vec<String> = "failoverPriority";
        /// Absent is on.
        enabled: Option<bool> = "enabled";
    }
}

record! {
    /// Shares of traffic from one locality.
    pub struct LocalityDistribute {
        /// `region/zone/subzone`, parts may be `*`.
        from: String = "from" or String::new();
        /// Percent by locality; they add up to 100.
        to: BTreeMap<String, u32> = "to";
    }
}

record! {
    /// A region that takes over for another.
    pub struct LocalityFailover {
        /// The failing region.
        from: String = "from" or String::new();
        /// The one that takes over.
        to: String = "to" or String::new();
    }
}

record! {
    /// Preference by zone.
    pub struct ZoneAwareLbSetting {
        /// Absent is on.
        enabled: Option<bool> = "enabled";
        /// Which region takes over for which.
        failover: Vec<LocalityFailover> = "failover";
        /// Labels by which endpoints are ranked.
        failover_priority: Vec<String> = "failoverPriority";
        /// Smaller clusters are balanced without zones.
        min_cluster_size: Option<u32> = "minClusterSize" [Range(1, 4_294_967_295)];
    }
}

record! {
    /// Gradual increase for new endpoints.
    pub struct WarmupConfiguration {
        /// How long it takes.
        duration: Duration = "duration" [Positive];
        /// Share at the start, 0 to 100; absent is 10.
        minimum_percent: Option<f64> = "minimumPercent" [RangeF(0.0, 100.0)];
        /// Shape of the curve; absent is 1.
        aggression: Option<f64> = "aggression" [RangeF(0.0, f64::MAX)];
    }
}

record! {
    /// Limits of connections and requests.
    pub struct ConnectionPoolSettings {
        /// Of connections.
        tcp: Option<TcpSettings> = "tcp";
        /// Of HTTP requests.
        http: Option<HttpSettings> = "http";
    }
}

record! {
    /// Limits of connections.
    pub struct TcpSettings {
        /// Connections per proxy and endpoint set; 0 is 2³²-1.
        max_connections: i32 = "maxConnections" or 0;
        /// Absent is 10 s.
        connect_timeout: Option<Duration> = "connectTimeout" [Positive];
        /// Keep-alive probes; absent is none.
        tcp_keepalive: Option<TcpKeepalive> = "tcpKeepalive";
        /// Longest life of a connection; absent is no limit.
        max_connection_duration: Option<Duration> = "maxConnectionDuration" [Positive];
        /// Idle connections are closed after this; 0 is never, absent is 1 h.
        idle_timeout: Option<Duration> = "idleTimeout";
    }
}

record! {
    /// TCP keep-alive probes.
    pub struct TcpKeepalive {
        /// Probes without answer before the connection is given up; 0 is the system's.
        probes: u32 = "probes" or 0;
        /// Idle time before the first; absent is the system's.
        time: Option<Duration> = "time" [Positive];
        /// Time between two; absent is the system's.
        interval: Option<Duration> = "interval" [Positive];
    }
}

record! {
    /// Limits of HTTP requests. For all numbers 0 is unset.
    pub struct HttpSettings {
        /// Requests waiting for a connection.
        http1_max_pending_requests: i32 = "http1MaxPendingRequests" or 0;
        /// Requests running, of all versions.
        http2_max_requests: i32 = "http2MaxRequests" or 0;
        /// Requests on one connection before it is closed; 0 is no limit.
        max_requests_per_connection: i32 = "maxRequestsPerConnection" or 0;
        /// Retries running.
        max_retries: i32 = "maxRetries" or 0;
        /// Connections without requests are closed after this; absent is 1 h.
        idle_timeout: Option<Duration> = "idleTimeout" [Positive];
        /// Whether HTTP/1.1 is turned into HTTP/2; absent is the mesh's.
        h2_upgrade_policy: Option<H2UpgradePolicy> = "h2UpgradePolicy";
        /// Speak upstream what the client speaks.
        use_client_protocol: bool = "useClientProtocol";
        /// Streams on one HTTP/2 connection.
        max_concurrent_streams: i32 = "maxConcurrentStreams" or 0;
        /// HTTP/2 pings; absent is none.
        http2_keep_alive: Option<Http2KeepAlive> = "http2KeepAlive";
    }
}

record! {
    /// HTTP/2 pings. Validation asks for both.
    pub struct Http2KeepAlive {
        /// Time between two.
        interval: Option<Duration> = "interval" [Positive];
        /// Time to the answer.
        timeout: Option<Duration> = "timeout" [Positive];
    }
}

choice! {
    /// Whether HTTP/1.1 is turned into HTTP/2.
    pub enum H2UpgradePolicy {
        /// The mesh's setting.
        Default = "DEFAULT",
        /// No.
        DoNotUpgrade = "DO_NOT_UPGRADE",
        /// Yes.
        Upgrade = "UPGRADE",
    }
}

record! {
    /// Ejection of failing endpoints.
    pub struct OutlierDetection {
        /// Deprecated and without effect.
        consecutive_errors: i32 = "consecutiveErrors" or 0;
        /// Count failures to connect apart from answers.
        split_external_local_origin_errors: bool = "splitExternalLocalOriginErrors";
        /// Failures to connect in a row; 0 is off.
        consecutive_local_origin_failures: Option<u32> = "consecutiveLocalOriginFailures";
        /// 502, 503 or 504 in a row; absent or 0 is off.
        consecutive_gateway_errors: Option<u32> = "consecutiveGatewayErrors";
        /// 5xx in a row; 0 is off, absent is 5.
        consecutive_5xx_errors: Option<u32> = "consecutive5xxErrors";
        /// How often is looked; absent is 10 s.
        interval: Option<Duration> = "interval" [Positive];
        /// Shortest ejection, times the number of ejections; absent is 30 s.
        base_ejection_time: Option<Duration> = "baseEjectionTime" [Positive];
        /// Largest share ejected; 0 is 10.
        max_ejection_percent: i32 = "maxEjectionPercent" or 0;
        /// Below this share of healthy endpoints ejections do not count; 0 is off.
        min_health_percent: i32 = "minHealthPercent" or 0;
        /// Answers that count as errors instead of 5xx.
        http_error_codes: Vec<u32> = "outlierDetectionHttpErrorCodes" [Each(&[Range(100, 599)])];
    }
}

record! {
    /// TLS towards the endpoints.
    pub struct ClientTlsSettings {
        /// Absent is DISABLE, protobuf's zero value.
        mode: ClientTlsMode = "mode" or ClientTlsMode::Disable;
        /// File with the client certificate, for MUTUAL.
        client_certificate: String = "clientCertificate" or String::new();
        /// File with its key.
        private_key: String = "privateKey" or String::new();
        /// File with trusted roots; empty is the system's.
        ca_certificates: String = "caCertificates" or String::new();
        /// Secret with all of these, at gateways.
        credential_name: String = "credentialName" or String::new();
        /// Names of which the server certificate must carry one.
        subject_alt_names: Vec<String> = "subjectAltNames";
        /// Server name sent; empty is taken from the request.
        sni: String = "sni" or String::new();
        /// Accept any server certificate; absent is no.
        insecure_skip_verify: Option<bool> = "insecureSkipVerify";
        /// File with revoked certificates.
        ca_crl: String = "caCrl" or String::new();
    }
}

choice! {
    /// How TLS is used towards the endpoints.
    pub enum ClientTlsMode {
        /// Plaintext.
        Disable = "DISABLE",
        /// The server proves itself.
        Simple = "SIMPLE",
        /// Both prove themselves with the user's certificates.
        Mutual = "MUTUAL",
        /// Both prove themselves with the mesh's certificates.
        IstioMutual = "ISTIO_MUTUAL",
    }
}

record! {
    /// TCP through an HTTP tunnel.
    pub struct TunnelSettings {
        /// `CONNECT` or `POST`; empty is `CONNECT`.
        protocol: String = "protocol" or String::new();
        /// Host that the tunnel leads to.
        target_host: String = "targetHost";
        /// Its port.
        target_port: u32 = "targetPort";
    }
}

record! {
    /// PROXY protocol towards the endpoints.
    pub struct ProxyProtocol {
        /// Absent is version 1.
        version: ProxyProtocolVersion = "version" or ProxyProtocolVersion::V1;
    }
}

choice! {
    /// Version of the PROXY protocol.
    pub enum ProxyProtocolVersion {
        /// Text.
        V1 = "V1",
        /// Binary.
        V2 = "V2",
    }
}

record! {
    /// Limit of retries as a share of the running requests.
    pub struct RetryBudget {
        /// 0 to 100; absent is 20.
        percent: Option<f64> = "percent" [RangeF(0.0, 100.0)];
        /// At least this many retries are always allowed; absent is 3.
        min_retry_concurrency: u32 = "minRetryConcurrency" or 3;
        /// Requests of this time count; absent is only the running ones.
        budget_interval: Option<Duration> = "budgetInterval";
    }
}
