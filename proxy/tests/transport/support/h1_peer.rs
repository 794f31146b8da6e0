//! An HTTP/1 server and client, on bare sockets, so that nothing helps them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

#[derive(Default)]
pub struct Counts {
    pub connections: AtomicUsize,
    pub requests: AtomicUsize,
    pub peers: parking_lot::Mutex<Vec<SocketAddr>>,
    /// Makes every connection end where it stands.
    pub hang_up: tokio::sync::Notify,
}

pub struct Origin {
    pub address: SocketAddr,
    pub counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

pub struct Reader(pub BufReader<OwnedReadHalf>);

/// A message's start line and its fields, names in lower case.
#[derive(Debug, Default, Clone)]
pub struct Head {
    pub start: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }
}

impl Reader {
    pub async fn head(&mut self) -> Option<Head> {
        let mut head = Head::default();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let line = line.trim_end();
            if line.is_empty() {
                return Some(head);
            }
            if head.start.is_empty() {
                line.clone_into(&mut head.start);
            } else {
                let (name, value) = line.split_once(':')?;
                head.fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }

    /// One chunk; empty at the end.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut line = String::new();
        self.0.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
        let length = usize::from_str_radix(line.trim_end(), 16).ok()?;
        let mut data = vec![0; length + 2];
        self.0.read_exact(&mut data).await.ok()?;
        data.truncate(length);
        Some(data)
    }

    /// The length of the body that `head` announces.
    pub async fn body(&mut self, head: &Head) -> Option<Vec<u8>> {
        if head.get("transfer-encoding").is_some() {
            let mut whole = Vec::new();
            loop {
                let chunk = self.chunk().await?;
                if chunk.is_empty() {
                    return Some(whole);
                }
                whole.extend(chunk);
            }
        }
        let length = head.get("content-length").map_or(Some(0), |v| v.parse().ok())?;
        let mut data = vec![0; length];
        self.0.read_exact(&mut data).await.ok()?;
        Some(data)
    }
}

pub async fn write_chunk(write: &mut OwnedWriteHalf, data: &[u8]) -> std::io::Result<()> {
    write.write_all(format!("{:x}\r\n", data.len()).as_bytes()).await?;
    write.write_all(data).await?;
    write.write_all(b"\r\n").await
}

pub async fn start() -> Origin {
    start_on(TcpListener::bind("127.0.0.1:0").await.unwrap())
}

pub fn start_on(listener: TcpListener) -> Origin {
    let address = listener.local_addr().unwrap();
    let counts = Arc::<Counts>::default();
    let shared = Arc::clone(&counts);
    let accepting = tokio::spawn(async move {
        loop {
            let (tcp, peer) = listener.accept().await.unwrap();
            let _ = tcp.set_nodelay(true);
            shared.connections.fetch_add(1, SeqCst);
            shared.peers.lock().push(peer);
            let counts = Arc::clone(&shared);
            tokio::spawn(async move {
                tokio::select! {
                    _ = serve(tcp, &counts) => {}
                    () = counts.hang_up.notified() => {}
                }
            });
        }
    });
    Origin { address, counts, accepting }
}

async fn serve(tcp: TcpStream, counts: &Counts) -> Option<()> {
    let (read, mut write) = tcp.into_split();
    let mut read = Reader(BufReader::new(read));
    loop {
        let head = read.head().await?;
        counts.requests.fetch_add(1, SeqCst);
        let target = head.start.split(' ').nth(1)?.to_owned();
        let times: usize = target.strip_prefix("/amplify/").and_then(|n| n.parse().ok()).unwrap_or(1);
        if head.get("expect").is_some() {
            write.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
        }
        if let Some(protocol) = head.get("upgrade").filter(|_| target != "/no-upgrade") {
            let answer =
                format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n");
            write.write_all(answer.as_bytes()).await.ok()?;
            return tunnel(read, write, times).await;
        }
        if target == "/early" {
            // Answers without reading the request, and hangs up once the other side does.
            write.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 4\r\n\r\nmuch").await.ok()?;
            let mut rest = Vec::new();
            let _ = read.0.read_to_end(&mut rest).await;
            return None;
        }
        if head.get("transfer-encoding").is_some() {
            write.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.ok()?;
            loop {
                // A sequential server: it does not read on before its answer is taken.
                let chunk = read.chunk().await?;
                if chunk.is_empty() {
                    break;
                }
                for _ in 0..times {
                    write_chunk(&mut write, &chunk).await.ok()?;
                }
            }
            write.write_all(b"0\r\n\r\n").await.ok()?;
            continue;
        }
        let body = read.body(&head).await?;
        let id = head.get("x-client-id").unwrap_or("none");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-client-id: {id}\r\nx-target: {target}\r\nx-host: {}\r\n\r\n",
            body.len() + 3,
            head.get("host").unwrap_or("none"),
        );
        write.write_all(answer.as_bytes()).await.ok()?;
        write.write_all(b"ok\n").await.ok()?;
        write.write_all(&body).await.ok()?;
    }
}

async fn tunnel(mut read: Reader, mut write: OwnedWriteHalf, times: usize) -> Option<()> {
    let mut buf = vec![0; 16 * 1024];
    loop {
        let n = read.0.read(&mut buf).await.ok()?;
        if n == 0 {
            return None;
        }
        for _ in 0..times {
            write.write_all(&buf[..n]).await.ok()?;
        }
    }
}

pub struct Client {
    pub read: Reader,
    pub write: OwnedWriteHalf,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).await.unwrap();
        let _ = tcp.set_nodelay(true);
        let (read, write) = tcp.into_split();
        Self { read: Reader(BufReader::new(read)), write }
    }

    pub async fn send(&mut self, text: &str) {
        self.write.write_all(text.as_bytes()).await.unwrap();
    }

    /// A request without a body.
    pub async fn get(&mut self, path: &str) -> Option<(Head, Vec<u8>)> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a.example\r\n\r\n");
        self.write.write_all(request.as_bytes()).await.ok()?;
        self.answer().await
    }

    pub async fn answer(&mut self) -> Option<(Head, Vec<u8>)> {
        let head = self.read.head().await?;
        let body = self.read.body(&head).await?;
        Some((head, body))
    }
}
