//! Benchmarks of the gateway beside Envoy and HAProxy.

use super::{
    load::Seen,
    measure::{self, Run, words},
    stand::{Edge, EdgePeer, Policies},
    table::{Comparison, render},
};

/// Interleaved runs of each row.
const RUNS: usize = 10;

/// What one row does and what of it counts.
struct Row {
    what: &'static str,
    /// Arguments of the load; `PORT` is added by protocol.
    load: &'static str,
    port: fn(&EdgePeer) -> u16,
    value: fn(&Run) -> f64,
    digits: usize,
    /// How many of the peers take part.
    peers: usize,
}

const HTTPS: &str = "--sni bench.example.com";

/// Requests through the gateway.
///
/// # Errors
/// When a peer does not come up or answers wrongly.
pub async fn gateway(runs: Option<usize>) -> anyhow::Result<String> {
    let rows = [
        Row {
            what: "HTTP/1.1, 32 connections, CPU µs per request",
            load: "--kind http1 --connections 32",
            port: |peer| peer.http,
            value: Run::us_per_answer,
            digits: 1,
            peers: 3,
        },
        Row {
            what: "TLS and HTTP/2 from the client, 8 connections of 8 streams, CPU µs per request",
            load: "--kind http2 --connections 8 --streams 8 --alpn h2",
            port: |peer| peer.https,
            value: Run::us_per_answer,
            digits: 1,
            peers: 3,
        },
        Row {
            what: "HTTP/1.1, 1,000 connections, CPU µs per request",
            load: "--kind http1 --connections 1000",
            port: |peer| peer.http,
            value: Run::us_per_answer,
            digits: 1,
            peers: 3,
        },
    ];
    compare(&rows, runs.unwrap_or(RUNS)).await
}

/// Bytes in bulk through the gateway.
///
/// # Errors
/// As [`gateway`].
pub async fn bulk(runs: Option<usize>) -> anyhow::Result<String> {
    let rows = [
        Row {
            what: "1 GB, HTTP/1.1, CPU s",
            load: "--kind bulk-http1 --bytes 1000000000",
            port: |peer| peer.http,
            value: Run::seconds_per_gigabyte,
            digits: 2,
            peers: 3,
        },
        Row {
            what: "1 GB, TLS and HTTP/2 from the client, CPU s",
            load: "--kind bulk-http2 --bytes 1000000000 --alpn h2",
            port: |peer| peer.https,
            value: Run::seconds_per_gigabyte,
            digits: 2,
            peers: 3,
        },
        Row {
            what: "1 GB, TCP, CPU s",
            load: "--kind bulk-tcp --bytes 1000000000",
            port: |peer| peer.tcp,
            value: Run::seconds_per_gigabyte,
            digits: 2,
            peers: 3,
        },
    ];
    compare(&rows, runs.unwrap_or(RUNS)).await
}

/// New TLS connections to the gateway.
///
/// # Errors
/// As [`gateway`].
pub async fn handshake(runs: Option<usize>) -> anyhow::Result<String> {
    let rows = [
        Row {
            what: "full handshakes (TLS 1.3, P-256 certificate), connections per CPU second",
            load: "--kind handshake-full --connections 8",
            port: |peer| peer.https,
            value: Run::answers_per_cpu_second,
            digits: 0,
            peers: 3,
        },
        Row {
            what: "resumed handshakes, connections per CPU second",
            load: "--kind handshake-resumed --connections 8",
            port: |peer| peer.https,
            value: Run::answers_per_cpu_second,
            digits: 0,
            peers: 3,
        },
    ];
    compare(&rows, runs.unwrap_or(RUNS)).await
}

async fn compare(rows: &[Row], runs: usize) -> anyhow::Result<String> {
    let edge = Edge::start(0, Policies::Ten).await?;
    let mut table = Vec::new();
    for row in rows {
        let peers: Vec<&EdgePeer> = edge.peers.iter().take(row.peers).collect();
        let names: Vec<&str> = peers.iter().map(|peer| peer.name).collect();
        let mut comparison = Comparison::new(row.what, &names, row.digits);
        // The first run warms up and is not counted.
        for run in 0..=runs {
            let mut values = Vec::new();
            for peer in &peers {
                let port = (row.port)(peer);
                let tls = if port == peer.https { HTTPS } else { "" };
                let load = words(&format!("{} {tls} --target 127.0.0.1:{port}", row.load));
                let done = measure::run(edge.namespace, &[peer.pid], &load).await?;
                values.push((row.value)(&done));
                let Seen { answers, bytes, seconds, .. } = done.seen;
                eprintln!(
                    "{} {}: {answers} answers, {bytes} bytes in {seconds:.2} s, {:?}",
                    row.what, peer.name, done.cpu
                );
            }
            if run > 0 {
                comparison.push(&values);
            }
        }
        table.push(comparison);
    }
    edge.stop().await?;
    Ok(render(&table))
}
