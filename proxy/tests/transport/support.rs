//! What the tests are made of: certificates, a forwarding application, hops, origins and clients.

pub mod app;
pub mod certs;
pub mod h1_peer;
pub mod h2_client;
pub mod h2_origin;
pub mod hop;

use std::time::Duration;

/// No test comes near this; a stall does.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Fails a test that stalls.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(done) => done,
        Err(_) => panic!("stalled: {what}"),
    }
}

/// Waits until a claim holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Shows what Pingora logs, where `PALISADE_TEST_LOG` asks for it.
pub fn show_logs() {
    if std::env::var_os("PALISADE_TEST_LOG").is_some() {
        let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).try_init();
        let _ = tracing_log::LogTracer::init();
    }
}
