//! Two chained proxies in a process of their own, so that their memory can be measured.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::support::certs::Pki;
use crate::support::hop::{Hop, Setup};

const UPSTREAM: &str = "PALISADE_TEST_CHILD_UPSTREAM";

/// What both proxies together may use, all of the process included.
pub const MEMORY_LIMIT_KIB: u64 = 64 * 1024;

/// Client, A, mTLS, B, `upstream`.
pub async fn two_hops(upstream: SocketAddr) -> (Hop, Hop) {
    let pki = Pki::new();
    let b = Setup { accept_tls: Some(pki.server), ..Setup::to(upstream) }.start().await;
    let a = Setup { dial_tls: Some(pki.client), ..Setup::to(b.address) }.start().await;
    (a, b)
}

/// The two hops of [`two_hops`], elsewhere.
pub struct Proxies {
    pub address: SocketAddr,
    process: Child,
}

impl Proxies {
    pub fn start(upstream: SocketAddr) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::body_of_the_child_process", "--nocapture"])
            .env(UPSTREAM, upstream.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address =
            lines.map(|line| line.unwrap()).find_map(|line| Some(line.split_once("listening ")?.1.to_owned()));
        Self { address: address.unwrap().parse().unwrap(), process }
    }

    /// The most memory that the process ever held.
    pub fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub fn assert_memory(&self, what: &str) {
        self.assert_memory_below(MEMORY_LIMIT_KIB, what);
    }

    pub fn assert_memory_below(&self, limit_kib: u64, what: &str) {
        let peak = self.peak_kib();
        println!("{what}: peak {peak} KiB");
        assert!(peak <= limit_kib, "{what}: {peak} KiB");
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn body_of_the_child_process() {
    let Ok(upstream) = std::env::var(UPSTREAM) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (a, _b) = two_hops(upstream.parse().unwrap()).await;
        println!("listening {}", a.address);
        std::io::stdout().flush().unwrap();
        // Lives as long as its parent: the other end of standard input closes with it.
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await.unwrap().unwrap();
    });
    std::process::exit(0);
}
