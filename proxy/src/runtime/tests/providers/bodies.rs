//! Bodies that are shown to a provider before they are forwarded.

use palisade_model::external_authorization::CheckBody;

use super::*;

/// A request with a body, and what the application got: its head, then as many bytes.
async fn post(b: &Sidecar, body: usize, is_chunked: bool) -> (u16, String) {
    let mut stream = TcpStream::connect(b.address).await.unwrap();
    let framing = if is_chunked { "transfer-encoding: chunked".to_owned() } else { format!("content-length: {body}") };
    let text = format!("POST /admin HTTP/1.1\r\nhost: b\r\nx-case: body\r\n{framing}\r\nconnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let bytes = vec![b'z'; body];
    if is_chunked {
        for part in bytes.chunks(1000) {
            stream.write_all(format!("{:x}\r\n", part.len()).as_bytes()).await.unwrap();
            stream.write_all(part).await.unwrap();
            stream.write_all(b"\r\n").await.unwrap();
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    } else if stream.write_all(&bytes).await.is_err() {
        // Refused before it was whole: the answer is there all the same.
    }
    let mut received = Vec::new();
    let _ = within(stream.read_to_end(&mut received)).await;
    let text = String::from_utf8_lossy(&received).to_ascii_lowercase();
    (status(&text), text)
}

/// An application that reads one request to its end and answers how long its body was.
async fn counting_application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut received = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    received.extend_from_slice(&buffer[..count]);
                    let text = String::from_utf8_lossy(&received).to_ascii_lowercase();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    let is_whole = match length {
                        Some(length) => body.len() >= length.parse::<usize>().unwrap(),
                        None => body.ends_with("0\r\n\r\n"),
                    };
                    if is_whole {
                        let seen = head.lines().find(|line| line.starts_with("x-body")).unwrap_or_default();
                        let answer = format!("{seen} got {}", body.matches('z').count());
                        let head =
                            format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", answer.len());
                        stream.write_all(head.as_bytes()).await.unwrap();
                        stream.write_all(answer.as_bytes()).await.unwrap();
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_shown_as_far_as_they_may_be_and_arrive_whole() {
    let application = counting_application().await;
    let peer = judge().await;
    let b = sidecar(&TestCa::new("mesh"), "b", Role::Inbound, application).await;
    for (max_bytes, allows_partial, is_bytes, body, expected) in [
        (8192, false, false, 5000, Some("x-body: 5000 false true got 5000")),
        (8192, false, true, 5000, Some("x-body: 5000 false false got 5000")),
        (8192, false, false, 0, Some("x-body: 0 false true got 0")),
        (100, true, false, 5000, Some("x-body: 100 true true got 5000")),
        (100, false, false, 5000, None),
        (1000, true, true, 200_000, Some("x-body: 1000 true false got 200000")),
        (1 << 20, true, false, 200_000, Some("x-body: 200000 false true got 200000")),
        (1 << 20, false, false, 200_000, Some("x-body: 200000 false true got 200000")),
    ] {
        let body_limits = Some(CheckBody { max_bytes, allows_partial, is_bytes });
        let asks = ExternalProvider::Grpc(CheckService { body: body_limits, ..service() });
        b.runtime.apply(snapshot(application.port(), asks, peer)).unwrap();
        for is_chunked in [false, true] {
            let (status, text) = post(&b, body, is_chunked).await;
            match expected {
                Some(expected) => assert!(text.contains(expected), "{max_bytes} {body} {is_chunked}: {text}"),
                None => assert_eq!(status, 413, "{max_bytes} {body} {is_chunked}: {text}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_to_be_asked_for_its_body_is_asked_once() {
    let application = counting_application().await;
    let b = sidecar(&TestCa::new("mesh"), "b", Role::Inbound, application).await;
    let body = Some(CheckBody { max_bytes: 8192, allows_partial: false, is_bytes: false });
    let asks = ExternalProvider::Grpc(CheckService { body, ..service() });
    b.runtime.apply(snapshot(application.port(), asks, judge().await)).unwrap();
    let mut client = TcpStream::connect(b.address).await.unwrap();
    let head = "POST /admin HTTP/1.1\r\nhost: b\r\nx-case: body\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let asked = "HTTP/1.1 100 Continue\r\n\r\n";
    let mut seen = vec![0; asked.len()];
    within(client.read_exact(&mut seen)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&seen), asked);
    client.write_all(b"zzz").await.unwrap();
    let mut answer = Vec::new();
    within(async {
        while !answer.ends_with(b"got 3") {
            assert!(client.read_buf(&mut answer).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
        }
    })
    .await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-body: 3 false true"), "{answer}");
}
