//! The mesh's root, replaced while all goes on: followed where it is kept, stepped when asked, and no step is taken that would break
//! anybody who is known to live.
//!
//! Whether one would is asked of the proxies, who say which roots they trust and which one vouches for their own certificate
//! ([`check`]); of all replicas ([`replicas`]); and of the cluster, for pods that nobody has heard of ([`cluster`]). What is not known
//! counts as broken.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kube::Client;
use parking_lot::Mutex;
use tokio::time::Instant;

pub mod check;
mod cluster;
mod follow;
mod page;
mod replicas;
mod report;
mod view;

pub use check::Obstacle;
pub use page::{HeldBack, IdentityStatus, RevocationStatus, RootStatus, StepAnswer, StepQuestion};
pub use replicas::NAME as STATUS_MAP;

use self::{
    check::{Change, Roots},
    replicas::Replicas,
    view::{NAMED, View, name, obstacles},
};
use crate::{
    ca::{
        CaError, CertificateAuthority, Direction, LiveAuthority, Material, NoStep, Phase, read_material, write_material,
    },
    identity::root::{self, Kept, RootError},
    serve::Shared,
};

/// Documents from files do not say which proxies run. They come back within this time after this process began.
const COMING_BACK: Duration = Duration::from_secs(15);

/// Where the authority is kept.
#[derive(Clone)]
pub enum Place {
    /// In a folder of this machine.
    Folder(PathBuf),
    /// In a Secret of this namespace.
    Cluster {
        /// The cluster.
        client: Client,
        /// The control plane's namespace.
        namespace: String,
    },
}

/// Watches over the mesh's root.
pub struct Rotation {
    place: Place,
    live: Arc<LiveAuthority>,
    shared: Arc<Shared>,
    replicas: Option<Replicas>,
    began: Instant,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
    held_back: Mutex<Option<HeldBack>>,
}

/// Why a step cannot be judged or taken.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// There is none.
    #[error(transparent)]
    None(#[from] NoStep),
    /// The authority cannot be read or written.
    #[error(transparent)]
    Secret(#[from] RootError),
    /// As above.
    #[error(transparent)]
    Folder(#[from] CaError),
    /// What is kept is not in force yet.
    #[error("{0} holds another authority than the one in force: it is followed, or held back, before the next step")]
    NotFollowed(String),
    /// No mesh yet.
    #[error("no configuration is compiled yet")]
    NoMesh,
    /// The task ended.
    #[error("the step was not taken: {0}")]
    Failed(String),
}

/// The authority as it is kept, wherever.
enum Holding {
    Folder(PathBuf, Material),
    Secret(Box<Kept>),
}

/// Obstacles, the first of them by name.
#[derive(Debug, Default)]
struct Verdict {
    obstacles: Vec<Obstacle>,
    more: usize,
}

impl Rotation {
    /// For this control plane. `id`: a name that no other replica has.
    pub fn new(place: Place, shared: &Arc<Shared>, id: &str) -> Arc<Self> {
        let replicas = match &place {
            Place::Folder(_) => None,
            Place::Cluster { client, namespace } => Some(Replicas::new(client.clone(), namespace, id)),
        };
        Arc::new(Self {
            place,
            live: Arc::clone(shared.authority()),
            shared: Arc::clone(shared),
            replicas,
            began: Instant::now(),
            turn: tokio::sync::Mutex::default(),
            held_back: Mutex::default(),
        })
    }

    /// Takes a step, or says who would break.
    ///
    /// # Errors
    /// When there is no such step, or what is kept cannot be read or written.
    pub async fn step(&self, question: &StepQuestion) -> Result<StepAnswer, StepError> {
        let StepQuestion { direction, is_dry_run } = question;
        let _turn = self.turn.lock().await;
        let mesh = self.shared.mesh.borrow().clone().ok_or(StepError::NoMesh)?;
        let now = SystemTime::now();
        let holding = self.read().await?;
        if let Holding::Secret(kept) = &holding
            && kept.is_plugged_in
        {
            return Err(NoStep::PluggedIn.into());
        }
        let present = self.live.current();
        let from = Roots::of(&present);
        let kept = holding.authority(holding.material().clone(), now)?;
        if Roots::of(&kept) != from || kept.phase() != present.phase() {
            return Err(StepError::NotFollowed(holding.place()));
        }
        let next = holding.material().clone().step(*direction, mesh.trust_domain(), now)?;
        let authority = holding.authority(next.clone(), now)?;
        let change = Change { from, to: Roots::of(&authority) };
        let Verdict { obstacles, more } = self.judge(&change).await;
        let (before, after) = (present.phase(), authority.phase());
        let step = describe(before, *direction);
        let is_done = obstacles.is_empty() && !is_dry_run;
        if is_done {
            self.write(holding, next).await?;
            tracing::info!(step, "the mesh's root is being replaced");
            self.live.replace(authority);
        } else if !obstacles.is_empty() {
            tracing::warn!(step, obstacles = obstacles.len() + more, first = ?obstacles.first(), "a step of the root is refused");
        }
        Ok(StepAnswer { is_done, step: step.to_owned(), before, after, obstacles, more })
    }

    /// Who would break by a change.
    async fn judge(&self, change: &Change) -> Verdict {
        let mut found = Verdict::default();
        let Some(replicas) = &self.replicas else {
            if change.against(None).is_some() && self.began.elapsed() < COMING_BACK {
                let left = COMING_BACK.saturating_sub(self.began.elapsed()).as_secs() + 1;
                let why = format!("it has only just begun; proxies may be on their way back: ask again in {left} s");
                found.add("the control plane", why);
            }
            found.join(self.view(change));
            return found;
        };
        let mut connected = std::collections::BTreeSet::new();
        match replicas.ask(change.clone()).await {
            Ok(views) => {
                for (replica, view) in views {
                    if view.in_force != change.from && view.in_force != change.to {
                        found.add(format!("replica {replica}"), "other roots are in force there".to_owned());
                    }
                    connected.extend(view.connected.iter().cloned());
                    found.join(view);
                }
            }
            Err(error) => found.add("the replicas", error.to_string()),
        }
        let pods = self.shared.mesh.borrow().as_ref().map(|mesh| mesh.proxied()).unwrap_or_default();
        found.extend(cluster::unconnected(change, &pods, &connected));
        if let Place::Cluster { client, .. } = &self.place {
            match cluster::published(client, change).await {
                Ok(obstacles) => found.extend(obstacles),
                Err(error) => found.add("the cluster", format!("what is published there cannot be read: {error}")),
            }
        }
        found
    }

    /// What this replica knows.
    fn view(&self, change: &Change) -> View {
        let present = self.live.current();
        let mut found = Verdict::default();
        match self.shared.mesh.borrow().as_ref() {
            Some(mesh) => {
                let (fleet, lifetime) = (&self.shared.fleet, self.shared.certificate_lifetime);
                for (pod, why) in obstacles(change, fleet, &**mesh, lifetime, SystemTime::now()) {
                    found.add(format!("proxy {}", name(&pod)), why);
                }
            }
            None => found.add("the control plane", "no configuration is compiled yet".to_owned()),
        }
        let connected = self.shared.fleet.connected().iter().map(view::mark).collect();
        let Verdict { obstacles, more } = found;
        View { in_force: Roots::of(&present), phase: present.phase(), obstacles, more, connected }
    }

    async fn read(&self) -> Result<Holding, StepError> {
        match &self.place {
            Place::Folder(folder) => {
                let folder = folder.clone();
                let read =
                    tokio::task::spawn_blocking(move || read_material(&folder).map(|material| (folder, material)));
                let (folder, material) = read.await.map_err(|error| StepError::Failed(error.to_string()))??;
                Ok(Holding::Folder(folder, material))
            }
            Place::Cluster { client, namespace } => match root::read(client, namespace).await? {
                Some(kept) => Ok(Holding::Secret(Box::new(kept))),
                None => Err(StepError::NotFollowed(format!("namespace {namespace}"))),
            },
        }
    }

    async fn write(&self, was: Holding, next: Material) -> Result<(), StepError> {
        match (was, &self.place) {
            (Holding::Folder(folder, _), _) => {
                let written = tokio::task::spawn_blocking(move || write_material(&folder, &next)).await;
                Ok(written.map_err(|error| StepError::Failed(error.to_string()))??)
            }
            (Holding::Secret(kept), Place::Cluster { client, namespace }) => {
                Ok(root::replace(client, namespace, &kept, next).await?)
            }
            (Holding::Secret(_), Place::Folder(folder)) => Err(StepError::NotFollowed(folder.display().to_string())),
        }
    }
}

impl Holding {
    fn material(&self) -> &Material {
        match self {
            Self::Folder(_, material) => material,
            Self::Secret(kept) => &kept.material,
        }
    }

    fn place(&self) -> String {
        match self {
            Self::Folder(folder, _) => folder.display().to_string(),
            Self::Secret(kept) => kept.place.clone(),
        }
    }

    /// The authority that other parts in this place would make.
    fn authority(&self, material: Material, now: SystemTime) -> Result<CertificateAuthority, CaError> {
        material.authority(&PathBuf::from(self.place()), now)
    }
}

impl Verdict {
    fn add(&mut self, who: impl Into<String>, why: String) {
        if self.obstacles.len() < NAMED {
            self.obstacles.push(Obstacle { who: who.into(), why });
        } else {
            self.more += 1;
        }
    }

    fn extend(&mut self, obstacles: Vec<Obstacle>) {
        for Obstacle { who, why } in obstacles {
            self.add(who, why);
        }
    }

    fn join(&mut self, view: View) {
        self.extend(view.obstacles);
        self.more += view.more;
    }
}

/// What a step does, in words.
fn describe(before: Option<Phase>, direction: Direction) -> &'static str {
    match (before, direction) {
        (None, _) => "a new root is trusted beside the old one, which goes on signing",
        (Some(Phase::Distributing), Direction::Forward) => "the new root signs; both are trusted",
        (Some(Phase::Distributing), Direction::Back) => "the new root is dropped; the old one stays",
        (Some(Phase::Signing), Direction::Forward) => "the old root is trusted no more",
        (Some(Phase::Signing), Direction::Back) => "the old root signs again; both are trusted",
    }
}
