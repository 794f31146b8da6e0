//! HTTP/2 upstreams that end, reset or leave after any frame of their answer.

use super::{
    frames::{END_HEADERS, END_STREAM, PREFACE, block, frame, read_frame},
    upstream::{answer, is_whole},
    *,
};

/// How the upstream ends what it has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Closes the connection.
    Close,
    /// Resets the connection.
    Abort,
    /// Resets the stream.
    Reset(u32),
    /// Says that it leaves, as if it had not seen the stream, and closes.
    GoAway,
}

/// The frames of an answer.
fn frames(stream: u32) -> Vec<Vec<u8>> {
    let head = [&[0x88][..], &block(&[(b"content-length", b"5")])].concat();
    vec![
        frame(1, END_HEADERS, stream, &head),
        frame(0, 0, stream, b"he"),
        frame(0, 0, stream, b"llo"),
        frame(0, END_STREAM, stream, &[]),
    ]
}

/// What is done with the next request: so many frames of an answer, then this.
type Deed = Arc<Mutex<(usize, End)>>;

async fn serve(mut stream: TcpStream, deed: Deed) -> Option<()> {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await.ok()?;
    stream.write_all(&[frame(4, 0, 0, &[]), frame(4, 1, 0, &[])].concat()).await.ok()?;
    loop {
        let (kind, _, id, _) = read_frame(&mut stream).await?;
        if kind != 1 {
            continue;
        }
        let (count, end) = *deed.lock();
        stream.write_all(&frames(id)[..count].concat()).await.ok()?;
        let farewell = match end {
            End::Close => Vec::new(),
            End::Abort => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok()?;
                return None;
            }
            End::Reset(code) => frame(3, 0, id, &code.to_be_bytes()),
            End::GoAway => frame(7, 0, 0, &[0; 8]),
        };
        stream.write_all(&farewell).await.ok()?;
        if !matches!(end, End::Reset(_)) {
            stream.shutdown().await.ok()?;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http2_answer_that_ends_after_any_frame_is_whole_or_an_error() {
    let deed = Deed::new(Mutex::new((0, End::Close)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let application = listener.local_addr().unwrap();
    let shared = Arc::clone(&deed);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&shared)));
        }
    });
    let sidecar = sidecar(&TestCa::new("mesh"), "b", Role::Inbound, application).await;
    let (port, policies) = (application.port(), vec![default_permit()]);
    sidecar.runtime.apply(inbound_to(port, MtlsMode::Disable, policies, UpstreamProtocol::Http2)).unwrap();
    let front = Front { sidecar, seen: Arc::default(), port };
    let all = frames(1).len();
    for end in [End::Close, End::Abort, End::Reset(0), End::Reset(2), End::Reset(7), End::Reset(8), End::GoAway] {
        for count in 0..=all {
            *deed.lock() = (count, end);
            let answer = tokio::time::timeout(Duration::from_secs(5), answer(&front)).await;
            let answer = answer.unwrap_or_else(|_| panic!("{end:?} after {count}: {}", front.sidecar.log.text()));
            let is_ok = answer.starts_with("HTTP/1.1 200") && is_whole(&answer);
            // All bytes that were announced are there from the third frame on: then it may count as whole.
            assert!(!is_ok || count >= 3, "{end:?} after {count}: {answer:?}");
            assert!(is_ok || count < all || end == End::Abort, "{end:?} after all: {answer:?}");
            if !answer.starts_with("HTTP/1.1 200") {
                assert!(answer.starts_with("HTTP/1.1 50"), "{end:?} after {count}: {answer:?}");
            }
        }
    }
    assert_eq!(front.sidecar.runtime.registry.counts().streams, 0);
}
