//! A control plane that is told to stop hands its proxies over one after the other.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use anyhow::ensure;
use async_trait::async_trait;
use clap::Parser;
use palisade_control::{
    ca::CertificateAuthority,
    run_until,
    settings::Settings,
    token::{BoundPod, TokenKey},
};
use palisade_model::{feature, resource::ResourceKey, snapshot::Snapshot};
use palisade_proxy::config::{
    Applied, Applier, ApplyRejection, ConfigClient, Credentials, Dialer, Subscriptions, TlsDialer, TokenSource,
};
use palisade_tests::wait::until;
use palisade_wire::delta::client::Profile;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Enough to see whether they come together.
const PROXIES: usize = 120;

/// What is counted together.
const INSTANT: Duration = Duration::from_millis(50);

struct Anything;

#[async_trait]
impl Applier for Anything {
    async fn apply(&self, _: Arc<Snapshot>, _: Vec<ResourceKey>) -> Result<Applied, ApplyRejection> {
        Ok(Applied::default())
    }
}

struct Control {
    listen: SocketAddr,
    admin: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// A control plane of the documents and keys in a folder.
async fn control(folder: &std::path::Path) -> anyhow::Result<Control> {
    let path = |name: &str| folder.join(name).display().to_string();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let (listen, admin) = (free()?, free()?);
    let settings = Settings::try_parse_from([
        "palisade-control",
        &format!("--files={}", path("documents")),
        &format!("--listen={listen}"),
        &format!("--admin={admin}"),
        &format!("--ca-dir={}", path("ca")),
        &format!("--token-key={}", path("token.key")),
    ])?;
    let stop = CancellationToken::new();
    let task = tokio::spawn(run_until(settings, stop.clone()));
    until("a control plane", Duration::from_secs(20), async || Ok(TcpStream::connect(admin).await.map(drop)?)).await?;
    Ok(Control { listen, admin, stop, task })
}

/// How many proxies have acknowledged.
async fn acknowledged(control: &Control) -> anyhow::Result<usize> {
    use http_body_util::{BodyExt, Empty};
    let stream = TcpStream::connect(control.admin).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request =
        http::Request::get("/proxies").header("host", control.admin.to_string()).body(Empty::<bytes::Bytes>::new())?;
    let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
    driver.abort();
    let proxies: Vec<serde_json::Value> = serde_json::from_slice(&body)?;
    Ok(proxies.iter().filter(|proxy| proxy["acked"] == proxy["target"] && !proxy["acked"].is_null()).count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_leads_no_storm_to_those_who_take_over() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("documents"))?;
    let mut documents = String::new();
    for pod in 0..PROXIES {
        write!(
            documents,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p-{pod}, namespace: foo, labels: {{app: p-{pod}}}}}\n\
             spec: {{serviceAccountName: a, containers: [{{name: app, image: a, ports: [{{containerPort: 8080}}]}}]}}\n"
        )?;
    }
    fs::write(folder.path().join("documents/all.yaml"), documents)?;
    drop(CertificateAuthority::load_or_create(
        &folder.path().join("ca"),
        &"cluster.local".parse()?,
        SystemTime::now(),
    )?);
    let key = TokenKey::load_or_create(&folder.path().join("token.key"))?;
    let (first, second) = (control(folder.path()).await?, control(folder.path()).await?);

    // What a Service does: to whoever takes the connection, the first one while it is there.
    let service = TcpListener::bind("127.0.0.1:0").await?;
    let address = service.local_addr()?;
    let connects: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (seen, backends) = (Arc::clone(&connects), [first.listen, second.listen]);
    let relay = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut outer, _)) = service.accept().await {
            seen.lock().unwrap().push(Instant::now());
            connections.spawn(async move {
                for backend in backends {
                    if let Ok(mut inner) = TcpStream::connect(backend).await {
                        drop(tokio::io::copy_bidirectional(&mut outer, &mut inner).await);
                        return;
                    }
                }
            });
            while connections.try_join_next().is_some() {}
        }
    });

    let mut proxies: Vec<(Subscriptions, DropGuard)> = Vec::new();
    for pod in 0..PROXIES {
        let name = format!("p-{pod}");
        let bound = BoundPod {
            namespace: "foo".into(),
            name: name.as_str().into(),
            uid: "any".into(),
            service_account: "a".into(),
        };
        let token = key.mint(&bound, SystemTime::now(), Duration::from_secs(3600))?;
        let dialer = Dialer::tls(TlsDialer {
            address: address.to_string(),
            server_name: "palisade-control".try_into()?,
            roots: folder.path().join("ca/root-cert.pem"),
            credentials: Arc::new(Credentials::default()),
        });
        let profile = Profile {
            namespace: "foo".into(),
            name: name.as_str().into(),
            build: "test".into(),
            features: feature::all(),
            short_id: name.as_str().into(),
        };
        let (client, subscriptions) =
            ConfigClient::new(profile, dialer, TokenSource::Fixed(token.into()), Arc::new(Anything), BTreeSet::new());
        let stop = CancellationToken::new();
        tokio::spawn(client.run(stop.clone()));
        proxies.push((subscriptions, stop.drop_guard()));
    }
    let all_at = async |control: &Control| {
        until("all proxies", Duration::from_secs(60), async || {
            let count = acknowledged(control).await?;
            ensure!(count == PROXIES, "{count} of {PROXIES}");
            Ok(())
        })
        .await
    };
    all_at(&first).await?;
    connects.lock().unwrap().clear();

    let stopped = Instant::now();
    first.stop.cancel();
    first.task.await??;
    all_at(&second).await?;
    let moments: Vec<Duration> =
        connects.lock().unwrap().iter().map(|at| at.saturating_duration_since(stopped)).collect();
    let together = |from: &Duration| moments.iter().filter(|at| **at >= *from && **at < *from + INSTANT).count();
    let most = moments.iter().map(together).max().unwrap_or(0);
    let last = moments.iter().max().copied().unwrap_or_default();
    println!("{PROXIES} proxies came to the other replica within {last:?}, at most {most} in {INSTANT:?}");
    // Together they would all be there in one instant, after the shortest wait there is.
    ensure!(most <= PROXIES / 3, "{most} of {PROXIES} came within {INSTANT:?}");
    ensure!(moments.len() < 3 * PROXIES, "{} connections of {PROXIES} proxies", moments.len());
    relay.abort();
    second.stop.cancel();
    second.task.await?
}
