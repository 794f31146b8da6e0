//! Listeners that come, stay and go.

use std::process::Command;

use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Sends the listener's key, then what it receives.
struct Echo;

impl ServeConnection for Echo {
    fn serve(&self, connection: Accepted) -> BoxFuture<'static, ()> {
        async move {
            let Accepted { mut stream, listener, slot: _slot, .. } = connection;
            if stream.write_all(listener.as_str().as_bytes()).await.is_err() {
                return;
            }
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
        .boxed()
    }
}

fn bind(key: &str, address: &str) -> Bind {
    let options = ListenerOptions { keepalive: Some(Duration::from_secs(60)), ..ListenerOptions::default() };
    Bind { key: ListenerKey::new(key), address: address.parse().unwrap(), options }
}

fn set() -> ListenerSet {
    ListenerSet::new(Arc::new(Echo))
}

fn address(set: &ListenerSet, key: &str) -> SocketAddr {
    set.local_address(&ListenerKey::new(key)).unwrap()
}

/// Connects and reads the greeting of as many bytes as `key` has.
async fn greet(address: SocketAddr, key: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut greeting = vec![0; key.len()];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(greeting, key.as_bytes());
    stream
}

async fn is_alive(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"x").await.is_ok() && stream.read_exact(&mut byte).await.is_ok()
}

#[tokio::test]
async fn listeners_come_stay_and_go_live() {
    let mut set = set();
    assert!(set.reconcile(vec![bind("a", "127.0.0.1:0"), bind("b", "127.0.0.1:0")]).await.is_empty());
    let (a, b) = (address(&set, "a"), address(&set, "b"));
    let (mut on_a, mut on_b) = (greet(a, "a").await, greet(b, "b").await);

    assert!(set.reconcile(vec![bind("b", "127.0.0.1:0"), bind("c", "127.0.0.1:0")]).await.is_empty());
    assert_eq!(address(&set, "b"), b, "what stays keeps its socket");
    assert!(TcpStream::connect(a).await.is_err(), "what went refuses");
    assert!(is_alive(&mut on_a).await, "its connections live on");
    assert!(is_alive(&mut on_b).await);
    greet(address(&set, "c"), "c").await;
}

#[tokio::test]
async fn a_renamed_listener_keeps_its_socket_and_a_moved_one_moves() {
    let mut set = set();
    set.reconcile(vec![bind("old", "127.0.0.1:0")]).await;
    let first = address(&set, "old");
    let mut open = greet(first, "old").await;
    set.reconcile(vec![bind("new", &first.to_string())]).await;
    assert_eq!(address(&set, "new"), first);
    greet(first, "new").await;
    assert!(is_alive(&mut open).await);

    set.reconcile(vec![bind("new", "127.0.0.2:0")]).await;
    let second = address(&set, "new");
    assert_eq!(second.ip().to_string(), "127.0.0.2");
    assert!(TcpStream::connect(first).await.is_err());
    greet(second, "new").await;
}

#[tokio::test]
async fn a_bind_that_fails_is_reported_and_leaves_the_others_and_its_former_self() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = taken.local_addr().unwrap().to_string();
    let mut set = set();
    let errors = set.reconcile(vec![bind("a", "127.0.0.1:0"), bind("b", &taken_address)]).await;
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].key, ListenerKey::new("b"));
    let a = address(&set, "a");
    greet(a, "a").await;
    let errors = set.reconcile(vec![bind("a", &taken_address), bind("b", "127.0.0.1:0")]).await;
    assert_eq!((errors.len(), &errors[0].key), (1, &ListenerKey::new("a")));
    greet(a, "a").await;
    greet(address(&set, "b"), "b").await;
    drop(taken);
    assert!(set.reconcile(vec![bind("a", &taken_address)]).await.is_empty(), "a later attempt succeeds");
    greet(taken_address.parse().unwrap(), "a").await;
}

#[tokio::test]
async fn connections_over_the_limit_are_reset_and_the_limit_changes_live() {
    let mut set = set();
    let limited = |limit| {
        let mut bind = bind("a", "127.0.0.1:0");
        bind.options.max_connections = NonZeroUsize::new(limit);
        bind
    };
    set.reconcile(vec![limited(1)]).await;
    let a = address(&set, "a");
    let mut first = greet(a, "a").await;
    let mut second = TcpStream::connect(a).await.unwrap();
    assert!(second.read_exact(&mut [0]).await.is_err(), "the second is reset");
    assert!(is_alive(&mut first).await);
    set.reconcile(vec![limited(2)]).await;
    let _third = greet(a, "a").await;
    let counts: Vec<_> = set.counts().map(|(_, counts)| counts).collect();
    assert_eq!((counts[0].open, counts[0].accepted, counts[0].refused), (2, 2, 1));
}

#[tokio::test]
async fn dual_stack_serves_both_families_and_shows_ipv4_as_ipv4() {
    struct Peer(tokio::sync::mpsc::Sender<(SocketAddr, SocketAddr)>);
    impl ServeConnection for Peer {
        fn serve(&self, connection: Accepted) -> BoxFuture<'static, ()> {
            let sender = self.0.clone();
            async move { sender.send((connection.peer, connection.local)).await.unwrap() }.boxed()
        }
    }
    // One slot per connection of this test.
    let (sender, mut receiver) = tokio::sync::mpsc::channel(2);
    let mut set = ListenerSet::new(Arc::new(Peer(sender)));
    if !set.reconcile(vec![bind("a", "[::]:0")]).await.is_empty() {
        return; // no IPv6 on this machine
    }
    let port = address(&set, "a").port();
    for target in ["127.0.0.1", "::1"] {
        let target: std::net::IpAddr = target.parse().unwrap();
        let stream = TcpStream::connect((target, port)).await.unwrap();
        let (peer, local) = receiver.recv().await.unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
        assert_eq!(local, stream.peer_addr().unwrap());
    }
}

#[tokio::test]
async fn connections_that_were_queued_before_the_stop_are_served() {
    let mut set = set();
    set.reconcile(vec![bind("a", "127.0.0.1:0")]).await;
    let a = address(&set, "a");
    // On this one thread nothing is accepted before the set is told to stop.
    let queued: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(a).unwrap()).collect();
    set.stop_accepting().await;
    for stream in queued {
        stream.set_nonblocking(true).unwrap();
        assert!(is_alive(&mut TcpStream::from_std(stream).unwrap()).await);
    }
    assert!(TcpStream::connect(a).await.is_err());
    tokio::time::timeout(Duration::from_secs(5), set.finished()).await.unwrap();
}

#[tokio::test]
async fn aborting_ends_all_connections() {
    let mut set = set();
    set.reconcile(vec![bind("a", "127.0.0.1:0")]).await;
    let mut open = greet(address(&set, "a"), "a").await;
    set.stop_accepting().await;
    assert_eq!(set.open_connections(), 1);
    set.abort();
    tokio::time::timeout(Duration::from_secs(5), set.finished()).await.unwrap();
    assert_eq!(open.read(&mut [0]).await.unwrap_or(0), 0);
}

/// Runs itself again with few file descriptors: accepting goes on once some are free again.
#[test]
fn running_out_of_file_descriptors_does_not_end_the_loop() {
    const NAME: &str = "serve::listener::tests::running_out_of_file_descriptors_does_not_end_the_loop";
    const INNER: &str = "PALISADE_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(INNER).is_none() {
        let program = std::env::current_exe().unwrap();
        let status = Command::new("sh")
            .args(["-c", "ulimit -n 40 && exec \"$0\" \"$@\""])
            .arg(program)
            .args(["--exact", NAME, "--nocapture"])
            .env(INNER, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut set = set();
        set.reconcile(vec![bind("a", "127.0.0.1:0")]).await;
        let a = address(&set, "a");
        let mut clients = Vec::new();
        while let Ok(client) = std::net::TcpStream::connect(a) {
            clients.push(client);
        }
        let errors = |set: &ListenerSet| set.counts().map(|(_, counts)| counts.errors).sum::<u64>();
        while errors(&set) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(clients);
        let mut stream = loop {
            if let Ok(stream) = TcpStream::connect(a).await {
                break stream;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        stream.read_exact(&mut [0]).await.unwrap();
        assert!(is_alive(&mut stream).await);
    });
}
