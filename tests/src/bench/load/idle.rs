//! Connections that have made one request and then do nothing.

use anyhow::ensure;
use tokio::io::AsyncWriteExt;

use super::{Load, Seen, closed, tls::Tls};

pub(super) async fn run(load: &Load) -> anyhow::Result<Seen> {
    let tls = Tls::of(load)?;
    let mut streams = Vec::new();
    let mut buffer = Vec::with_capacity(16 * 1024);
    for number in 0..load.connections {
        let mut stream = load.connect(&tls).await?;
        stream.write_all(&load.http1_request(number)).await?;
        closed::read_answer(&mut stream, &mut buffer).await?;
        streams.push(stream);
    }
    super::start_signal().await?;
    let answers = streams.len() as u64;
    ensure!(answers > 0, "no connections");
    Ok(Seen { answers, ..Seen::default() })
}
