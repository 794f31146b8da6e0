//! Hand-made HTTP/2 frames: malformed requests, and frames that only cost.

use super::*;
use crate::runtime::tests::traffic::silence;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literals that are not indexed and not compressed.
pub(super) fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let text = |bytes: &[u8]| {
        let mut out = match u8::try_from(bytes.len()).ok().filter(|length| *length < 127) {
            Some(length) => vec![length],
            None => {
                let mut rest = bytes.len() - 127;
                let mut out = vec![127];
                while rest >= 128 {
                    out.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                out.push(u8::try_from(rest).unwrap());
                out
            }
        };
        out.extend_from_slice(bytes);
        out
    };
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

fn get(path: &[u8], more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut fields: Vec<(&[u8], &[u8])> =
        vec![(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"b"), (b":path", path)];
    fields.extend_from_slice(more);
    block(&fields)
}

/// What came back for stream 1.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Came {
    /// A response; its status is in the dynamic or static table, so it is told by its first bytes.
    Status(u16),
    Reset,
    GoAway,
    Closed,
}

async fn handshake(front: &Front) -> TcpStream {
    let mut client = TcpStream::connect(front.sidecar.address).await.unwrap();
    client.write_all(&[PREFACE, &frame(4, 0, 0, &[]), &frame(4, 1, 0, &[])].concat()).await.unwrap();
    client
}

pub(super) async fn read_frame(client: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    client.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    client.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

/// The status at the begin of a header block, as the h2 crate writes the few that can come.
fn status(mut block: &[u8]) -> u16 {
    // Changes of the dynamic table's size.
    while let Some((first, rest)) = block.split_first()
        && first & 0xe0 == 0x20
    {
        block = rest;
    }
    match block {
        [0x88, ..] => 200,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        // Huffman-coded.
        [0x48, 0x83, 0x69, 0x90, 0xff, ..] => 431,
        [0x48, 0x83, 0x68, 0x0c, 0xff, ..] => 403,
        _ => panic!("{block:02x?}"),
    }
}

async fn outcome(front: &Front, frames: &[u8]) -> Came {
    let mut client = handshake(front).await;
    let _ = client.write_all(frames).await;
    within(async {
        loop {
            match read_frame(&mut client).await {
                None => return Came::Closed,
                Some((1, _, 1, block)) => return Came::Status(status(&block)),
                Some((3, _, 1, _)) => return Came::Reset,
                Some((7, ..)) => return Came::GoAway,
                Some(_) => {}
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_http2_requests_are_refused_and_never_reach_the_application() {
    let front = front().await;
    let good = frame(1, END_STREAM | END_HEADERS, 1, &get(b"/fine", &[]));
    assert_eq!(outcome(&front, &good).await, Came::Status(200));
    assert!(front.taken().starts_with("GET /fine HTTP/1.1\r\n"));
    let lf: &[(&[u8], &[u8])] = &[(b"x", b"a\r\nhost: evil\r\n\r\n")];
    for (name, block) in [
        ("a line end in a value", get(b"/", lf)),
        ("a NUL in a value", get(b"/", &[(b"x", b"a\0b")])),
        ("a line end in a name", get(b"/", &[(b"x\r\ny", b"a")])),
        ("a colon in a name", get(b"/", &[(b"x:y", b"a")])),
        ("a blank in a name", get(b"/", &[(b"x y", b"a")])),
        ("an upper-case name", get(b"/", &[(b"X", b"a")])),
        ("an empty name", get(b"/", &[(b"", b"a")])),
        ("a padded value", get(b"/", &[(b"x", b" a")])),
        ("a blank in the path", get(b"/a b", &[])),
        ("a line end in the path", get(b"/ HTTP/1.1\r\nx: y\r\n\r\nGET /admin", &[])),
        ("a control byte in the path", get(b"/\x01", &[])),
        ("no leading slash", get(b"admin", &[])),
        ("an absolute path", get(b"http://b/", &[])),
        ("an empty path", get(b"", &[])),
        ("an asterisk", get(b"*", &[])),
        ("bytes that are no text in the path", get(b"/\x80", &[])),
        ("another host", get(b"/", &[(b"host", b"c")])),
        ("two hosts", get(b"/", &[(b"host", b"b"), (b"host", b"b")])),
        ("a coding", get(b"/", &[(b"transfer-encoding", b"chunked")])),
        ("a connection field", get(b"/", &[(b"connection", b"close")])),
        ("an upgrade", get(b"/", &[(b"upgrade", b"websocket")])),
        ("TE beyond trailers", get(b"/", &[(b"te", b"gzip")])),
        ("two lengths", get(b"/", &[(b"content-length", b"0"), (b"content-length", b"0")])),
        ("a signed length", get(b"/", &[(b"content-length", b"+0")])),
        ("a length without a body", get(b"/", &[(b"content-length", b"5")])),
        ("a pseudo header twice", get(b"/", &[(b":path", b"/b")])),
        ("a pseudo header after a field", get(b"/", &[(b"x", b"y"), (b":method", b"GET")])),
        ("an unknown pseudo header", block(&[(b":method", b"GET"), (b":x", b"y"), (b":path", b"/")])),
        ("no authority", block(&[(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")])),
        ("no method", block(&[(b":scheme", b"http"), (b":authority", b"b"), (b":path", b"/")])),
        ("no path", block(&[(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"b")])),
        ("no scheme", block(&[(b":method", b"GET"), (b":authority", b"b"), (b":path", b"/")])),
        ("CONNECT", block(&[(b":method", b"CONNECT"), (b":authority", b"b:80")])),
        (
            "extended CONNECT",
            block(&[
                (b":method", b"CONNECT"),
                (b":protocol", b"websocket"),
                (b":scheme", b"http"),
                (b":authority", b"b"),
                (b":path", b"/"),
            ]),
        ),
        ("a response's pseudo header", get(b"/", &[(b":status", b"200")])),
        (
            "user information",
            block(&[(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"u@b"), (b":path", b"/")]),
        ),
        (
            "a line end in the authority",
            block(&[(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"b\r\nx: y"), (b":path", b"/")]),
        ),
    ] {
        let came = outcome(&front, &frame(1, END_STREAM | END_HEADERS, 1, &block)).await;
        assert!(matches!(came, Came::Status(400) | Came::Reset | Came::GoAway), "{name}: {came:?}");
        assert_eq!(front.taken(), "", "{name}");
    }
    // Refused before there was a request to speak of: a line and a count all the same.
    let line = logged(&front.sidecar.log, "\"reason\":\"bad-request\"").await;
    assert!(line.contains("\"status\":400") && line.contains("\"protocol\":\"http/2\""), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_http2_headers_are_refused() {
    let front = front().await;
    let large = vec![b'a'; 70_000];
    let block = get(b"/", &[(b"x", &large)]);
    let mut frames = Vec::new();
    for (at, part) in block.chunks(16_000).enumerate() {
        let is_last = (at + 1) * 16_000 >= block.len();
        let flags = if is_last { END_HEADERS } else { 0 };
        let (kind, first) = if at == 0 { (1, END_STREAM) } else { (9, 0) };
        frames.extend(frame(kind, flags | first, 1, part));
    }
    let came = outcome(&front, &frames).await;
    assert!(matches!(came, Came::Status(431) | Came::Reset | Came::GoAway), "{came:?}");
    let many: Vec<(&[u8], &[u8])> = vec![(b"x", b"y"); 150];
    let came = outcome(&front, &frame(1, END_STREAM | END_HEADERS, 1, &get(b"/", &many))).await;
    assert_eq!(came, Came::Status(431));
    assert_eq!(front.taken(), "");
    let line = logged(&front.sidecar.log, "\"reason\":\"headers-too-large\"").await;
    assert!(line.contains("\"status\":431") && line.contains("\"protocol\":\"http/2\""), "{line}");
}

/// Resets streams that have not been looked at yet, or that have just become requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_resets_whatever_it_opens_is_sent_away() {
    let ca = TestCa::new("mesh");
    let application = silence().await;
    let sidecar = sidecar(&ca, "b", Role::Inbound, application).await;
    let snapshot = inbound_snapshot(application.port(), MtlsMode::Disable, vec![default_permit()]);
    sidecar.runtime.apply(snapshot).unwrap();
    let front = Front { sidecar, seen: Arc::default(), port: application.port() };
    for is_patient in [false, true] {
        let (mut read, mut write) = handshake(&front).await.into_split();
        let sending = async {
            let registry = &front.sidecar.runtime.registry;
            for stream in (1..8_000).step_by(2) {
                if write.write_all(&frame(1, END_STREAM | END_HEADERS, stream, &get(b"/", &[]))).await.is_err() {
                    break;
                }
                // The stream has become a request before it is taken back.
                while is_patient && registry.counts().streams == 0 && registry.counts().connections > 0 {
                    tokio::task::yield_now().await;
                }
                let _ = write.write_all(&frame(3, 0, stream, &8_u32.to_be_bytes())).await;
                while is_patient && registry.counts().streams > 0 {
                    tokio::task::yield_now().await;
                }
            }
            std::future::pending::<()>().await;
        };
        let sent_away = async {
            let mut all = Vec::new();
            let _ = read.read_to_end(&mut all).await;
            all
        };
        let all = within(async {
            tokio::select! {
                () = sending => Vec::new(),
                all = sent_away => all,
            }
        })
        .await;
        // The last frame before the end: GOAWAY, of whatever length.
        let (mut rest, mut last) = (all.as_slice(), 0);
        while let Some((head, after)) = rest.split_first_chunk::<9>() {
            last = head[3];
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            rest = after.get(usize::try_from(length).unwrap()..).unwrap_or_default();
        }
        assert_eq!(last, 7, "patient: {is_patient}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_only_cost_end_the_connection_or_cost_nothing() {
    let front = front().await;
    let headers = frame(1, END_HEADERS, 1, &get(b"/", &[]));
    for (name, must_end, frames) in [
        ("empty data", true, [headers.clone(), frame(0, 0, 1, &[]).repeat(20_000)].concat()),
        (
            "continuations",
            true,
            [frame(1, END_STREAM, 1, &get(b"/", &[])), frame(9, 0, 1, &[]).repeat(20_000)].concat(),
        ),
        ("settings", false, frame(4, 0, 0, &[0, 3, 0, 0, 0, 1]).repeat(20_000)),
        ("pings", false, frame(6, 0, 0, &[7; 8]).repeat(20_000)),
        ("priorities", false, frame(2, 0, 3, &[0, 0, 0, 0, 1]).repeat(20_000)),
        ("window updates", false, frame(8, 0, 0, &[0, 0, 0, 1]).repeat(20_000)),
        ("unknown frames", false, frame(99, 0, 0, &[1; 100]).repeat(20_000)),
    ] {
        let good = |stream| frame(1, END_STREAM | END_HEADERS, stream, &get(b"/", &[]));
        let (mut read, mut write) = handshake(&front).await.into_split();
        let flood = [frames, good(5)].concat();
        let writing = tokio::spawn(async move { drop(write.write_all(&flood).await) });
        // What comes of the connection: it ends, or the request behind the flood is answered as any other.
        let is_served = within(async {
            loop {
                match read_frame(&mut read).await {
                    Some((1, _, 5, block)) => return status(&block) == 200,
                    Some((7, ..)) | None => return false,
                    Some(_) => {}
                }
            }
        })
        .await;
        assert!(!is_served || !must_end, "{name}");
        writing.abort();
        assert_eq!(
            outcome(&front, &good(1)).await,
            Came::Status(200),
            "{name}: others are served as if nothing had been"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_http2_streams_end_with_the_permission_that_let_them_in() {
    let ca = TestCa::new("mesh");
    let application = silence().await;
    let sidecar = sidecar(&ca, "b", Role::Inbound, application).await;
    let open = |policies| inbound_snapshot(application.port(), MtlsMode::Disable, policies);
    sidecar.runtime.apply(open(vec![default_permit()])).unwrap();
    let mut client = TcpStream::connect(sidecar.address).await.unwrap();
    client.write_all(&[PREFACE, &frame(4, 0, 0, &[]), &frame(4, 1, 0, &[])].concat()).await.unwrap();
    client.write_all(&frame(1, END_HEADERS, 1, &get(b"/admin", &[]))).await.unwrap();
    client.write_all(&frame(1, END_HEADERS, 3, &get(b"/other", &[]))).await.unwrap();
    within(async {
        while sidecar.runtime.registry.counts().streams < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    // Both have an upstream, or are about to.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut policies = deny_admin();
    policies.push(default_permit());
    sidecar.runtime.apply(open(policies)).unwrap();
    let ended = within(async {
        loop {
            match read_frame(&mut client).await {
                Some((1 | 3, _, stream, _)) => return stream,
                Some(_) => {}
                None => return 0,
            }
        }
    })
    .await;
    assert_eq!(ended, 1);
    logged(&sidecar.log, "\"reason\":\"authz-denied\"").await;
    assert_eq!(sidecar.runtime.registry.counts().streams, 1);
}
