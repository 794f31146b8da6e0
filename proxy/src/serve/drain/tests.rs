//! Leaving in order, at the deadline, and in a hurry.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::serve::{
    listener::{Accepted, Bind, ListenerKey, ListenerOptions, ServeConnection},
    registry::{LiveFacts, LiveKind},
};

/// Echoes until the client ends, the registry closes it, or, when `obedient`, the drain begins.
struct Echo {
    registry: LiveRegistry,
    watch: ShutdownWatch,
    obedient: bool,
}

impl ServeConnection for Echo {
    fn serve(&self, connection: Accepted) -> BoxFuture<'static, ()> {
        let Self { registry, watch, obedient } = self;
        let (mut watch, obedient) = (watch.clone(), *obedient);
        let registration = registry.register(LiveFacts {
            kind: LiveKind::Connection,
            listener: connection.listener.clone(),
            peer: connection.peer,
            destination: connection.local,
            principal: None,
            sni: None,
            subject: None,
        });
        async move {
            let mut stream = connection.stream;
            let (mut read, mut write) = stream.split();
            tokio::select! {
                _ = tokio::io::copy(&mut read, &mut write) => {}
                () = registration.closed() => {}
                _ = watch.wait_for(|draining| *draining), if obedient => {}
            }
        }
        .boxed()
    }
}

struct Served {
    drain: Drain,
    registry: LiveRegistry,
    listeners: ListenerSet,
    client: TcpStream,
    address: std::net::SocketAddr,
}

async fn served(obedient: bool) -> Served {
    let (drain, registry) = (Drain::new(), LiveRegistry::new());
    let echo = Echo { registry: registry.clone(), watch: drain.watch(), obedient };
    let mut listeners = ListenerSet::new(Arc::new(echo));
    let key = ListenerKey::new("a");
    let bind = Bind { key: key.clone(), address: "127.0.0.1:0".parse().unwrap(), options: ListenerOptions::default() };
    assert!(listeners.reconcile(vec![bind]).await.is_empty());
    let address = listeners.local_address(&key).unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"x").await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
    Served { drain, registry, listeners, client, address }
}

#[tokio::test]
async fn sessions_that_obey_make_the_drain_complete() {
    let Served { drain, registry, mut listeners, mut client, address } = served(true).await;
    assert!(!drain.is_draining());
    let plan = DrainPlan { lame_duck: Duration::ZERO, deadline: Duration::from_secs(60) };
    assert_eq!(drain.run(&mut listeners, &registry, plan).await, DrainOutcome::Complete);
    assert!(drain.is_draining());
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn what_lives_at_the_deadline_is_closed() {
    let Served { drain, registry, mut listeners, mut client, .. } = served(false).await;
    let plan = DrainPlan { lame_duck: Duration::ZERO, deadline: Duration::from_millis(50) };
    let outcome = drain.run(&mut listeners, &registry, plan).await;
    assert_eq!(outcome, DrainOutcome::Forced(LiveCounts { connections: 1, streams: 0 }));
    assert_eq!(client.read(&mut [0]).await.unwrap_or(0), 0);
    assert_eq!(registry.counts(), LiveCounts::default());
}

#[tokio::test]
async fn a_lame_duck_still_accepts_and_a_second_signal_ends_the_wait() {
    let Served { drain, registry, mut listeners, client: _client, address } = served(false).await;
    let plan = DrainPlan { lame_duck: Duration::from_secs(600), deadline: Duration::from_secs(600) };
    let drain = &drain;
    let during = async {
        drain.watch().wait_for(|draining| *draining).await.unwrap();
        let mut late = TcpStream::connect(address).await.unwrap();
        late.write_all(b"x").await.unwrap();
        late.read_exact(&mut [0]).await.unwrap();
        drain.hurry();
        late
    };
    let (outcome, _late) = tokio::join!(drain.run(&mut listeners, &registry, plan), during);
    assert_eq!(outcome, DrainOutcome::Forced(LiveCounts { connections: 2, streams: 0 }));
}

#[tokio::test]
async fn an_open_session_finishes_its_work_during_the_drain() {
    let Served { drain, registry, mut listeners, mut client, .. } = served(false).await;
    let plan = DrainPlan { lame_duck: Duration::ZERO, deadline: Duration::from_secs(60) };
    let work = async {
        for _ in 0..50 {
            client.write_all(b"x").await.unwrap();
            client.read_exact(&mut [0]).await.unwrap();
        }
        drop(client);
    };
    let (outcome, ()) = tokio::join!(drain.run(&mut listeners, &registry, plan), work);
    assert_eq!(outcome, DrainOutcome::Complete);
}

/// The handlers stay installed, so that the signal ends nothing but the waiting.
#[tokio::test]
async fn the_first_signal_drains_and_the_second_hurries() {
    use nix::sys::signal::{Signal, raise};
    let drain = Drain::new();
    let mut first = std::pin::pin!(terminated(&drain));
    assert!(futures::poll!(first.as_mut()).is_pending());
    raise(Signal::SIGTERM).unwrap();
    let second = tokio::time::timeout(Duration::from_secs(5), first).await.unwrap().unwrap();
    assert!(!drain.hurry.is_cancelled());
    raise(Signal::SIGTERM).unwrap();
    tokio::time::timeout(Duration::from_secs(5), second).await.unwrap();
    assert!(drain.hurry.is_cancelled());
}
