//! One root for all replicas.

use std::time::SystemTime;

use anyhow::{Context, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use palisade_control::identity::root::{OWN, PLUGGED_IN, RootError, load_or_create};
use palisade_model::identity::TrustDomain;
use palisade_tests::kubernetes::Cluster;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

fn domain() -> anyhow::Result<TrustDomain> {
    Ok("cluster.local".parse()?)
}

/// An authority that an operator made: its certificate, key and root.
fn plugged_in() -> anyhow::Result<(String, String, String)> {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let root = CertifiedIssuer::self_signed(authority("corporate root"), KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = authority("mesh").signed_by(&key, &root)?;
    Ok((certificate.pem(), key.serialize_pem(), root.pem()))
}

async fn secret(cluster: &Cluster, namespace: &str, name: &str, data: &[(&str, &str)]) -> anyhow::Result<()> {
    let data: serde_json::Map<_, _> =
        data.iter().map(|(key, text)| ((*key).to_owned(), STANDARD.encode(text).into())).collect();
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": data,
    });
    cluster.apply(&secret.to_string()).await
}

#[tokio::test]
async fn replicas_that_start_at_once_agree_on_one_root() -> anyhow::Result<()> {
    let cluster = Cluster::shared().await?;
    cluster.namespace("roots").await?;
    let domain = domain()?;
    let clients = futures::future::try_join_all((0..8).map(|_| cluster.client())).await?;
    let starts = clients.iter().map(|client| load_or_create(client, "roots", &domain, SystemTime::now()));
    let authorities = futures::future::try_join_all(starts).await?;
    let first = authorities.first().context("none")?.root_bundle().to_owned();
    ensure!(authorities.iter().all(|authority| authority.root_bundle() == first), "several roots");
    let client = cluster.client().await?;
    let again = load_or_create(&client, "roots", &domain, SystemTime::now()).await?;
    ensure!(again.root_bundle() == first, "another root after a restart");
    let key = cluster.kubectl(&["get", "secret", "-n", "roots", OWN, "-o", r"jsonpath={.data.ca-key\.pem}"]).await?;
    ensure!(STANDARD.decode(key)?.starts_with(b"-----BEGIN PRIVATE KEY"), "no key in the Secret");
    Ok(())
}

#[tokio::test]
async fn a_plugged_in_authority_wins_in_istios_form_and_in_cert_managers() -> anyhow::Result<()> {
    let cluster = Cluster::shared().await?;
    cluster.namespace("plugged").await?;
    let client = cluster.client().await?;
    let domain = domain()?;
    let own = load_or_create(&client, "plugged", &domain, SystemTime::now()).await?.root_bundle().to_owned();

    let (certificate, key, root) = plugged_in()?;
    let names = [("ca-cert.pem", &certificate), ("ca-key.pem", &key), ("root-cert.pem", &root)];
    secret(&cluster, "plugged", PLUGGED_IN, &names.map(|(name, text)| (name, text.as_str()))).await?;
    let authority = load_or_create(&client, "plugged", &domain, SystemTime::now()).await?;
    ensure!(authority.root_bundle() == root && root != own, "{}", authority.root_bundle());

    cluster.kubectl(&["delete", "secret", "-n", "plugged", PLUGGED_IN]).await?;
    let (certificate, key, root) = plugged_in()?;
    let names = [("tls.crt", &certificate), ("tls.key", &key), ("ca.crt", &root)];
    secret(&cluster, "plugged", PLUGGED_IN, &names.map(|(name, text)| (name, text.as_str()))).await?;
    let authority = load_or_create(&client, "plugged", &domain, SystemTime::now()).await?;
    ensure!(authority.root_bundle() == root, "{}", authority.root_bundle());
    Ok(())
}

/// No new root in the place of one that somebody has damaged: the mesh would fall apart.
#[tokio::test]
async fn a_damaged_secret_is_named_and_left_alone() -> anyhow::Result<()> {
    let cluster = Cluster::shared().await?;
    cluster.namespace("damaged").await?;
    let client = cluster.client().await?;
    let (certificate, key, root) = plugged_in()?;
    let error = async || {
        let result = load_or_create(&client, "damaged", &domain()?, SystemTime::now()).await;
        result.err().context("it is taken")
    };
    secret(&cluster, "damaged", OWN, &[("ca-cert.pem", &certificate), ("root-cert.pem", &root)]).await?;
    let incomplete = error().await?;
    ensure!(matches!(&incomplete, RootError::Missing { key: "ca-key.pem", .. }), "{incomplete}");
    ensure!(incomplete.to_string().contains("damaged/palisade-ca"), "{incomplete}");

    let foreign = plugged_in()?.1;
    let all = [("ca-cert.pem", certificate.as_str()), ("ca-key.pem", &foreign), ("root-cert.pem", &root)];
    secret(&cluster, "damaged", PLUGGED_IN, &all).await?;
    let unusable = error().await?;
    ensure!(unusable.to_string().contains("damaged/cacerts"), "{unusable}");
    ensure!(
        !unusable.to_string().contains(foreign.trim()) && !unusable.to_string().contains(key.trim()),
        "a key is told"
    );
    let kept = cluster.kubectl(&["get", "secret", "-n", "damaged", OWN, "-o", r"jsonpath={.data.ca-key\.pem}"]).await?;
    ensure!(kept.is_empty(), "it was written");
    Ok(())
}
