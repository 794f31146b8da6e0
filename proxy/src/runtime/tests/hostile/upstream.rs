//! Upstreams that reset, stall, send garbage, or close at any byte: the client never takes half an answer for a whole one.

use super::*;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx: y\r\n\r\nhello";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";

/// What the application does with the next connection.
#[derive(Debug, Clone)]
enum Deed {
    /// Says this, then closes.
    Say(Vec<u8>),
    /// Says this, then resets.
    Reset(Vec<u8>),
    /// Says this, then nothing more.
    Stall(Vec<u8>),
    /// Resets without reading.
    Refuse,
}

async fn broken() -> (Front, Arc<Mutex<Deed>>) {
    broken_within(RuntimeSettings::new("foo/b")).await
}

async fn broken_within(settings: RuntimeSettings) -> (Front, Arc<Mutex<Deed>>) {
    let ca = TestCa::new("mesh");
    let deed = Arc::new(Mutex::new(Deed::Refuse));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let application = listener.local_addr().unwrap();
    let shared = Arc::clone(&deed);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let deed = shared.lock().clone();
            tokio::spawn(async move {
                let linger = |stream: &TcpStream| {
                    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
                };
                if matches!(deed, Deed::Refuse) {
                    return linger(&stream);
                }
                let _ = stream.read(&mut [0; 4096]).await;
                match deed {
                    Deed::Say(bytes) => {
                        let _ = stream.write_all(&bytes).await;
                        let _ = stream.shutdown().await;
                        let _ = stream.read(&mut [0; 16]).await;
                    }
                    Deed::Reset(bytes) => {
                        let _ = stream.write_all(&bytes).await;
                        linger(&stream);
                    }
                    Deed::Stall(bytes) => {
                        let _ = stream.write_all(&bytes).await;
                        // Until the proxy gives up.
                        while let Ok(1..) = stream.read(&mut [0; 16]).await {}
                    }
                    Deed::Refuse => {}
                }
            });
        }
    });
    let sidecar = sidecar_with(&ca, "b", Role::Inbound, application, settings).await;
    let snapshot = inbound_snapshot(application.port(), MtlsMode::Disable, vec![default_permit()]);
    sidecar.runtime.apply(snapshot).unwrap();
    (Front { sidecar, seen: Arc::default(), port: application.port() }, deed)
}

/// The whole answer to one request on a connection that is closed after it.
pub(super) async fn answer(front: &Front) -> String {
    let mut client = TcpStream::connect(front.sidecar.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut received = Vec::new();
    let _ = within(client.read_to_end(&mut received)).await;
    String::from_utf8_lossy(&received).into_owned()
}

pub(super) fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return body.ends_with("0\r\n\r\n");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| length == body.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_ends_at_any_byte_is_whole_or_an_error() {
    let (front, deed) = broken().await;
    for whole in [ANSWER, CHUNKED] {
        for end in 0..=whole.len() {
            let part = whole[..end].to_vec();
            for next in [Deed::Say(part.clone()), Deed::Reset(part.clone())] {
                let is_reset = matches!(next, Deed::Reset(_));
                *deed.lock() = next;
                let answer = answer(&front).await;
                let is_ok = answer.starts_with("HTTP/1.1 200") && is_whole(&answer);
                if end < whole.len() {
                    assert!(!is_ok, "{end} bytes of {}: {answer:?}", whole.escape_ascii());
                } else if !is_reset {
                    assert!(is_ok, "{answer:?}");
                }
                if !answer.starts_with("HTTP/1.1 200") {
                    assert!(answer.starts_with("HTTP/1.1 50"), "{end} bytes: {answer:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_from_upstream_is_a_bad_gateway() {
    let (front, deed) = broken().await;
    for (name, bytes) in [
        ("noise", &b"\x00\x01\x02garbage\r\n\r\n"[..]),
        ("another protocol", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        ("an unknown status", b"HTTP/1.1 20x OK\r\n\r\n"),
        ("no status", b"HTTP/1.1 OK\r\n\r\n"),
        ("lengths that differ", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!"),
        ("a signed length", b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello"),
        ("a NUL in a value", b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n"),
    ] {
        *deed.lock() = Deed::Say(bytes.to_vec());
        let answer = answer(&front).await;
        assert!(answer.starts_with("HTTP/1.1 502 ") || answer.starts_with("HTTP/1.1 503 "), "{name}: {answer:?}");
        assert!(is_whole(&answer), "{name}: {answer:?}");
    }
    *deed.lock() = Deed::Refuse;
    let refused = answer(&front).await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_at_any_byte_ends_in_an_answer_or_in_none() {
    let (front, deed) = broken().await;
    for whole in [ANSWER, CHUNKED] {
        let body = whole.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        for at in 0..whole.len() {
            for garbage in [0, b'\n', 0xff] {
                let mut bytes = whole.to_vec();
                bytes[at] = garbage;
                *deed.lock() = Deed::Say(bytes.clone());
                let answer = answer(&front).await;
                let name = format!("{garbage:#x} at {at} of {}: {answer:?}", whole.escape_ascii());
                assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 50"), "{name}");
                assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}");
                if garbage == 0 && at < body {
                    let (head, _) = answer.split_once("\r\n\r\n").unwrap();
                    assert!(!head.contains('\0'), "{name}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_answer_is_nobody_s() {
    let (front, deed) = broken().await;
    *deed.lock() = Deed::Say([ANSWER, b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"].concat());
    for _ in 0..5 {
        let answer = answer(&front).await;
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("poison"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_stalls_at_any_byte_ends_by_the_idle_timeout() {
    let idle = Some(Duration::from_millis(30));
    let mut settings = RuntimeSettings { stream_idle_timeout: idle, ..RuntimeSettings::new("foo/b") };
    settings.h1.stream_idle_timeout = idle;
    let (front, deed) = broken_within(settings).await;
    for whole in [ANSWER, CHUNKED] {
        for end in 0..whole.len() {
            *deed.lock() = Deed::Stall(whole[..end].to_vec());
            let answer = answer(&front).await;
            assert!(!is_whole(&answer) || !answer.starts_with("HTTP/1.1 200"), "{end}: {answer}");
        }
    }
    logged(&front.sidecar.log, "idle-timeout").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announcement_is_not_the_answer() {
    let (front, deed) = broken().await;
    for announced in ["HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
        *deed.lock() = Deed::Reset(announced.as_bytes().to_vec());
        let answer = answer(&front).await;
        // Whether the announcement outran the reset or not, an answer follows.
        let last = answer.rfind("HTTP/1.1 ").map(|at| answer[at..].to_owned()).unwrap_or_default();
        assert!(last.starts_with("HTTP/1.1 503"), "{answer}");
    }
}
