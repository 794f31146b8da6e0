//! The load generator of the benchmarks. It runs in the network namespace of the client, so it is a command of its own
//! that says what it saw as one line of JSON.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout_at},
};

mod bulk;
mod closed;
mod dns;
mod grpc;
mod handshake;
mod idle;
mod open;
mod tls;

use tls::{ClientStream, Tls};

/// What to ask for, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// What is done.
    #[arg(long)]
    pub kind: Kind,
    /// Address to connect to.
    #[arg(long)]
    pub target: SocketAddr,
    /// Authority of the requests.
    #[arg(long, default_value = "bench.example.com")]
    pub authority: String,
    /// Connections at once.
    #[arg(long, default_value_t = 32)]
    pub connections: usize,
    /// Streams at once on each HTTP/2 connection.
    #[arg(long, default_value_t = 8)]
    pub streams: usize,
    /// Length of the measurement.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Requests a second of an open loop.
    #[arg(long, default_value_t = 1000)]
    pub rate: u32,
    /// Bytes to move in bulk.
    #[arg(long, default_value_t = 1 << 30)]
    pub bytes: u64,
    /// TLS with this server name.
    #[arg(long)]
    pub sni: Option<String>,
    /// ALPN names to offer; `h2` among them makes the client speak it.
    #[arg(long, value_delimiter = ',')]
    pub alpn: Vec<String>,
    /// Client certificate chain, PEM.
    #[arg(long, requires = "key")]
    pub certificate: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long)]
    pub key: Option<PathBuf>,
}

/// What a load generator can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// HTTP/1.1 requests, one after the other on each connection.
    Http1,
    /// HTTP/2 requests.
    Http2,
    /// gRPC unary calls.
    Grpc,
    /// HTTP/1.1 requests at a fixed rate, whatever comes back.
    Open,
    /// New TLS connections, one request on each; no session is resumed.
    HandshakeFull,
    /// New TLS connections, one request on each; all sessions are resumed.
    HandshakeResumed,
    /// A long body over HTTP/1.1.
    BulkHttp1,
    /// A long body over HTTP/2.
    BulkHttp2,
    /// Bytes over TCP.
    BulkTcp,
    /// DNS queries over UDP for the address of the authority, one after the other on each socket.
    Dns,
    /// Connections that have made one request and then do nothing until they are told to go.
    Idle,
}

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Complete answers (connections, for handshakes).
    pub answers: u64,
    /// Body bytes received.
    pub bytes: u64,
    /// Length of the measurement in seconds.
    pub seconds: f64,
    /// Latencies of an open loop and of DNS queries in microseconds: p50, p90, p99; of an open loop from the intended time of
    /// sending.
    pub latencies_us: Vec<f64>,
}

/// Asked before the measurement, so that both sides have their connections and memory.
const WARM_UP: Duration = Duration::from_millis(300);
/// An answer that is missing for this long after the end is no answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// One connection of a closed loop.
enum Client {
    Http1(closed::Client),
    Http2(grpc::Client),
}

/// Lets all clients ask until `length` is over.
async fn all(load: &Arc<Load>, clients: Vec<Client>, length: Duration) -> anyhow::Result<(Vec<Client>, Seen)> {
    let begin = Instant::now();
    let end = begin + length;
    let mut running = JoinSet::new();
    for mut client in clients {
        let load = Arc::clone(load);
        running.spawn(async move {
            let seen = match &mut client {
                Client::Http1(client) => client.run(&load, end).await?,
                Client::Http2(client) => client.run(&load, end).await?,
            };
            Ok::<_, anyhow::Error>((client, seen))
        });
    }
    let (mut clients, mut sum) = (Vec::new(), Seen::default());
    while let Some(ended) =
        timeout_at(end + PATIENCE, running.join_next()).await.context("requests without an answer")?
    {
        let (client, Seen { answers, bytes, .. }) = ended??;
        clients.push(client);
        sum.answers += answers;
        sum.bytes += bytes;
    }
    sum.seconds = begin.elapsed().as_secs_f64();
    Ok((clients, sum))
}

/// Says that everything is prepared, and waits for the word to begin.
async fn start_signal() -> anyhow::Result<()> {
    println!("{READY}");
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|length| length > 0)
    });
    ensure!(read.await??, "told to leave");
    Ok(())
}

/// What a load generator says before the measurement.
pub const READY: &str = "ready";

/// Paths that the requests go round.
pub const PATHS: usize = 10;

impl Load {
    /// Runs it.
    ///
    /// # Errors
    /// When anything but the expected answer comes back: a benchmark of errors measures nothing.
    pub async fn run(self) -> anyhow::Result<Seen> {
        ensure!(self.connections > 0 && self.streams > 0, "no connections");
        match self.kind {
            Kind::Http1 | Kind::Http2 | Kind::Grpc => self.closed_loop().await,
            Kind::Dns => {
                start_signal().await?;
                tokio::task::spawn_blocking(move || dns::run(&self)).await?
            }
            Kind::Open => {
                start_signal().await?;
                tokio::task::spawn_blocking(move || open::run(&self)).await?
            }
            Kind::HandshakeFull | Kind::HandshakeResumed => handshake::run(self).await,
            Kind::BulkHttp1 | Kind::BulkHttp2 | Kind::BulkTcp => bulk::run(&self).await,
            Kind::Idle => idle::run(&self).await,
        }
    }

    async fn connect(&self, tls: &Tls) -> anyhow::Result<ClientStream> {
        let stream = TcpStream::connect(self.target).await.with_context(|| self.target.to_string())?;
        stream.set_nodelay(true)?;
        tls.over(stream).await
    }

    /// A client per connection. All connect and ask for a while first, then all begin.
    async fn closed_loop(&self) -> anyhow::Result<Seen> {
        let tls = Tls::of(self)?;
        let mut clients = Vec::new();
        for number in 0..self.connections {
            let stream = self.connect(&tls).await?;
            clients.push(match self.kind {
                Kind::Http1 => Client::Http1(closed::Client::new(stream, number)),
                _ => Client::Http2(grpc::Client::new(stream, number).await?),
            });
        }
        let load = Arc::new(self.clone());
        let (clients, _) = all(&load, clients, WARM_UP).await?;
        start_signal().await?;
        Ok(all(&load, clients, Duration::from_secs_f64(self.seconds)).await?.1)
    }

    /// A request as a browser or a service's client would send it.
    fn http1_request(&self, number: usize) -> Vec<u8> {
        format!(
            "GET /svc{}/items/{number}?page=2 HTTP/1.1\r\nhost: {}\r\nuser-agent: bench/1.0 (open source; en)\r\n\
             accept: application/json\r\naccept-language: en\r\nx-tenant: blue\r\n\
             traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
             cookie: session=0123456789abcdef0123456789abcdef\r\n\r\n",
            number % PATHS,
            self.authority
        )
        .into_bytes()
    }
}
