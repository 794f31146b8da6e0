//! Waiting on a condition with a deadline.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Calls `look` until it gives a value.
///
/// # Errors
/// When `limit` is over: what was awaited, and what the last look said.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match look().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => bail!("{what}: not within {limit:?}: {error:#}"),
            Err(_) => sleep(PAUSE).await,
        }
    }
}
