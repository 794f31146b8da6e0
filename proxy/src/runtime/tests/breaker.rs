//! Circuit breakers seen from outside: who is turned away is told so, and who leaves the queue leaves it at once.

use std::collections::BTreeMap;

use super::*;

/// Answers each request after a while; a connection carries one at a time.
async fn slow(pause: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut received = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    received.extend_from_slice(&buffer[..count]);
                    while let Some(end) = received.windows(4).position(|w| w == b"\r\n\r\n") {
                        received.drain(..end + 4);
                        tokio::time::sleep(pause).await;
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

/// The inbound side of an application whose cluster has limits.
fn limited(port: u16, max_connections: u32, max_pending: u32, idle: u64) -> Arc<Snapshot> {
    let plain = inbound_snapshot(port, MtlsMode::Disable, vec![default_permit()]);
    let resources = plain.entries().values().map(|entry| match entry.resource() {
        Resource::Cluster(cluster) => {
            let mut cluster = cluster.clone();
            cluster.traffic.limits.max_connections = Some(max_connections);
            cluster.traffic.limits.max_pending_requests = Some(max_pending);
            cluster.idle_timeout = Some(Duration::from_secs(idle));
            Resource::Cluster(cluster)
        }
        other => other.clone(),
    });
    testing::snapshot(resources.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_a_circuit_breaker_turns_away_is_answered_also_while_configurations_are_swapped() {
    let application = slow(Duration::from_millis(20)).await;
    let b = sidecar(&TestCa::new("mesh"), "b", Role::Inbound, application).await;
    b.runtime.apply(limited(application.port(), 1, 1, 60)).unwrap();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let address = b.address;
        clients.spawn(async move {
            let mut statuses: BTreeMap<String, u32> = BTreeMap::new();
            let mut client = TcpStream::connect(address).await.unwrap();
            for _ in 0..40 {
                // `ask` fails the test where the connection ends without an answer.
                let (head, _) = within(ask(&mut client, "/")).await;
                *statuses.entry(head[9..12].to_owned()).or_default() += 1;
            }
            statuses
        });
    }
    let (runtime, port) = (Arc::clone(&b.runtime), application.port());
    let swapping = tokio::spawn(async move {
        for round in 0..50 {
            runtime.apply(limited(port, 1, 1, 61 + round % 2)).unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut all: BTreeMap<String, u32> = BTreeMap::new();
    while let Some(statuses) = clients.join_next().await {
        for (status, count) in statuses.unwrap() {
            *all.entry(status).or_default() += count;
        }
    }
    swapping.await.unwrap();
    assert_eq!(all.keys().map(String::as_str).collect::<Vec<_>>(), ["200", "503"], "{all:?}");
    assert_eq!(all.values().sum::<u32>(), 8 * 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_client_has_left_the_queue_frees_its_place() {
    let application = traffic::silence().await;
    let b = sidecar(&TestCa::new("mesh"), "b", Role::Inbound, application).await;
    b.runtime.apply(limited(application.port(), 1, 1, 60)).unwrap();
    let mut first = TcpStream::connect(b.address).await.unwrap();
    first.write_all(b"GET /first HTTP/1.1\r\nhost: b\r\n\r\n").await.unwrap();
    let breaker = || {
        let index = b.runtime.index().unwrap();
        Arc::clone(&index.cluster(&format!("inbound|{}||", application.port())).unwrap().live().breaker)
    };
    let becomes = async |connections: u64, pending: u32| {
        within(async {
            while (breaker().connections(), breaker().pending()) != (connections, pending) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    };
    becomes(1, 0).await;
    let mut queued = TcpStream::connect(b.address).await.unwrap();
    queued.write_all(b"GET /queued HTTP/1.1\r\nhost: b\r\n\r\n").await.unwrap();
    becomes(1, 1).await;
    // The queue is full: one more is turned away.
    let mut more = TcpStream::connect(b.address).await.unwrap();
    let (head, _) = within(ask(&mut more, "/more")).await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    drop(queued);
    becomes(1, 0).await;
    logged(&b.log, "downstream-closed").await;
}
