//! Host names of endpoints, resolved by the proxy itself: an answer lives as long as it says, and the last good one outlives
//! failures.
//!
//! The proxy asks the resolvers that its pod came with, past its own capture of DNS: the application's names for hosts
//! outside the mesh lead to virtual addresses, which lead here.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ahash::AHashMap;
use palisade_model::{endpoint::Address, settings::ProxySettings};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::request::{balance::Picked, dynamic};

mod query;

/// How long a connection waits for a name that was never resolved.
const WAIT: Duration = Duration::from_secs(5);
/// Answers are kept for no less and no more than this, whatever they say (Envoy's least refresh rate is 1 s).
const LIFETIMES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// An answer this long past its time is still used while the next one is fetched.
const GRACE: Duration = Duration::from_secs(60);
/// The next try after a failure: with a good answer in hand (istio-semantics 7), and without one.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(5));
/// Names that are remembered; with wildcard hosts it is clients that choose them.
const MAX_NAMES: usize = 4096;

/// Where names are looked up.
#[derive(Debug, Clone)]
pub struct NamesSettings {
    /// Resolvers and search domains, in the form of `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Names that need no resolver, in the form of `/etc/hosts`.
    pub hosts: PathBuf,
    /// Mark of the sockets, where redirection rules know the proxy's own by it.
    pub socket_mark: Option<u32>,
}

/// The names of a process. Clones show the same answers.
#[derive(Debug, Clone)]
pub struct Names {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: NamesSettings,
    known: Mutex<AHashMap<Arc<str>, Arc<Known>>>,
}

#[derive(Debug)]
struct Known {
    state: Mutex<State>,
    is_asking: AtomicBool,
    answered: watch::Sender<u64>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct State {
    good: Option<Arc<[IpAddr]>>,
    /// When the next answer is due; `None` = nobody asked yet.
    due: Option<Instant>,
    used: Instant,
}

/// What is known of a name.
enum Held {
    /// These addresses.
    Fresh(Arc<[IpAddr]>),
    /// These, and a newer answer is due.
    Stale(Arc<[IpAddr]>),
    /// A failure, not long ago.
    Failed,
    /// Nothing that may be used without asking; perhaps an old answer.
    Old(Option<Arc<[IpAddr]>>),
}

/// What a resolver said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    addresses: Vec<IpAddr>,
    lifetime: Duration,
}

/// Why nothing can be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoDestination {
    /// The name has no address.
    #[error("the endpoint's name does not resolve")]
    Unresolved,
    /// A name that the client chose leads to this machine, or to a metadata service.
    #[error("the host's name leads to this machine or its neighbours")]
    Inside,
}

impl Default for NamesSettings {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into(), socket_mark: None }
    }
}

impl Names {
    /// No names yet.
    pub fn new(settings: NamesSettings) -> Self {
        Self { inner: Arc::new(Inner { settings, known: Mutex::default() }) }
    }

    /// Where what was picked is now.
    ///
    /// # Errors
    /// It has no address, or one where its name must not lead.
    pub async fn destination(&self, picked: &Picked, settings: &ProxySettings) -> Result<SocketAddr, NoDestination> {
        let has_v6 = settings.addresses.iter().any(IpAddr::is_ipv6);
        let address = self.locate(&picked.address, has_v6).await.ok_or(NoDestination::Unresolved)?;
        if !dynamic::may_lead_to(settings, picked, address.ip()) {
            return Err(NoDestination::Inside);
        }
        Ok(address)
    }

    /// Where an endpoint is now; `None` when its name has no address, or the endpoint is no IP address at all. Of several
    /// addresses each call takes the next, except for [`Address::LogicalName`]. `has_v6`: the proxy can reach IPv6.
    pub async fn locate(&self, address: &Address, has_v6: bool) -> Option<SocketAddr> {
        let (name, port, is_logical) = match address {
            Address::Socket(address) => return Some(*address),
            Address::Unix(_) => return None,
            Address::Name(name, port) => (name, *port, false),
            Address::LogicalName(name, port) => (name, *port, true),
        };
        if let Ok(ip) = name.parse::<IpAddr>() {
            return Some(SocketAddr::new(ip, port));
        }
        let known = self.known(name);
        let addresses = self.addresses(name, &known, has_v6).await?;
        let turn = if is_logical { 0 } else { known.turn.fetch_add(1, Ordering::Relaxed) };
        let at = turn.checked_rem(addresses.len())?;
        addresses.get(at).map(|ip| SocketAddr::new(*ip, port))
    }

    async fn addresses(&self, name: &Arc<str>, known: &Arc<Known>, has_v6: bool) -> Option<Arc<[IpAddr]>> {
        let mut answered = known.answered.subscribe();
        let old = match known.held(Instant::now()) {
            Held::Fresh(addresses) => return Some(addresses),
            Held::Stale(addresses) => {
                self.ask(name, known, has_v6);
                return Some(addresses);
            }
            Held::Failed => return None,
            Held::Old(old) => old,
        };
        self.ask(name, known, has_v6);
        // Whatever comes of it is in the state; without an answer in time the last good one is.
        let _ = tokio::time::timeout(WAIT, answered.changed()).await;
        match known.held(Instant::now()) {
            Held::Fresh(addresses) | Held::Stale(addresses) => Some(addresses),
            Held::Failed | Held::Old(_) => old,
        }
    }

    /// Asks, unless somebody does already. The task lives no longer than the resolvers' time limits.
    fn ask(&self, name: &Arc<str>, known: &Arc<Known>, has_v6: bool) {
        if known.is_asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let (inner, name, known) = (Arc::clone(&self.inner), Arc::clone(name), Arc::clone(known));
        tokio::spawn(async move {
            let found = query::find(&inner.settings, &name, has_v6).await;
            if let Err(error) = &found {
                tracing::debug!(%name, %error, "a name does not resolve");
            }
            known.store(found.ok(), Instant::now());
            known.is_asking.store(false, Ordering::Release);
            known.answered.send_modify(|count| *count = count.wrapping_add(1));
        });
    }

    fn known(&self, name: &Arc<str>) -> Arc<Known> {
        let mut all = self.inner.known.lock();
        if let Some(known) = all.get(name) {
            return Arc::clone(known);
        }
        if all.len() >= MAX_NAMES {
            // The half that was used least recently goes; connections in progress keep what they hold.
            let mut times: Vec<Instant> = all.values().map(|known| known.state.lock().used).collect();
            times.sort_unstable();
            if let Some(middle) = times.get(times.len() / 2).copied() {
                all.retain(|_, known| known.state.lock().used > middle);
            }
        }
        let known = Arc::new(Known {
            state: Mutex::new(State { good: None, due: None, used: Instant::now() }),
            is_asking: AtomicBool::new(false),
            answered: watch::Sender::new(0),
            turn: AtomicUsize::new(0),
        });
        all.insert(Arc::clone(name), Arc::clone(&known));
        known
    }
}

impl Known {
    fn held(&self, now: Instant) -> Held {
        let mut state = self.state.lock();
        state.used = now;
        match (&state.good, state.due) {
            (Some(good), Some(due)) if now < due => Held::Fresh(Arc::clone(good)),
            (Some(good), Some(due)) if now < due + GRACE => Held::Stale(Arc::clone(good)),
            (None, Some(due)) if now < due => Held::Failed,
            (good, _) => Held::Old(good.clone()),
        }
    }

    fn store(&self, found: Option<Found>, now: Instant) {
        let mut state = self.state.lock();
        let (with_answer, without) = AFTER_FAILURE;
        match found {
            Some(Found { addresses, lifetime }) if !addresses.is_empty() => {
                let (least, most) = LIFETIMES;
                state.good = Some(addresses.into());
                state.due = Some(now + lifetime.clamp(least, most));
            }
            Some(_) | None => state.due = Some(now + if state.good.is_some() { with_answer } else { without }),
        }
    }
}

#[cfg(test)]
mod tests;
