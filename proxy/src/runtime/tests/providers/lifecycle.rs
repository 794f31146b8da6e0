//! Connections to a provider: reused while it lives, made anew when it has restarted.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::{JoinHandle, JoinSet};

use super::*;

/// An HTTP provider that allows everything.
struct Provider {
    address: SocketAddr,
    /// Connections so far.
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Provider {
    async fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            // They end with the provider.
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                connections.spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(1..) = stream.read(&mut buffer).await {
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                    }
                });
            }
        });
        Self { address, accepted, task }
    }

    async fn stop(self) -> SocketAddr {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
        self.address
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_reused_and_a_restarted_provider_is_found_again() {
    let provider = Provider::start("127.0.0.1:0").await;
    let b = protected(http(), provider.address).await;
    for _ in 0..5 {
        assert_eq!(status(&call(&b, "/admin", "").await.0), 200);
    }
    assert_eq!(provider.accepted.load(Ordering::SeqCst), 1);
    let address = provider.stop().await;
    assert_eq!(status(&call(&b, "/admin", "").await.0), 403, "nobody is there");
    logged(&b.log, "ext-authz-unavailable").await;
    let provider = Provider::start(&address.to_string()).await;
    for _ in 0..3 {
        assert_eq!(status(&call(&b, "/admin", "").await.0), 200);
    }
    assert_eq!(provider.accepted.load(Ordering::SeqCst), 1);
}
