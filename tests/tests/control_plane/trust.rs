//! What a connection's certificate is worth is judged by what is trusted now, and a token beside it goes on to prove its pod.

use palisade_control::rotation::{Place, Rotation, StepQuestion};
use palisade_model::{
    feature,
    resource::Feature,
    trust::{Standing, Trust},
};
use palisade_proxy::config::{IssuedIdentity, Trusting};
use palisade_tests::wait::until;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

/// Takes what it is told, and says so.
pub(crate) struct Obedient(watch::Sender<Standing>);

impl Trusting for Obedient {
    fn trust(&self, trust: Trust) -> Standing {
        let standing = Standing { trust: Some(trust.version().unwrap()), ..Standing::default() };
        self.0.send_replace(standing.clone());
        standing
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.0.subscribe()
    }
}

/// A certificate of another mesh's authority.
fn foreign(folder: &Path) -> Arc<IssuedIdentity> {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let identity = "spiffe://cluster.local/ns/foo/sa/a".parse().unwrap();
    let chain = authority(folder).sign(&csr, &identity, HOUR, SystemTime::now()).unwrap();
    let mut chain = chain.into_iter();
    let (leaf, bundle) = (chain.next().unwrap(), chain.next().unwrap());
    Arc::new(IssuedIdentity::new(leaf, key.serialize_pem(), bundle).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_does_not_count_hinders_nobody_who_has_a_token() {
    let mesh = Mesh::new();
    let control = mesh.start();
    let shown = foreign(&mesh.path("foreign"));
    let dialer = |identity: &Arc<IssuedIdentity>| {
        let Dialer::Tls(dialer) = mesh.dialer(mesh.path("ca/root-cert.pem")) else { panic!("no TLS") };
        dialer.credentials.set(Arc::clone(identity));
        Dialer::Tls(dialer)
    };
    let proxy = Proxy::start(dialer(&shown), mesh.token(&pod("a-1", "a")));
    proxy.until("a first snapshot", |state| state.snapshot.is_some()).await;
    let token = mesh.token(&pod("a-1", "a"));
    let client = IdentityClient { dialer: dialer(&shown), token, lifetime: None };
    let issued = client.request().await.unwrap();
    assert_eq!(issued.bundle_pem(), fs::read_to_string(mesh.path("ca/root-cert.pem")).unwrap());
    // Without one it proves nothing.
    let proxy = Proxy::start(dialer(&shown), TokenSource::Fixed("garbage".into()));
    assert!(proxy.error().await.contains("malformed"));
    control.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_proxy_is_in_the_way_of_a_step_and_a_newer_one_is_told_first() {
    let mesh = Mesh::new();
    let stop = CancellationToken::new();
    let options = SourceOptions { is_files: true, ..Default::default() };
    let control = standalone(vec![mesh.path("documents")], "default", options, &mesh.path("ca"), stop.clone()).unwrap();
    let rotation = Rotation::new(Place::Folder(mesh.path("ca")), control.shared(), "test");
    let forward = |is_dry_run| StepQuestion { direction: palisade_control::ca::Direction::Forward, is_dry_run };
    // To trust one root more breaks nobody, whatever he understands.
    let older = {
        let token = control.token(&WorkloadRef { namespace: "foo".into(), name: "a-1".into() }).unwrap();
        Proxy::start(Dialer::Pipe(Pipe::new(control.connect.clone())), TokenSource::Fixed(token))
    };
    older.until("a first snapshot", |state| state.snapshot.is_some()).await;
    assert!(rotation.step(&forward(true)).await.unwrap().obstacles.is_empty());
    assert!(control.shared().authority().current().phase().is_none(), "a dry run does nothing");
    assert!(rotation.step(&forward(false)).await.unwrap().is_done);
    let refused = rotation.step(&forward(false)).await.unwrap();
    let why: Vec<&str> = refused.obstacles.iter().map(|obstacle| &*obstacle.why).collect();
    assert!(!refused.is_done && why.iter().any(|why| why.contains("does not say what it trusts")), "{refused:?}");
    assert!(refused.obstacles.iter().any(|obstacle| obstacle.who == "proxy foo/a-1"), "{refused:?}");
    assert!(why.iter().any(|why| why.contains("only just begun")), "proxies may be on their way back: {refused:?}");

    // Away, but alive for all that is known: its certificate lasts.
    drop(older);
    until("away", LIMIT, async || {
        let refused = rotation.step(&forward(false)).await?;
        let away = refused.obstacles.iter().find(|obstacle| obstacle.who == "proxy foo/a-1");
        anyhow::ensure!(away.is_some_and(|away| away.why.contains("not connected")), "{away:?}");
        Ok(())
    })
    .await
    .unwrap();
    // The same pod with a newer proxy: it is told before it has any configuration.
    let (sender, mut told) = watch::channel(Standing::default());
    let profile = Profile {
        namespace: "foo".into(),
        name: "a-1".into(),
        build: "test".into(),
        features: [Feature(feature::TRUST.into())].into(),
        short_id: "a".into(),
    };
    let token = control.token(&WorkloadRef { namespace: "foo".into(), name: "a-1".into() }).unwrap();
    let dialer = Dialer::Pipe(Pipe::new(control.connect.clone()));
    let applier = Arc::new(Counting::default());
    let counted = Arc::clone(&applier);
    let (client, subscriptions) =
        ConfigClient::new(profile, dialer, TokenSource::Fixed(token), applier, BTreeSet::new());
    tokio::spawn(client.with_trusting(Arc::new(Obedient(sender))).run(stop.clone()));
    tokio::time::timeout(Duration::from_secs(20), told.wait_for(|told| told.trust.is_some())).await.unwrap().unwrap();
    let version = control.shared().authority().current().trust().version().unwrap();
    assert_eq!(told.borrow().trust, Some(version));
    let mut state = subscriptions.state();
    tokio::time::timeout(Duration::from_secs(20), state.wait_for(|state| state.snapshot.is_some()))
        .await
        .unwrap()
        .unwrap();
    assert!(counted.0.load(Ordering::Relaxed) > 0);
    // It does not trust the new root, as it says.
    until("what it says", LIMIT, async || {
        let refused = rotation.step(&forward(false)).await?;
        let is_heard = refused.obstacles.iter().any(|obstacle| obstacle.why.contains("does not trust the root"));
        anyhow::ensure!(is_heard, "{refused:?}");
        Ok(())
    })
    .await
    .unwrap();
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_for_certificates_is_its_own_callers_only() {
    let mesh = Mesh::new();
    let control = mesh.start();
    let client = |name: &str, account: &str| {
        let (dialer, token) = (mesh.dialer(mesh.path("ca/root-cert.pem")), mesh.token(&pod(name, account)));
        IdentityClient { dialer, token, lifetime: None }
    };
    let (flooding, calm) = (client("a-1", "a"), client("b-1", "b"));
    let ready = || async { Ok(calm.request().await.map(drop)?) };
    until("the control plane", LIMIT, ready).await.unwrap();
    let (mut signed, mut refused) = (0, String::new());
    for _ in 0..100 {
        let results = futures::future::join_all((0..8).map(|_| flooding.request())).await;
        for result in results {
            match result {
                Ok(_) => signed += 1,
                Err(error) => refused = error.to_string(),
            }
        }
        if !refused.is_empty() {
            break;
        }
    }
    assert!(refused.contains("too many from this caller"), "{refused:?} after {signed}");
    calm.request().await.unwrap();
    control.end().await;
}
