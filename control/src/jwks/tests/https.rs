//! Fetching over real TLS on loopback: whom the fetcher believes, and what odd servers get for it.

use std::sync::atomic::{AtomicBool, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::*;

const OTHER: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"BB"}]}"#;

/// An authority, a server of its for `localhost`, and what it answers by path.
struct Issuer {
    port: u16,
    roots: RootCertStore,
    /// The keys were changed.
    has_rotated: Arc<AtomicBool>,
}

impl Issuer {
    async fn start() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = names.signed_by(&key, &authority).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let has_rotated = Arc::new(AtomicBool::new(false));
        let (acceptor, rotated) = (TlsAcceptor::from(Arc::new(config)), Arc::clone(&has_rotated));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, rotated) = (acceptor.clone(), Arc::clone(&rotated));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut request = [0; 4096];
                    let Ok(count @ 1..) = stream.read(&mut request).await else { return };
                    let path = String::from_utf8_lossy(&request[..count]).split(' ').nth(1).unwrap().to_owned();
                    answer(&mut stream, port, &path, rotated.load(Ordering::SeqCst)).await;
                });
            }
        });
        Self { port, roots, has_rotated }
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    fn source(&self, path: &str) -> KeySource {
        KeySource::Uri(self.url(path).into())
    }

    fn fetcher(&self) -> Fetcher {
        Fetcher::trusting(self.roots.clone())
    }
}

/// One answer; whatever goes wrong is the client's to notice.
async fn answer(stream: &mut (impl AsyncWriteExt + Unpin), port: u16, path: &str, has_rotated: bool) {
    let whole = |status: &str, header: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{header}\r\n{body}", body.len())
    };
    let discovery = |uri: &str| whole("200 OK", "", &format!(r#"{{"issuer": "x", "jwks_uri": "{uri}"}}"#));
    let text = match path {
        "/keys" => whole("200 OK", "content-type: text/html\r\n", if has_rotated { OTHER } else { KEYS }),
        "/.well-known/openid-configuration" => discovery(&format!("https://localhost:{port}/keys")),
        "/down/.well-known/openid-configuration" => discovery("http://localhost/keys"),
        "/metadata/.well-known/openid-configuration" => discovery("https://169.254.169.254/keys"),
        "/empty" => whole("200 OK", "", r#"{"keys": []}"#),
        "/down" => whole("302 Found", "location: http://localhost/keys\r\n", ""),
        "/cut" => "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"keys\":".to_owned(),
        "/bytes" => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\u{0}\u{1}\u{2}\u{3}".to_owned(),
        "/nonsense" => "SSH-2.0-none\r\n".to_owned(),
        "/endless" => {
            let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            while stream.write_all(format!("1000\r\n{}\r\n", "x".repeat(4096)).as_bytes()).await.is_ok() {}
            return;
        }
        "/drip" => {
            let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await;
            while stream.write_all(b" ").await.is_ok() && stream.flush().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            return;
        }
        _ => whole("404 Not Found", "", ""),
    };
    let _sent = stream.write_all(text.as_bytes()).await;
    let _closed = stream.shutdown().await;
}

#[tokio::test]
async fn keys_come_over_tls_from_an_uri_and_by_discovery() {
    let issuer = Issuer::start().await;
    for source in [issuer.source("/keys"), KeySource::Issuer(issuer.url("").into())] {
        assert_eq!(issuer.fetcher().fetch(&source).await.unwrap(), PUBLIC, "{source}");
    }
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_gives_no_keys() {
    let (issuer, other) = (Issuer::start().await, Issuer::start().await);
    for (name, fetcher, url) in [
        ("another authority", other.fetcher(), issuer.url("/keys")),
        ("no authority", fetcher(), issuer.url("/keys")),
        ("another name", issuer.fetcher(), format!("https://127.0.0.1:{}/keys", issuer.port)),
    ] {
        let error = fetcher.fetch(&KeySource::Uri(url.into())).await.unwrap_err();
        assert!(matches!(error, FetchError::Connect { .. }), "{name}: {error}");
        assert!(error.to_string().contains("certificate"), "{name}: {error}");
    }
}

#[tokio::test]
async fn odd_answers_are_errors_in_time() {
    let issuer = Issuer::start().await;
    for (path, expected) in [
        ("/empty", "no set of public keys"),
        ("/bytes", "no set of public keys"),
        ("/down", "away from https"),
        ("/cut", "localhost"),
        ("/nonsense", "localhost"),
        ("/endless", "length limit exceeded"),
        ("/drip", "no answer within"),
        ("/nothing", "answered 404"),
    ] {
        let fetcher = issuer.fetcher().limited(Duration::from_millis(500));
        let error = fetcher.fetch(&issuer.source(path)).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{path}: {error}");
    }
    let by_discovery = |path: &str| KeySource::Issuer(issuer.url(path).into());
    let error = issuer.fetcher().fetch(&by_discovery("/down")).await.unwrap_err();
    assert!(matches!(error, FetchError::Redirect(_)), "{error}");
    let error = issuer.fetcher().fetch(&by_discovery("/metadata")).await.unwrap_err();
    assert!(matches!(error, FetchError::Refused(_)), "{error}");
}

/// Waits until the keys of a source are these.
async fn published(feed: &mut KeyFeed, source: &KeySource, expected: &str) {
    let has = |keys: &Arc<Keys>| keys.get(source).is_some_and(|fetched| fetched.keys.as_deref() == Some(expected));
    tokio::time::timeout(Duration::from_secs(10), feed.keys.wait_for(has)).await.unwrap().unwrap();
}

#[tokio::test]
async fn rotated_keys_replace_the_old_ones_and_a_failing_issuer_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = Issuer::start().await;
    let source = issuer.source("/keys");
    let start = || {
        let (keeper, feed) = KeyKeeper::new(issuer.fetcher(), Some(folder.path()), Metrics::new());
        feed.wanted.send_replace(BTreeSet::from([source.clone()]));
        let stop = CancellationToken::new();
        (tokio::spawn(keeper.run(stop.clone())), feed, stop)
    };
    let (running, mut feed, stop) = start();
    published(&mut feed, &source, PUBLIC).await;
    stop.cancel();
    running.await.unwrap();
    // A restart has the old keys at once, asks again, and takes what the issuer has now.
    issuer.has_rotated.store(true, Ordering::SeqCst);
    let (running, mut feed, stop) = start();
    assert_eq!(feed.keys.borrow().get(&source).and_then(|fetched| fetched.keys.clone()).as_deref(), Some(PUBLIC));
    published(&mut feed, &source, OTHER).await;
    stop.cancel();
    running.await.unwrap();
    let file = std::fs::metadata(folder.path().join("jwks.json")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o777, 0o600);
    // An issuer that cannot be reached changes nothing but the status.
    let metrics = Metrics::new();
    let (keeper, feed) = KeyKeeper::new(fetcher(), Some(folder.path()), metrics.clone());
    let mut status = keeper.status();
    feed.wanted.send_replace(BTreeSet::from([source.clone()]));
    let stop = CancellationToken::new();
    let running = tokio::spawn(keeper.run(stop.clone()));
    let has_failed = |status: &Arc<[KeyStatus]>| status.iter().any(|status| status.error.is_some());
    let failed = tokio::time::timeout(Duration::from_secs(10), status.wait_for(has_failed)).await.unwrap().unwrap();
    assert!(failed.iter().all(|status| status.fetched.is_some()), "{failed:?}");
    drop(failed);
    assert_eq!(feed.keys.borrow().get(&source).and_then(|fetched| fetched.keys.clone()).as_deref(), Some(OTHER));
    let text = metrics.text().unwrap();
    let labels = format!("source=\"{source}\"");
    assert!(text.contains(&format!("palisade_control_key_fetches_total{{{labels},result=\"Failed\"}} 1")), "{text}");
    let age = text.lines().find(|line| line.starts_with("palisade_control_keys_fetched_timestamp_seconds")).unwrap();
    assert!(!age.ends_with(" 0"), "{age}");
    stop.cancel();
    running.await.unwrap();
}
