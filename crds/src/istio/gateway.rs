//! Istio's Gateway: what a gateway workload listens on. <https://istio.io/latest/docs/reference/config/networking/gateway/>

use std::collections::BTreeMap;

use crate::schema::Check::Items;

record! {
    /// The spec of an Istio Gateway.
    pub struct Gateway {
        /// What it listens on.
        servers: Vec<Server> = "servers";
        /// Labels of the gateway pods, in any namespace. Empty selects every gateway.
        selector: BTreeMap<String, String> = "selector";
    }
}

record! {
    /// One port and the hosts served there.
    pub struct Server {
        /// Where it listens.
        port: Port = "port";
        /// Address to bind, or `unix://` path; empty is all addresses.
        bind: String = "bind" or String::new();
        /// `host`, `namespace/host`, `./host` or `*/host`.
        hosts: Vec<String> = "hosts" or_required;
        /// TLS on this port.
        tls: Option<ServerTlsSettings> = "tls";
        /// Not used by gateways.
        default_endpoint: String = "defaultEndpoint" or String::new();
        /// For statistics.
        name: String = "name" or String::new();
    }
}

record! {
    /// A port of a server.
    pub struct Port {
        /// Service port.
        number: u32 = "number";
        /// HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP or TLS.
        protocol: String = "protocol";
        /// Unique in its Gateway.
        name: String = "name";
        /// Without effect at gateways; validation refuses it there.
        target_port: u32 = "targetPort" or 0;
    }
}

record! {
    /// TLS of a server.
    pub struct ServerTlsSettings {
        /// Answer plaintext HTTP with a redirect to https.
        https_redirect: bool = "httpsRedirect";
        /// Absent is PASSTHROUGH, protobuf's zero value.
        mode: ServerTlsMode = "mode" or ServerTlsMode::Passthrough;
        /// File with the server certificate.
        server_certificate: String = "serverCertificate" or String::new();
        /// File with its key.
        private_key: String = "privateKey" or String::new();
        /// File with roots for client certificates.
        ca_certificates: String = "caCertificates" or String::new();
        /// File with revoked certificates.
        ca_crl: String = "caCrl" or String::new();
        /// Secret with certificate and key.
        credential_name: String = "credentialName" or String::new();
        /// Two such Secrets, RSA and ECDSA.
        credential_names: Option<Vec<String>> = "credentialNames" [Items(1, 2)];
        /// Secret or ConfigMap with the roots for client certificates.
        ca_cert_credential_name: String = "caCertCredentialName" or String::new();
        /// Several certificates as files.
        tls_certificates: Option<Vec<TlsCertificate>> = "tlsCertificates" [Items(1, 2)];
        /// Names of which a client certificate must carry one; empty is any.
        subject_alt_names: Vec<String> = "subjectAltNames";
        /// SHA-256 hashes of accepted client keys.
        verify_certificate_spki: Vec<String> = "verifyCertificateSpki";
        /// SHA-256 hashes of accepted client certificates.
        verify_certificate_hash: Vec<String> = "verifyCertificateHash";
        /// Absent is TLS 1.2.
        min_protocol_version: TlsVersion = "minProtocolVersion" or TlsVersion::Auto;
        /// Absent is TLS 1.3.
        max_protocol_version: TlsVersion = "maxProtocolVersion" or TlsVersion::Auto;
        /// Names as OpenSSL has them; empty is a safe list.
        cipher_suites: Vec<String> = "cipherSuites";
        /// Curves for the key exchange; empty is a safe list.
        ecdh_curves: Vec<String> = "ecdhCurves";
        /// Accept any client certificate; absent is no.
        insecure_skip_verify: Option<bool> = "insecureSkipVerify";
    }
    at_most_one ["tlsCertificates", "credentialNames"], ["credentialName", "credentialNames"];
}

choice! {
    /// What happens to TLS at a server.
    pub enum ServerTlsMode {
        /// Relayed by server name, not terminated.
        Passthrough = "PASSTHROUGH",
        /// Terminated.
        Simple = "SIMPLE",
        /// Terminated; the client must prove itself.
        Mutual = "MUTUAL",
        /// Relayed to the service that the server name spells.
        AutoPassthrough = "AUTO_PASSTHROUGH",
        /// Terminated with the mesh's certificates.
        IstioMutual = "ISTIO_MUTUAL",
        /// Terminated; a client certificate is checked if there is one.
        OptionalMutual = "OPTIONAL_MUTUAL",
    }
}

choice! {
    /// A version of TLS.
    pub enum TlsVersion {
        /// The default of the end concerned.
        Auto = "TLS_AUTO",
        /// 1.0
        V1_0 = "TLSV1_0",
        /// 1.1
        V1_1 = "TLSV1_1",
        /// 1.2
        V1_2 = "TLSV1_2",
        /// 1.3
        V1_3 = "TLSV1_3",
    }
}

record! {
    /// A certificate with its key, as files.
    pub struct TlsCertificate {
        /// File with the certificate.
        server_certificate: String = "serverCertificate" or String::new();
        /// File with its key.
        private_key: String = "privateKey" or String::new();
        /// File with roots for client certificates.
        ca_certificates: String = "caCertificates" or String::new();
    }
}
