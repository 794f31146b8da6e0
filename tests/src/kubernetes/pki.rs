//! What a cluster trusts itself by: its authority, the API server's certificate, the key of service accounts, and kubeconfigs.

use std::{fs, net::IpAddr, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::json;

use super::programs::NODE;

/// The names of the API server, and of the node, whose kubelet shares the certificate.
const NAMES: [&str; 6] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    NODE,
];

/// Certificate users: file, user and group, by which the API server's own RBAC knows them.
const CLIENTS: [(&str, &str, Option<&str>); 7] = [
    ("admin", "admin", Some("system:masters")),
    ("kube-controller-manager", "system:kube-controller-manager", None),
    ("kube-scheduler", "system:kube-scheduler", None),
    ("kwok", "kwok", Some("system:masters")),
    ("kube-proxy", "system:kube-proxy", None),
    ("kubelet", "system:node:node-1", Some("system:nodes")),
    // The API server, towards the kubelet.
    ("kubelet-client", "kube-apiserver", Some("system:masters")),
];

/// Writes everything into a folder: `ca`, `serving` and `service-account` as `.key` and `.crt` (`.pub`), and for each client
/// its `.kubeconfig`.
pub(super) fn write(folder: &Path, server: &str, addresses: &[IpAddr]) -> anyhow::Result<()> {
    fs::create_dir(folder)?;
    let put = |name: &str, text: &str| fs::write(folder.join(name), text);

    let mut params = CertificateParams::default();
    params.distinguished_name = name("kubernetes-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    put("ca.crt", &authority.pem())?;
    put("ca.key", &authority.key().serialize_pem())?;

    let account = KeyPair::generate()?;
    put("service-account.key", &account.serialize_pem())?;
    put("service-account.pub", &account.public_key_pem())?;

    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
    params.distinguished_name = name("kube-apiserver", None);
    params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    put("serving.crt", &params.signed_by(&key, &authority)?.pem())?;
    put("serving.key", &key.serialize_pem())?;

    for (file, user, group) in CLIENTS {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(user, group);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &authority)?;
        let user = json!({
            "client-certificate-data": STANDARD.encode(certificate.pem()),
            "client-key-data": STANDARD.encode(key.serialize_pem()),
        });
        if file == "kubelet-client" {
            put("kubelet-client.crt", &certificate.pem())?;
            put("kubelet-client.key", &key.serialize_pem())?;
        }
        put(&format!("{file}.kubeconfig"), &kubeconfig(server, &authority.pem(), &user).to_string())?;
    }
    Ok(())
}

/// A kubeconfig of one user, who is proven as `user` says.
pub(super) fn kubeconfig(server: &str, authority: &str, user: &serde_json::Value) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    })
}

fn name(common: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name
}
