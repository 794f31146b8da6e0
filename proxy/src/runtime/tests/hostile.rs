//! Hostile and broken bytes over real sockets: each has one defined answer, and the application never sees the rest.

use parking_lot::Mutex;

use super::*;
use crate::request::{
    connection::{Seen, admit},
    decide_http,
    facts::{Chance, Connection, Direction, HttpVersion, Request},
    verdict::Action,
};

mod advisories;
mod frames;
mod slow;
mod upstream;
mod upstream_h2;

/// A sidecar in front of an application that notes every byte it receives.
struct Front {
    sidecar: Sidecar,
    seen: Arc<Mutex<Vec<u8>>>,
    port: u16,
}

/// Answers every request header that it sees, and notes all that arrives.
async fn noting() -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::<Mutex<Vec<u8>>>::default();
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = Arc::clone(&shared);
            tokio::spawn(async move {
                let mut buffer = [0; 8192];
                let mut last = Vec::new();
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    seen.lock().extend_from_slice(&buffer[..count]);
                    last.extend_from_slice(&buffer[..count]);
                    while let Some(end) = last.windows(4).position(|w| w == b"\r\n\r\n") {
                        last.drain(..end + 4);
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                    }
                }
            });
        }
    });
    (address, seen)
}

/// Everything may come in, and goes on in HTTP/1.
fn plaintext(port: u16, policies: Vec<Policy>) -> Arc<Snapshot> {
    inbound_to(port, MtlsMode::Disable, policies, UpstreamProtocol::Http1)
}

async fn front() -> Front {
    let ca = TestCa::new("mesh");
    let (application, seen) = noting().await;
    let sidecar = sidecar(&ca, "b", Role::Inbound, application).await;
    sidecar.runtime.apply(plaintext(application.port(), vec![default_permit()])).unwrap();
    Front { sidecar, seen, port: application.port() }
}

impl Front {
    /// Sends bytes, ends the sending side, and gives all that comes back.
    async fn send(&self, bytes: &[u8]) -> String {
        let mut client = TcpStream::connect(self.sidecar.address).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let mut received = Vec::new();
        let mut buffer = [0; 4096];
        // The answer to a well-formed request leaves the connection open.
        while let Ok(Ok(count @ 1..)) = tokio::time::timeout(Duration::from_secs(5), client.read(&mut buffer)).await {
            received.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&received);
            let is_denied = text.starts_with("HTTP/1.1 403 ") && text.ends_with("\r\n\r\nRBAC: access denied");
            if is_denied || text.ends_with("content-length: 0\r\n\r\n") || text.starts_with("HTTP/1.1 200") {
                break;
            }
        }
        String::from_utf8_lossy(&received).into_owned()
    }

    fn taken(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *self.seen.lock())).into_owned()
    }

    /// The target with which a request arrived at the application, and the answer's status.
    async fn target(&self, request: &[u8]) -> (u16, Option<Vec<u8>>) {
        let answer = self.send(request).await;
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let seen = std::mem::take(&mut *self.seen.lock());
        let target = seen.split(|byte| *byte == b' ').nth(1).map(<[u8]>::to_vec);
        (status, target)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_answered_400_and_never_reach_the_application() {
    let front = front().await;
    for (name, request) in [
        ("no leading slash", "GET admin HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("two spaces", "GET  / HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("a space in the target", "GET /a b HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("a tab in the target", "GET /a\tb HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("a query alone", "GET ?a HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("a NUL", "GET /a\0b HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("an encoded NUL", "GET /a%00b HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("no version", "GET /\r\nhost: b\r\n\r\n"),
        ("HTTP/0.9", "GET / HTTP/0.9\r\nhost: b\r\n\r\n"),
        ("HTTP/2 without its preface", "GET / HTTP/2.0\r\nhost: b\r\n\r\n"),
        ("a strange method", "GE\"T / HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("CONNECT", "CONNECT b:80 HTTP/1.1\r\nhost: b:80\r\n\r\n"),
        ("TLS", "\u{16}\u{3}\u{1}\0\u{5}hello\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("two hosts", "GET / HTTP/1.1\r\nhost: b\r\nhost: c\r\n\r\n"),
        ("two equal hosts", "GET / HTTP/1.1\r\nhost: b\r\nHost: b\r\n\r\n"),
        ("user information", "GET / HTTP/1.1\r\nhost: a@b\r\n\r\n"),
        ("a host with a path", "GET / HTTP/1.1\r\nhost: b/x\r\n\r\n"),
        ("a host with a blank", "GET / HTTP/1.1\r\nhost: b c\r\n\r\n"),
        ("an empty host", "GET / HTTP/1.1\r\nhost:\r\n\r\n"),
        ("an empty port", "GET / HTTP/1.1\r\nhost: b:\r\n\r\n"),
        ("another host in the target", "GET http://c/ HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("another scheme in the target", "GET ftp://b/ HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("bare line feeds", "GET / HTTP/1.1\nhost: b\n\n"),
        ("one bare line feed", "GET / HTTP/1.1\r\nhost: b\nx: y\r\n\r\n"),
        ("a bare carriage return", "GET / HTTP/1.1\r\nhost: b\r\nx: y\rz: 1\r\n\r\n"),
        ("a folded field", "GET / HTTP/1.1\r\nhost: b\r\nx: y\r\n z\r\n\r\n"),
        ("a blank before the colon", "GET / HTTP/1.1\r\nhost: b\r\ncontent-length : 5\r\n\r\nhello"),
        ("no colon", "GET / HTTP/1.1\r\nhost: b\r\nx\r\n\r\n"),
        ("no name", "GET / HTTP/1.1\r\nhost: b\r\n: y\r\n\r\n"),
        ("a blank line first", " \r\nGET / HTTP/1.1\r\nhost: b\r\n\r\n"),
        ("a control byte in a value", "GET / HTTP/1.1\r\nhost: b\r\nx: a\u{1}b\r\n\r\n"),
        (
            "length and coding",
            "POST / HTTP/1.1\r\nhost: b\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "coding and length",
            "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        ),
        ("two lengths", "POST / HTTP/1.1\r\nhost: b\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nhello"),
        ("two equal lengths", "POST / HTTP/1.1\r\nhost: b\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello"),
        ("a list of lengths", "POST / HTTP/1.1\r\nhost: b\r\ncontent-length: 5, 5\r\n\r\nhello"),
        ("a signed length", "POST / HTTP/1.1\r\nhost: b\r\ncontent-length: +5\r\n\r\nhello"),
        ("an endless length", "POST / HTTP/1.1\r\nhost: b\r\ncontent-length: 99999999999999999999\r\n\r\n"),
        ("a coding beside chunked", "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("chunked twice", "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        ("chunked not last", "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        ("nearly chunked", "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("a hidden coding", "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding:\u{b}chunked\r\n\r\n0\r\n\r\n"),
        ("chunked in 1.0", "POST / HTTP/1.0\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("a nominated host", "GET / HTTP/1.1\r\nhost: b\r\nconnection: host\r\n\r\n"),
        ("a nominated pseudo header", "GET / HTTP/1.1\r\nhost: b\r\nconnection: :path\r\n\r\n"),
        ("a nominated length", "POST / HTTP/1.1\r\nhost: b\r\nconnection: content-length\r\ncontent-length: 0\r\n\r\n"),
        ("a nominated credential", "GET / HTTP/1.1\r\nhost: b\r\nconnection: close, Authorization\r\n\r\n"),
        ("a nominated address", "GET / HTTP/1.1\r\nhost: b\r\nconnection: x-forwarded-for\r\n\r\n"),
    ] {
        let answer = front.send(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{name}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{name}: {answer:?}");
        assert_eq!(front.taken(), "", "{name}");
    }
    let line = logged(&front.sidecar.log, "\"reason\":\"bad-request\"").await;
    assert!(line.contains("\"status\":400"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_refused_request_is_no_request() {
    let front = front().await;
    let smuggled = "GET /admin HTTP/1.1\r\nhost: b\r\n\r\n";
    for (name, first) in [
        ("CL.TE", "POST / HTTP/1.1\r\nhost: b\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("TE.TE", "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n"),
        ("a chunk with a bare line feed", "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n0\n\n"),
        (
            "a chunk extension with one",
            "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n1;\nx\r\n0\r\n\r\n",
        ),
        (
            "a chunk that is too long",
            "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
        ),
        ("a size with a prefix", "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n0x0\r\n\r\n"),
        ("a size with a sign", "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n+0\r\n\r\n"),
        ("a huge size", "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n"),
        ("a folded request", "GET / HTTP/1.1\r\nhost: b\r\nx: y\r\n z: w\r\n\r\n"),
    ] {
        let mut client = TcpStream::connect(front.sidecar.address).await.unwrap();
        client.write_all(format!("{first}{smuggled}").as_bytes()).await.unwrap();
        let mut received = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut received)).await;
        let received = String::from_utf8_lossy(&received).into_owned();
        assert!(end.is_ok(), "{name}: still open after {received:?}");
        // The application answers as soon as it has seen a header; there is no second answer.
        assert!(received.matches("HTTP/1.1 ").count() <= 1, "{name}: {received:?}");
        assert!(!front.taken().contains("/admin"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunk_extensions_do_not_travel() {
    let front = front().await;
    let answer = front
        .send(b"POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n5;a=b;c=\"d\"\r\nhello\r\n0;x\r\ny: z\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = within(async {
        loop {
            let seen = String::from_utf8_lossy(&front.seen.lock()).into_owned();
            if seen.ends_with("0\r\n\r\n") {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert!(seen.contains("hello") && !seen.contains(";a=b") && !seen.contains("y: z"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_answered_431() {
    let front = front().await;
    let many = "x: y\r\n".repeat(120);
    for (name, request) in [
        ("a long target", format!("GET /{} HTTP/1.1\r\nhost: b\r\n\r\n", "a".repeat(70_000))),
        ("a long value", format!("GET / HTTP/1.1\r\nhost: b\r\nx: {}\r\n\r\n", "a".repeat(70_000))),
        ("a long name", format!("GET / HTTP/1.1\r\nhost: b\r\n{}: y\r\n\r\n", "a".repeat(70_000))),
        ("many fields", format!("GET / HTTP/1.1\r\nhost: b\r\n{many}\r\n")),
        ("a target that grows", format!("GET /{} HTTP/1.1\r\nhost: b\r\n\r\n", "<".repeat(30_000))),
    ] {
        let answer = front.send(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{name}: {answer:.200}");
        assert_eq!(front.taken(), "", "{name}");
    }
    logged(&front.sidecar.log, "\"reason\":\"headers-too-large\"").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunk_lines_and_trailers_beyond_their_limits_are_answered_400() {
    let application = traffic::silence().await;
    let sidecar = sidecar(&TestCa::new("mesh"), "b", Role::Inbound, application).await;
    sidecar.runtime.apply(plaintext(application.port(), vec![default_permit()])).unwrap();
    let front = Front { sidecar, seen: Arc::default(), port: application.port() };
    let head = "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n";
    for (name, body) in [
        ("a chunk size line", format!("1;x={}\r\na\r\n0\r\n\r\n", "y".repeat(9 * 1024))),
        ("digits of a size", format!("{}1\r\na\r\n0\r\n\r\n", "0".repeat(9 * 1024))),
        ("one trailer", format!("1\r\na\r\n0\r\nx: {}\r\n\r\n", "y".repeat(65 * 1024))),
        ("many trailers", format!("1\r\na\r\n0\r\n{}\r\n", "x: y\r\n".repeat(12 * 1024))),
    ] {
        let answer = front.send(format!("{head}{body}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{name}: {answer:.200} {}", front.sidecar.log.text());
    }
    assert_eq!(front.sidecar.runtime.registry.counts().streams, 0);
}

/// The pure pipeline's answer to a target: the status of a refusal, or the target that goes upstream.
fn judged(front: &Front, target: &[u8]) -> Result<Vec<u8>, u16> {
    let index = front.sidecar.runtime.index().unwrap();
    let facts = Connection {
        direction: Direction::Inbound,
        source: "127.0.0.1:1".parse().unwrap(),
        destination: SocketAddr::new("127.0.0.1".parse().unwrap(), front.port),
        tls: None,
    };
    let admitted = admit(&index, facts, Seen::Http).unwrap();
    let headers = http::HeaderMap::new();
    let version = HttpVersion::Http11;
    let request =
        Request { method: "GET", scheme: "http", authority: b"b", target, version, headers: &headers, jwt: None };
    let mut chance = Chance::fixed(std::time::SystemTime::UNIX_EPOCH, 0.0);
    match decide_http(&index, &admitted, Some(&request), &mut chance).action {
        Action::Forward(plan) => Ok(plan.head.target),
        Action::Respond(answer) => Err(answer.status),
        Action::Close | Action::Ask(_) | Action::Check(_) => Err(0),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_of_a_target_means_the_same_live_and_in_eval() {
    let front = front().await;
    let mut targets: Vec<Vec<u8>> = Vec::new();
    for byte in 0..=255_u8 {
        targets.push([b"/a", &[byte][..], b"b/../c"].concat());
        targets.push([b"/a?", &[byte][..], b"b"].concat());
    }
    for target in
        ["http://b/x?y", "http://b", "HTTP://b?q=1", "http://c/", "//x/y", r"/\..\x", "/a#b", "*", "admin", "b:80"]
    {
        targets.push(target.as_bytes().to_vec());
    }
    targets.push("/é".as_bytes().to_vec());
    for target in targets {
        let request = [b"GET ", target.as_slice(), b" HTTP/1.1\r\nhost: b\r\n\r\n"].concat();
        let (status, arrived) = front.target(&request).await;
        let expected = judged(&front, &target);
        let name = target.escape_ascii().to_string();
        match expected {
            Ok(expected) => {
                assert_eq!(status, 200, "{name}");
                assert_eq!(arrived.as_deref(), Some(expected.as_slice()), "{name}");
            }
            Err(expected) => assert_eq!((status, arrived), (expected, None), "{name}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_text_pass_in_values_and_byte_by_byte() {
    let front = front().await;
    let request = b"GET /x HTTP/1.1\r\nhost: b\r\nx-raw: \xff\xfe\x80\r\n\r\n";
    let mut client = TcpStream::connect(front.sidecar.address).await.unwrap();
    client.set_nodelay(true).unwrap();
    for byte in request {
        client.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = [0; 12];
    within(client.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let seen = front.seen.lock().clone();
    assert!(seen.windows(3).any(|window| window == b"\xff\xfe\x80"), "{}", seen.escape_ascii());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_request_with_a_strange_target_stays_denied() {
    let front = front().await;
    let mut policies = deny_admin();
    policies.push(default_permit());
    front.sidecar.runtime.apply(inbound_snapshot(front.port, MtlsMode::Disable, policies)).unwrap();
    for target in ["/admin", "/x/../admin", "http://b/admin", "/%61dmin", r"/x\..\admin", "/admin#x", "/admin?<>"] {
        let answer = front.send(format!("GET {target} HTTP/1.1\r\nhost: b\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{target}: {answer}");
        assert_eq!(front.taken(), "", "{target}");
    }
}

/// A stream of bytes under a `Content-Length`, then more: the limit of bodies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_beyond_their_limit_are_answered_413() {
    let ca = TestCa::new("mesh");
    let (application, seen) = noting().await;
    let settings = RuntimeSettings { max_body_bytes: Some(10), ..RuntimeSettings::new("foo/b") };
    let sidecar = sidecar_with(&ca, "b", Role::Inbound, application, settings).await;
    let snapshot = inbound_snapshot(application.port(), MtlsMode::Disable, vec![default_permit()]);
    sidecar.runtime.apply(snapshot).unwrap();
    let front = Front { sidecar, seen, port: application.port() };
    let declared = front.send(b"POST / HTTP/1.1\r\nhost: b\r\ncontent-length: 11\r\n\r\n").await;
    assert!(declared.starts_with("HTTP/1.1 413 "), "{declared}");
    assert_eq!(front.taken(), "");
    let fits = front.send(b"POST / HTTP/1.1\r\nhost: b\r\ncontent-length: 10\r\n\r\n0123456789").await;
    assert!(fits.starts_with("HTTP/1.1 200 "), "{fits}");
    logged(&front.sidecar.log, "\"reason\":\"body-too-large\"").await;
}

/// Open tunnels and streams end as soon as a policy no longer permits them, although nothing moves on them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_tunnels_end_with_the_permission_that_let_them_in() {
    let ca = TestCa::new("mesh");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let application = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            let _ = stream.write_all(switch).await;
            held.push(stream);
        }
    });
    let sidecar = sidecar(&ca, "b", Role::Inbound, application).await;
    let open = |policies| inbound_snapshot(application.port(), MtlsMode::Disable, policies);
    sidecar.runtime.apply(open(vec![default_permit()])).unwrap();
    let mut tunnels = Vec::new();
    for path in ["/admin", "/other"] {
        let mut client = TcpStream::connect(sidecar.address).await.unwrap();
        let ask = format!("GET {path} HTTP/1.1\r\nhost: b\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
        client.write_all(ask.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        within(client.read_exact(&mut head)).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 101");
        let mut rest = [0; 4096];
        let _ = tokio::time::timeout(Duration::from_millis(50), client.read(&mut rest)).await;
        tunnels.push(client);
    }
    let mut policies = deny_admin();
    policies.push(default_permit());
    sidecar.runtime.apply(open(policies)).unwrap();
    let mut rest = Vec::new();
    let ended = within(tunnels[0].read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{ended:?}");
    logged(&sidecar.log, "\"reason\":\"authz-denied\"").await;
    let still = tokio::time::timeout(Duration::from_millis(100), tunnels[1].read(&mut [0; 1])).await;
    assert!(still.is_err(), "the other tunnel lives on");
}
