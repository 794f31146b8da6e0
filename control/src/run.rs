//! The control plane as a process: sources, serving, admin, drain.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use palisade_compile::{ControlSettings, Revisions, SourceOptions};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin,
    admission::{self, Surroundings},
    ca::{CertificateAuthority, LiveAuthority},
    cluster,
    identity::{TokenReviews, Verifier, bundle, root, trust_bundle},
    injection::InjectionSettings,
    jwks::{Fetcher, KeyKeeper},
    metrics::Metrics,
    provisioning::GatewayObjects,
    rotation::{Place, Rotation},
    serve::{ServingIdentity, Shared, serve},
    settings::Settings,
    signer::ExternalSigner,
    source,
    status::{self, Seat},
    token::TokenKey,
};

/// Lifetime of the control plane's own certificate.
const SERVING_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Runs until SIGTERM or Ctrl-C, then drains; a second signal ends at once.
///
/// # Errors
/// When anything that it cannot do without is missing: documents, authority, key, addresses.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let on_signal = stop.clone();
    let signals = tokio::spawn(async move {
        for count in 0.. {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            if count > 0 {
                tracing::warn!("second signal: ending at once");
                std::process::exit(1);
            }
            tracing::info!("draining");
            on_signal.cancel();
        }
    });
    let result = run_until(settings, stop).await;
    signals.abort();
    result
}

/// Runs until `stop`, then drains.
///
/// # Errors
/// As [`run`].
pub async fn run_until(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let Settings {
        files,
        kubeconfig,
        context,
        control_namespace,
        istio_classes,
        namespace,
        root_namespace,
        set,
        listen,
        advertise,
        admin: admin_address,
        ca_dir,
        token_key,
        signer,
        token_audience,
        cert_ttl,
        server_name,
        jwks_ca,
        admission,
        injection,
        gateways,
        log: _,
    } = settings;
    let control_namespace = cluster::control_namespace(control_namespace.as_deref())?;
    let is_files = !files.is_empty();
    let is_provisioning = gateways.gateway_provisioning.is_on(cluster::is_pod());
    let injection = InjectionSettings { gateway_image: gateways.gateway_image.clone(), ..injection };
    let gateways = GatewayObjects { gateways, injection: injection.clone(), istio_classes };
    let revisions = Some(admission.revisions()).filter(|_| !is_files);
    let options = source_options(root_namespace, &set, is_files, istio_classes, revisions)?;
    let metrics = Metrics::new();
    let (keeper, feed) = KeyKeeper::new(Fetcher::new(&jwks_ca), Some(&ca_dir), metrics.clone());
    let keys = keeper.status();
    let client = if is_files { None } else { Some(cluster::client(kubeconfig.as_deref(), context.as_deref()).await?) };
    // An error, too, ends everything that was started.
    let _end = stop.clone().drop_guard();
    let (follow, mut mesh) = match &client {
        None => {
            let (live, mesh) = source::follow_files(files, &namespace, options, metrics.clone(), Some(feed))?;
            (tokio::spawn(live.follow(stop.clone())), mesh)
        }
        Some(client) => {
            let (live, mesh) = source::follow_cluster(client.clone(), options, metrics.clone(), Some(feed));
            (tokio::spawn(live.follow(stop.clone())), mesh)
        }
    };
    let keep_keys = tokio::spawn(keeper.run(stop.clone()));
    // A cluster may keep everybody waiting; nothing listens, and nobody is told that this is ready, before all is read.
    let trust_domain = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        first = mesh.wait_for(Option::is_some) => {
            let first = first.context("reading documents ended")?;
            first.as_ref().map(|mesh| mesh.trust_domain().clone()).context("nothing is compiled")?
        }
    };
    let (authority, verifier) = match &client {
        None => {
            let authority = CertificateAuthority::load_or_create(&ca_dir, &trust_domain, SystemTime::now())?;
            (authority, Verifier::Local(TokenKey::load_or_create(&token_key)?))
        }
        Some(client) => {
            let authority = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                root = root::await_root(client, &control_namespace, &trust_domain) => root?,
            };
            (authority, Verifier::Cluster(Arc::new(TokenReviews::new(client.clone(), token_audience))))
        }
    };
    let authority = LiveAuthority::new(authority);
    let names = server_names(&control_namespace, &admission.webhook_service, server_name);
    let addresses = serving_addresses(listen.ip());
    let identity = Arc::new(ServingIdentity::issue(&authority.current(), names, addresses, SERVING_LIFETIME)?);
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let admin_listener =
        TcpListener::bind(admin_address).await.with_context(|| format!("cannot listen on {admin_address}"))?;
    let own = admission.revisions();
    let webhooks = match client.clone().filter(|_| admission.webhook_url.is_some() || cluster::is_pod()) {
        Some(client) => {
            let (namespace, authority) = (control_namespace.clone(), Arc::clone(&authority));
            let surroundings = Surroundings { client, namespace, mesh: mesh.clone(), authority, stop: stop.clone() };
            Some(admission::start(admission, injection, surroundings).await?)
        }
        None => None,
    };
    let place = match &client {
        None => Place::Folder(ca_dir.clone()),
        Some(client) => Place::Cluster { client: client.clone(), namespace: control_namespace.clone() },
    };
    let signer = signer.zip(client.clone()).map(|(name, client)| ExternalSigner::new(client, &control_namespace, name));
    let shared = Shared::signed_by(signer, mesh, Arc::clone(&authority), verifier, cert_ttl, metrics, stop.clone());
    tracing::info!(%listen, admin = %admin_address, ca = %ca_dir.display(), "control plane ready");
    let rotation = Rotation::new(place, &shared, &status::replica_name());
    let follow_root = tokio::spawn(Arc::clone(&rotation).run(stop.clone()));
    // There is one Deployment for each Gateway: the default revision's.
    let gateways = (is_provisioning && own.is_default()).then_some(gateways);
    let address = advertise.unwrap_or_else(|| cluster::own_address(listen));
    let seat = Seat { namespace: control_namespace.clone(), revisions: own, address };
    let status = client.clone().map(|client| status::start(client, seat, &shared, gateways, stop.clone()));
    if let Some(client) = client {
        let roots = bundle::roots(&authority);
        shared.tasks.spawn(trust_bundle::publish(client.clone(), roots.clone(), stop.clone()));
        shared.tasks.spawn(bundle::publish(client, roots, stop.clone()));
    }
    let renewing = Arc::clone(&identity);
    let renew_stop = stop.clone();
    let renew = tokio::spawn(async move { renewing.renew(&authority, renew_stop).await });
    let pages = tokio::spawn(admin::serve(admin_listener, Arc::clone(&shared), keys, rotation, stop.clone()));
    let served = serve(Arc::clone(&shared), listener, &identity).await;
    // However serving ended, the rest goes with it.
    stop.cancel();
    for task in [follow, renew, keep_keys, follow_root].into_iter().chain(webhooks).chain(status.into_iter().flatten())
    {
        task.await.context("a task of the control plane failed")?;
    }
    pages.abort();
    served.context("serving failed")
}

fn source_options(
    root_namespace: Option<String>,
    set: &[String],
    is_files: bool,
    istio_classes: bool,
    revisions: Option<Revisions>,
) -> anyhow::Result<SourceOptions> {
    // In a cluster an istiod may be there to serve its class.
    let mut control =
        ControlSettings { istio_classes: is_files || istio_classes, revisions, ..ControlSettings::default() };
    for setting in set {
        control.set(setting)?;
    }
    for name in &control.ineffective {
        tracing::warn!(%name, "this setting has no effect");
    }
    if let Some(root_namespace) = root_namespace {
        control.root_namespace = Some(root_namespace.into());
    }
    Ok(SourceOptions { control, is_files })
}

fn server_names(control_namespace: &str, service: &str, further: Vec<String>) -> Vec<String> {
    let mut names: Vec<String> = ["palisade-control".to_owned(), "localhost".to_owned()].into();
    // A revision may have a Service of its own.
    let services: BTreeSet<&str> = ["palisade-control", service].into();
    for service in services {
        names.extend(["", ".svc", ".svc.cluster.local"].map(|suffix| format!("{service}.{control_namespace}{suffix}")));
    }
    names.extend(further);
    names
}

fn serving_addresses(listen: IpAddr) -> Vec<IpAddr> {
    let mut addresses = vec![IpAddr::from([127, 0, 0, 1])];
    if !listen.is_unspecified() && !addresses.contains(&listen) {
        addresses.push(listen);
    }
    addresses
}
