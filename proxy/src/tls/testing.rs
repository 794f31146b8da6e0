//! Certificates for tests: a certificate authority that issues whatever is asked for.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use palisade_model::identity::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    AllowedPeers, CallerAuth, ClientCertificate, IdentityMaterial, IdentityStore, MeshClientVerifier, MeshIdentity,
    MeshServerVerifier, PeerCertificate, ServerCertificate, provider,
};

/// RSA keys for tests, used nowhere else: ring cannot make any.
pub(crate) const RSA_LEAF_KEY: &str = include_str!("testdata/rsa-2048-leaf-key.pem");
const RSA_CA_KEY: &str = include_str!("testdata/rsa-2048-ca-key.pem");

/// A root that signs what it is given.
pub(crate) struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A certificate with its key.
pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
}

/// What a test certificate says.
pub(crate) struct Leaf<'a> {
    pub(crate) uris: &'a [&'a str],
    pub(crate) dns: &'a [&'a str],
    /// Seconds since the Unix epoch.
    pub(crate) not_before: u64,
    /// Seconds since the Unix epoch.
    pub(crate) not_after: u64,
    /// PEM; `None`: a new ECDSA P-256 key.
    pub(crate) key: Option<&'a str>,
}

impl Default for Leaf<'_> {
    fn default() -> Self {
        let now = UnixTime::now().as_secs();
        Self { uris: &[], dns: &[], not_before: now - 60, not_after: now + 3600, key: None }
    }
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        Self::with_key(name, KeyPair::generate().unwrap())
    }

    pub(crate) fn with_key(name: &str, key: KeyPair) -> Self {
        Self { issuer: CertifiedIssuer::self_signed(authority(name), key).unwrap() }
    }

    pub(crate) fn rsa(name: &str) -> Self {
        Self::with_key(name, KeyPair::from_pem(RSA_CA_KEY).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// An authority below this one.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let issuer = CertifiedIssuer::signed_by(authority(name), KeyPair::generate().unwrap(), &self.issuer).unwrap();
        Self { issuer }
    }

    /// A list of what this authority takes back: the first certificates of these PEM texts.
    pub(crate) fn revoking(&self, certificates: &[&str]) -> String {
        let revoked = certificates.iter().map(|pem| {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
            RevokedCertParams {
                serial_number: SerialNumber::from_slice(certificate.raw_serial()),
                revocation_time: rcgen::date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }
        });
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            // Long over: what is revoked stays revoked.
            next_update: rcgen::date_time_ymd(2020, 1, 2),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    pub(crate) fn issue(&self, leaf: &Leaf<'_>) -> Issued {
        let key = match leaf.key {
            None => KeyPair::generate().unwrap(),
            Some(pem) => KeyPair::from_pem(pem).unwrap(),
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(leaf.not_before);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(leaf.not_after);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let uris = leaf.uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        let dns = leaf.dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap()));
        params.subject_alt_names = uris.chain(dns).collect();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// A mesh certificate.
    pub(crate) fn mesh(&self, uri: &str) -> Issued {
        self.issue(&Leaf { uris: &[uri], ..Leaf::default() })
    }

    /// A store with one identity of this root, trusting it, for callers of `cluster.local`.
    pub(crate) fn store(&self, uri: &str) -> (Arc<IdentityStore>, Arc<MeshIdentity>) {
        let store = Arc::new(IdentityStore::new());
        let identity = store.install(self.material(&self.mesh(uri)), UnixTime::now()).unwrap();
        (store, identity)
    }

    /// Material of an issued certificate that trusts this root.
    pub(crate) fn material(&self, issued: &Issued) -> IdentityMaterial {
        issued.material(&self.pem())
    }
}

impl Issued {
    pub(crate) fn material(&self, bundle: &str) -> IdentityMaterial {
        IdentityMaterial::from_pem(self.chain.as_bytes(), self.key.as_bytes(), bundle.as_bytes(), domains()).unwrap()
    }

    pub(crate) fn chain_der(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect::<Result<_, _>>().unwrap()
    }

    pub(crate) fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }

    pub(crate) fn client_certificate(&self) -> ClientCertificate {
        ClientCertificate::from_pem(self.chain.as_bytes(), self.key.as_bytes()).unwrap()
    }

    pub(crate) fn server_certificate(&self) -> ServerCertificate {
        ServerCertificate::from_pem(self.chain.as_bytes(), self.key.as_bytes()).unwrap()
    }
}

/// `cluster.local`.
pub(crate) fn domains() -> BTreeSet<TrustDomain> {
    BTreeSet::from(["cluster.local".parse().unwrap()])
}

/// Both ends of a handshake over loopback, after the server sent one byte and the client read it (or failed to).
pub(crate) struct Ends {
    pub(crate) client: io::Result<tokio_rustls::client::TlsStream<TcpStream>>,
    pub(crate) server: io::Result<tokio_rustls::server::TlsStream<TcpStream>>,
}

impl Ends {
    /// Whether both sides accepted.
    pub(crate) fn is_ok(&self) -> bool {
        self.client.is_ok() && self.server.is_ok()
    }

    /// Whether the session was resumed, as both sides see it.
    pub(crate) fn resumed(&self) -> bool {
        let client = self.client.as_ref().unwrap().get_ref().1.handshake_kind();
        let server = self.server.as_ref().unwrap().get_ref().1.handshake_kind();
        assert_eq!(client, server);
        client == Some(HandshakeKind::Resumed)
    }

    /// The ALPN name that both sides agreed on.
    pub(crate) fn alpn(&self) -> Option<String> {
        let name = self.client.as_ref().unwrap().get_ref().1.alpn_protocol();
        name.map(|name| String::from_utf8(name.to_vec()).unwrap())
    }

    /// The client's certificate as the server sees it.
    pub(crate) fn caller(&self) -> Option<PeerCertificate> {
        let session = self.server.as_ref().unwrap().get_ref().1;
        session.peer_certificates().map(|chain| PeerCertificate::from_chain(chain).unwrap())
    }

    /// Either side's error text.
    pub(crate) fn error(&self) -> String {
        let client = self.client.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let server = self.server.as_ref().err().map(ToString::to_string).unwrap_or_default();
        format!("client: {client}; server: {server}")
    }
}

/// A handshake on loopback.
pub(crate) async fn connect(client: Arc<ClientConfig>, server: Arc<ServerConfig>, name: &str) -> Ends {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (tcp, _) = listener.accept().await?;
        let mut stream = TlsAcceptor::from(server).accept(tcp).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        Ok(stream)
    };
    let dial = async {
        let tcp = TcpStream::connect(address).await?;
        let name = super::server_name(name).unwrap();
        let mut stream = TlsConnector::from(client).connect(name, tcp).await?;
        // TLS 1.3: a server's refusal and its tickets arrive after the client's handshake is done.
        stream.read_exact(&mut [0]).await?;
        Ok(stream)
    };
    let (server, client) = tokio::join!(serve, dial);
    Ends { client, server }
}

/// A mesh client with any certificate, also one that no store would install.
pub(crate) fn raw_client(issued: Option<&Issued>, bundle: &str, allowed: AllowedPeers) -> Arc<ClientConfig> {
    let verifier = Arc::new(MeshServerVerifier::new(roots(bundle), allowed));
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Arc::new(match issued {
        None => builder.with_no_client_auth(),
        Some(issued) => builder.with_client_auth_cert(issued.chain_der(), issued.key_der()).unwrap(),
    })
}

/// A mesh server with any certificate, also one that no store would install.
pub(crate) fn raw_server(issued: &Issued, bundle: &str, auth: CallerAuth) -> Arc<ServerConfig> {
    let verifier = MeshClientVerifier::new(roots(bundle), Arc::new(domains()), auth).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(issued.chain_der(), issued.key_der())
        .unwrap();
    Arc::new(config)
}

fn roots(bundle: &str) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    Arc::new(roots)
}
