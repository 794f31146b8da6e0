//! Cached answers of a real provider: by key, by policy generation, by what the provider says.

use std::sync::atomic::{AtomicUsize, Ordering};

use palisade_model::external_authorization::{CheckCache, KeyPart};

use super::*;

/// An HTTP provider that counts its questions; its answers carry the header that it is given.
async fn counting(header: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    counter.fetch_add(1, Ordering::SeqCst);
                    let is_denied = String::from_utf8_lossy(&buffer[..count]).contains("deny");
                    let status = if is_denied { "403 No" } else { "200 OK" };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n{header}\r\n");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, asked)
}

fn cached(port: u16, peer: SocketAddr, lifetime: u64) -> Arc<Snapshot> {
    let resources = snapshot(port, http(), peer);
    let with_cache = resources.entries().values().map(|entry| match entry.resource() {
        Resource::ExternalAuthorization(external) => {
            let key = [KeyPart::Method, KeyPart::Path, KeyPart::Header("x-ext-user".into())].into();
            let cache = Some(CheckCache { lifetime: Duration::from_secs(lifetime), key });
            let check = |check: &ExternalCheck| ExternalCheck { cache: cache.clone(), ..check.clone() };
            let checks = external.checks.iter().map(check).collect();
            Resource::ExternalAuthorization(ExternalAuthorization { key: Arc::clone(&external.key), checks })
        }
        other => other.clone(),
    });
    testing::snapshot(with_cache.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_requests_are_asked_about_once_until_policies_change() {
    let (peer, asked) = counting("").await;
    let application = application().await;
    let b = sidecar(&TestCa::new("mesh"), "b", Role::Inbound, application).await;
    b.runtime.apply(cached(application.port(), peer, 600)).unwrap();
    for (path, headers, expected, questions) in [
        ("/admin", "x-ext-user: a\r\n", 200, 1),
        ("/admin?x=1", "x-ext-user: a\r\n", 200, 1),
        ("/admin", "x-ext-user: a\r\nx-other: 1\r\n", 200, 1),
        ("/admin", "x-ext-user: b\r\n", 200, 2),
        ("/admin", "x-ext-user: deny\r\n", 403, 3),
        ("/admin", "x-ext-user: deny\r\n", 403, 3),
        ("/other", "x-ext-user: deny\r\n", 200, 3),
    ] {
        let (head, _) = call(&b, path, headers).await;
        assert_eq!((status(&head), asked.load(Ordering::SeqCst)), (expected, questions), "{path} {headers}");
        if expected == 403 {
            assert!(head.contains("x-palisade-decision: "), "{head}");
        }
    }
    let counts = b.runtime.metrics.render().unwrap();
    for line in [
        "palisade_ext_authz_checks_total{from=\"provider\",answer=\"allowed\"} 2",
        "palisade_ext_authz_checks_total{from=\"cache\",answer=\"allowed\"} 2",
        "palisade_ext_authz_checks_total{from=\"cache\",answer=\"denied\"} 1",
    ] {
        assert!(counts.contains(line), "{line}: {counts}");
    }
    // The same once more: nothing is forgotten. Another setting: everything is.
    b.runtime.apply(cached(application.port(), peer, 600)).unwrap();
    call(&b, "/admin", "x-ext-user: a\r\n").await;
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    b.runtime.apply(cached(application.port(), peer, 601)).unwrap();
    call(&b, "/admin", "x-ext-user: a\r\n").await;
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_says_no_store_is_asked_each_time() {
    let (peer, asked) = counting("cache-control: no-store\r\n").await;
    let application = application().await;
    let b = sidecar(&TestCa::new("mesh"), "b", Role::Inbound, application).await;
    b.runtime.apply(cached(application.port(), peer, 600)).unwrap();
    for questions in 1..=3 {
        assert_eq!(status(&call(&b, "/admin", "").await.0), 200);
        assert_eq!(asked.load(Ordering::SeqCst), questions);
    }
}
