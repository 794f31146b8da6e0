//! The pages over a real socket.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

#[derive(Default)]
struct Fixed {
    is_ready: AtomicBool,
    is_draining: AtomicBool,
}

impl AdminSource for Fixed {
    fn config(&self) -> Value {
        json!({ "version": "v" })
    }

    fn why(&self, decision: &str) -> Option<Value> {
        (decision == "p1-7").then(|| json!({ "decision": "deny" }))
    }

    fn log_filter(&self) -> String {
        "info".to_owned()
    }

    fn set_log_filter(&self, directives: &str) -> Result<(), String> {
        if directives == "debug" { Ok(()) } else { Err(format!("`{directives}` is not a filter")) }
    }

    fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    fn readiness(&self) -> Result<(), String> {
        if self.is_ready.load(Ordering::Relaxed) { Ok(()) } else { Err("no snapshot yet".to_owned()) }
    }
}

/// Status and body of one request to freshly served pages.
async fn ask(pages: Router, head: &str) -> (u16, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(serve(listener, pages, stopped));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let host = if head.contains("\r\nhost:") { "" } else { "host: 127.0.0.1:15000\r\n" };
    stream.write_all(format!("{head}\r\n{host}connection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    stop.send(true).unwrap();
    server.await.unwrap().unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test]
async fn readiness_waits_for_the_first_snapshot() {
    let source = Arc::new(Fixed::default());
    let (status, body) = ask(health_pages(source.clone()), "GET /healthz/ready HTTP/1.1").await;
    assert_eq!((status, body.contains("no snapshot yet")), (503, true));
    source.is_ready.store(true, Ordering::Relaxed);
    assert_eq!(ask(health_pages(source), "GET /healthz/ready HTTP/1.1").await.0, 200);
}

#[tokio::test]
async fn a_known_decision_is_explained_and_an_unknown_one_is_not_found() {
    let source = Arc::new(Fixed::default());
    assert_eq!(ask(admin_pages(source.clone()), "GET /why/p1-7 HTTP/1.1").await.0, 200);
    assert_eq!(ask(admin_pages(source), "GET /why/p1-8 HTTP/1.1").await.0, 404);
}

#[tokio::test]
async fn draining_takes_a_post() {
    let source = Arc::new(Fixed::default());
    assert_eq!(ask(admin_pages(source.clone()), "GET /drain HTTP/1.1").await.0, 405);
    assert!(!source.is_draining.load(Ordering::Relaxed));
    assert_eq!(ask(admin_pages(source.clone()), "POST /drain HTTP/1.1\r\ncontent-length: 0").await.0, 202);
    assert!(source.is_draining.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_bad_log_filter_is_named() {
    let source = Arc::new(Fixed::default());
    assert_eq!(ask(admin_pages(source.clone()), "GET /log?level=debug HTTP/1.1").await.0, 200);
    let (status, body) = ask(admin_pages(source), "GET /log?level=%21 HTTP/1.1").await;
    assert_eq!((status, body.contains("`!`")), (400, true));
}

#[tokio::test]
async fn a_foreign_name_does_not_reach_the_admin_pages() {
    let source = Arc::new(Fixed::default());
    let head = "GET /config HTTP/1.1\r\nhost: attacker.example:15000";
    assert_eq!(ask(admin_pages(source.clone()), head).await.0, 403);
    assert_eq!(ask(admin_pages(source), "GET /config HTTP/1.1\r\nhost: [::1]:15000").await.0, 200);
}

#[tokio::test]
async fn metrics_are_openmetrics_text() {
    let (status, body) = ask(metrics_pages(Arc::new(Metrics::new())), "GET /metrics HTTP/1.1").await;
    assert_eq!(status, 200);
    assert!(body.contains("palisade_requests_total"));
}
