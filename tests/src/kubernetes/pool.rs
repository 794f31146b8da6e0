//! Addresses for Services of type LoadBalancer, which the node routes; kube-proxy does the rest.

use std::{collections::BTreeMap, net::Ipv4Addr, thread::JoinHandle, time::Duration};

use anyhow::Context;
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use tokio::sync::oneshot;

/// The first three numbers of the addresses.
pub(super) const NETWORK: [u8; 3] = [203, 0, 113];

/// Pause after a failure.
const PAUSE: Duration = Duration::from_millis(200);

/// Gives addresses, as long as the value lives.
#[derive(Debug)]
pub(super) struct Pool {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pool {
    /// Starts it on a thread of its own, for it outlives the caller's runtime.
    pub(super) fn start(client: impl AsyncFnOnce() -> anyhow::Result<Client> + Send + 'static) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("address-pool".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    result = serve(client) => if let Err(error) = result { eprintln!("address pool: {error:#}"); }
                }
            });
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It has said what was wrong.
            drop(thread.join());
        }
    }
}

async fn serve(client: impl AsyncFnOnce() -> anyhow::Result<Client>) -> anyhow::Result<()> {
    let client = client().await?;
    let mut given: BTreeMap<Ipv4Addr, String> = BTreeMap::new();
    let events = watcher(Api::<Service>::all(client.clone()), watcher::Config::default()).default_backoff();
    pin_mut!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(service) | watcher::Event::InitApply(service)) => {
                while let Err(error) = settle(&client, &mut given, &service).await {
                    // A Service that is gone by now tells so in its next event.
                    if is_not_found(&error) {
                        break;
                    }
                    eprintln!("address pool: {error:#}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
            Ok(watcher::Event::Delete(service)) => {
                let uid = service.uid().unwrap_or_default();
                given.retain(|_, owner| *owner != uid);
            }
            Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
            Err(error) => eprintln!("address pool: {error:#}"),
        }
    }
    Ok(())
}

fn is_not_found(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<kube::Error>(), Some(kube::Error::Api(status)) if status.code == 404)
}

/// Gives a Service the address that it should have, or takes it away.
async fn settle(client: &Client, given: &mut BTreeMap<Ipv4Addr, String>, service: &Service) -> anyhow::Result<()> {
    let spec = service.spec.as_ref().context("a Service without spec")?;
    let uid = service.uid().unwrap_or_default();
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let has = status.and_then(|balancer| balancer.ingress.as_ref()?.first()?.ip.clone());
    let wants = spec.type_.as_deref() == Some("LoadBalancer")
        && spec.load_balancer_class.is_none()
        && service.metadata.deletion_timestamp.is_none();
    if !wants {
        given.retain(|_, owner| *owner != uid);
        return match has {
            Some(_) if spec.type_.as_deref() != Some("LoadBalancer") => write(client, service, None).await,
            _ => Ok(()),
        };
    }
    let asked = spec.load_balancer_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
    let is_free =
        |address: &Ipv4Addr, given: &BTreeMap<Ipv4Addr, String>| given.get(address).is_none_or(|owner| *owner == uid);
    let kept = has.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
    let mine = given.iter().find(|(_, owner)| **owner == uid).map(|(address, _)| *address);
    let first_free = || {
        let [a, b, c] = NETWORK;
        (1..255).map(|last| Ipv4Addr::new(a, b, c, last)).find(|address| !given.contains_key(address))
    };
    let in_pool = |address: &Ipv4Addr| address.octets().starts_with(&NETWORK);
    let address = match asked {
        Some(address) if in_pool(&address) && is_free(&address, given) => Some(address),
        // An address that nobody can have is none.
        Some(_) => None,
        None => kept.filter(|address| in_pool(address) && is_free(address, given)).or(mine).or_else(first_free),
    };
    given.retain(|_, owner| *owner != uid);
    if let Some(address) = address {
        given.insert(address, uid);
    }
    if address == kept { Ok(()) } else { write(client, service, address).await }
}

async fn write(client: &Client, service: &Service, address: Option<Ipv4Addr>) -> anyhow::Result<()> {
    let namespace = service.namespace().context("a Service without namespace")?;
    let ingress: Vec<_> = address.iter().map(|address| json!({"ip": address, "ipMode": "VIP"})).collect();
    let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    let services = Api::<Service>::namespaced(client.clone(), &namespace);
    services.patch_status(&service.name_any(), &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}
