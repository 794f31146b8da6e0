//! Keepalive pings on an HTTP/2 connection, either side.

use std::future::pending;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

use crate::transport::limits::PingKeepalive;

/// Completes when the peer has failed to answer a ping in time; never, without settings.
pub(crate) async fn keepalive(pings: Option<PingPong>, settings: Option<PingKeepalive>) {
    let (Some(mut pings), Some(settings)) = (pings, settings) else { return pending().await };
    loop {
        sleep(settings.interval).await;
        match timeout(settings.timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection has ended; whoever drives it knows better how.
            Ok(Err(_)) => return pending().await,
            Err(_) => return,
        }
    }
}
