//! Which replica writes: one Lease, held by one replica at a time.
//!
//! A replica holds it as far as its own clocks say: from before it asked for the last renewal that succeeded, for less time than
//! the others wait. One that was frozen sees when it wakes that its time is over, before it writes anything.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long others wait after the last renewal that they have seen.
pub const LEASE: Duration = Duration::from_secs(12);

/// How long a holder counts on a renewal: less than [`LEASE`], so that two never hold at a time.
const HELD: Duration = Duration::from_secs(8);

/// How often a holder renews.
const RENEW: Duration = Duration::from_secs(2);

/// How often the others look.
const LOOK: Duration = Duration::from_secs(1);

/// An attempt takes no longer.
const ATTEMPT: Duration = Duration::from_secs(4);

/// Which lease, and who asks for it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Namespace of the control plane.
    pub namespace: String,
    /// Name of the Lease.
    pub lease: String,
    /// Unique among replicas: the pod's name, or anything that no other process has.
    pub identity: String,
    /// Where other replicas reach this one.
    pub address: SocketAddr,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its identity.
    pub name: Arc<str>,
    /// Where it is reached.
    pub address: SocketAddr,
}

/// Annotation of the Lease: where its holder is reached by other replicas.
pub const ADDRESS: &str = "palisade.dev/address";

/// Whether this replica holds the lease.
#[derive(Debug, Clone)]
pub struct Leadership(watch::Receiver<Option<Term>>);

/// Held since this renewal, by both clocks: one stands still while a machine sleeps, the other can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Term {
    renewed: Instant,
    at: SystemTime,
}

/// Somebody else's hold, as this replica sees it.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    holder: String,
    renewed: Option<MicroTime>,
    transitions: Option<i32>,
    since: Instant,
}

impl Leadership {
    /// Whether it holds the lease now. To be asked before every batch of writes.
    pub fn holds(&self) -> bool {
        self.0.borrow().is_some_and(|term| term.is_current())
    }

    /// Waits until this replica has become the holder, or is none any more.
    ///
    /// # Errors
    /// When the election has ended.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.0.changed().await
    }

    /// Waits until this replica holds the lease.
    ///
    /// # Errors
    /// When the election has ended.
    pub async fn held(&mut self) -> Result<(), watch::error::RecvError> {
        while !self.holds() {
            tokio::select! {
                biased;
                changed = self.changed() => changed?,
                // A hold that has run out may be renewed without a word.
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        Ok(())
    }
}

impl Term {
    fn is_current(&self) -> bool {
        let by_calendar = self.at.elapsed();
        self.renewed.elapsed() < HELD && by_calendar.is_ok_and(|elapsed| elapsed < HELD)
    }
}

/// Starts an election that runs until `stop`, then gives the lease back if it has it.
pub fn campaign(client: Client, candidate: Candidate, stop: CancellationToken) -> (Leadership, Campaign) {
    let (sender, receiver) = watch::channel(None);
    let api = Api::namespaced(client, &candidate.namespace);
    let leader = watch::Sender::new(None);
    (Leadership(receiver), Campaign { api, candidate, sender, leader, seen: None, stop })
}

/// The election, as the task that it is.
pub struct Campaign {
    api: Api<Lease>,
    candidate: Candidate,
    sender: watch::Sender<Option<Term>>,
    leader: watch::Sender<Option<Leader>>,
    seen: Option<Seen>,
    stop: CancellationToken,
}

impl Campaign {
    /// Which other replica leads, as the Lease says; `None` while it says nothing, or names this one.
    pub fn leaders(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.subscribe()
    }

    /// Runs until stopped.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        loop {
            let started = Instant::now();
            let at = SystemTime::now();
            let attempt = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                attempt = tokio::time::timeout(ATTEMPT, self.attempt()) => attempt,
            };
            let is_renewed = matches!(attempt, Ok(Ok(true)));
            let held = match attempt {
                Ok(Ok(is_held)) => is_held,
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = %self.candidate.lease, "the lease cannot be asked for");
                    self.still_holds()
                }
                Err(_) => {
                    tracing::warn!(lease = %self.candidate.lease, "the lease gave no answer in time");
                    self.still_holds()
                }
            };
            match (held, is_renewed) {
                (true, true) => self.hold(Term { renewed: started, at }),
                // What was renewed before counts a while longer.
                (true, false) => {}
                (false, _) => self.lose(),
            }
            let pause = if held { RENEW } else { self.until_free().min(LOOK) };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.release().await;
    }

    fn still_holds(&self) -> bool {
        self.sender.borrow().is_some_and(|term| term.is_current())
    }

    fn hold(&self, term: Term) {
        let is_new = self.sender.borrow().is_none();
        if is_new {
            tracing::info!(lease = %self.candidate.lease, identity = %self.candidate.identity, "leading");
            self.sender.send_replace(Some(term));
        } else {
            // A renewal wakes nobody.
            self.sender.send_if_modified(|held| {
                *held = Some(term);
                false
            });
        }
    }

    fn lose(&self) {
        if self.sender.borrow().is_some() {
            tracing::warn!(lease = %self.candidate.lease, "not leading any more");
            self.sender.send_replace(None);
        }
    }

    /// Time until the lease of another one is over.
    fn until_free(&self) -> Duration {
        match &self.seen {
            Some(seen) if !seen.holder.is_empty() => LEASE.saturating_sub(seen.since.elapsed()),
            Some(_) | None => LOOK,
        }
    }

    /// Takes or renews the lease; whether this replica has it now.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let Some(found) = self.api.get_opt(&self.candidate.lease).await? else {
            let lease = Lease {
                metadata: self.marked(ObjectMeta { name: Some(self.candidate.lease.clone()), ..ObjectMeta::default() }),
                spec: Some(self.spec(None)),
            };
            return match self.api.create(&PostParams::default(), &lease).await {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
                Err(error) => Err(error),
            };
        };
        let spec = found.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        self.see(&holder, found.metadata.annotations.as_ref());
        if holder != self.candidate.identity && !self.is_free(&spec, holder) {
            return Ok(false);
        }
        // The resource version makes one of several that try at once win.
        let lease = Lease { metadata: self.marked(found.metadata), spec: Some(self.spec(Some(&spec))) };
        match self.api.replace(&self.candidate.lease, &PostParams::default(), &lease).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Notes who leads.
    fn see(&self, holder: &str, annotations: Option<&BTreeMap<String, String>>) {
        let address = annotations.and_then(|all| all.get(ADDRESS)).and_then(|text| text.parse().ok());
        let is_other = !holder.is_empty() && *holder != *self.candidate.identity;
        let leader = address.filter(|_| is_other).map(|address| Leader { name: holder.into(), address });
        self.leader.send_if_modified(|known| {
            let is_new = *known != leader;
            *known = leader;
            is_new
        });
    }

    /// With the address that others reach this replica at.
    fn marked(&self, mut metadata: ObjectMeta) -> ObjectMeta {
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.insert(ADDRESS.to_owned(), self.candidate.address.to_string());
        metadata
    }

    /// Whether the hold of another one is over: given back, or not renewed for as long as this replica has watched it.
    fn is_free(&mut self, spec: &LeaseSpec, holder: String) -> bool {
        let (renewed, transitions) = (spec.renew_time.clone(), spec.lease_transitions);
        let is_known = self
            .seen
            .as_ref()
            .is_some_and(|seen| seen.holder == holder && seen.renewed == renewed && seen.transitions == transitions);
        if !is_known {
            self.seen = Some(Seen { holder: holder.clone(), renewed, transitions, since: Instant::now() });
        }
        holder.is_empty() || self.seen.as_ref().is_some_and(|seen| seen.since.elapsed() >= LEASE)
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(jiff::Timestamp::now());
        let is_renewal =
            before.is_some_and(|before| before.holder_identity.as_deref() == Some(&*self.candidate.identity));
        let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.candidate.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            acquire_time: before.filter(|_| is_renewal).and_then(|b| b.acquire_time.clone()).or(Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if is_renewal { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }

    /// Gives the lease back, so that another replica leads at once.
    async fn release(self) {
        if !self.still_holds() {
            return;
        }
        self.sender.send_replace(None);
        let given_back = tokio::time::timeout(ATTEMPT, async {
            let mut lease = self.api.get(&self.candidate.lease).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&*self.candidate.identity) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
            self.api.replace(&self.candidate.lease, &PostParams::default(), &lease).await.map(drop)
        });
        match given_back.await {
            Ok(Ok(())) => tracing::info!(lease = %self.candidate.lease, "lease given back"),
            Ok(Err(error)) => tracing::warn!(%error, "the lease is not given back"),
            Err(_) => tracing::warn!("the lease is not given back in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leadership(ago: Duration) -> Leadership {
        let (sender, receiver) = watch::channel(None);
        let renewed = Instant::now().checked_sub(ago).unwrap();
        sender.send_replace(Some(Term { renewed, at: SystemTime::now() - ago }));
        Leadership(receiver)
    }

    #[test]
    fn a_hold_ends_before_others_may_take_it() {
        assert!(HELD + ATTEMPT <= LEASE);
        assert!(leadership(Duration::from_secs(1)).holds());
        assert!(!leadership(HELD).holds());
    }

    #[test]
    fn a_machine_that_slept_holds_nothing() {
        let (sender, receiver) = watch::channel(None);
        // The monotonic clock stood still.
        sender.send_replace(Some(Term { renewed: Instant::now(), at: SystemTime::now() - LEASE }));
        assert!(!Leadership(receiver).holds());
    }
}
