//! A gateway, Envoy and HAProxy in one network namespace, with the upstream and the clients on its loopback.

use std::{fmt::Write, fs, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::{
    THREADS, envoy_program, indent, open_folder,
    policies::{HAPROXY_POLICIES, Policies, envoy_gateway_policies, gateway_policies},
    shell,
};
use crate::{
    bench::{
        load::PATHS,
        measure::{self, words},
        process::{Process, enter},
    },
    mesh::{Mesh, Options},
    wait::until,
};

/// How long the first answer may take.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// The gateway's name: that of the pod which Istio gateway selectors mean.
const GATEWAY: &str = "istio-system/bench";
/// An address of the upstream (RFC 5737) on the namespace's loopback, so that no traffic leaves it.
const UPSTREAM: &str = "192.0.2.10";

/// A gateway and its peers.
#[derive(Debug)]
pub struct Edge {
    mesh: Mesh,
    /// Our gateway first, then Envoy, then HAProxy.
    pub peers: Vec<EdgePeer>,
    /// Process of our gateway, in whose namespace everything is.
    pub namespace: u32,
    _folder: TempDir,
    _processes: Vec<Process>,
}

/// One of the proxies.
#[derive(Debug)]
pub struct EdgePeer {
    /// Name for tables.
    pub name: &'static str,
    /// Its process.
    pub pid: u32,
    /// Added to 8080 (HTTP), 8443 (HTTPS) and 8082 (TCP).
    pub http: u16,
    /// Port of HTTPS.
    pub https: u16,
    /// Port of opaque TCP.
    pub tcp: u16,
}

impl Edge {
    /// Starts everything. `extra_routes` are added to our gateway alone; HAProxy always has the ten policies.
    ///
    /// # Errors
    /// When a peer is not installed or does not come up. Needs root.
    pub async fn start(extra_routes: usize, policies: Policies) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("palisade-bench-").tempdir()?;
        open_folder(folder.path())?;
        certificates(folder.path())?;
        let base64 = |file: &str| -> anyhow::Result<String> {
            use base64::Engine as _;
            Ok(base64::engine::general_purpose::STANDARD.encode(fs::read(folder.path().join(file))?))
        };
        let documents = include_str!("gateway.yaml")
            .replace("ROUTES", &indent(&routes(extra_routes), 2))
            .replace("CERTIFICATE", &base64("server.pem")?)
            .replace("KEY", &base64("server-key.pem")?)
            .replace("POLICIES", &gateway_policies(policies));
        let path = folder.path().join("gateway.yaml");
        fs::write(&path, documents)?;
        let images = folder.path().join("images.yaml");
        fs::write(&images, "\"*\": [sleep, infinity]\n")?;
        let mesh = Mesh::start(Options { documents: vec![path], images, ..Options::default() }).await?;
        let gateway = mesh.ready().gateways.iter().find(|gateway| gateway.name == GATEWAY);
        let gateway = gateway.with_context(|| format!("no gateway `{GATEWAY}`: {:?}", mesh.ready().gateways))?;
        let namespace = gateway.pid.context("the ready file has no process id")?;
        let add = format!("address add {UPSTREAM}/32 dev lo");
        ensure!(
            enter(namespace).arg("ip").args(words(&add)).status().await?.success(),
            "cannot add an address: not root"
        );

        let upstream = Process::start(
            namespace,
            &folder.path().join("upstream.log"),
            &std::env::current_exe()?,
            &words("upstream"),
        )?;
        let (envoy, haproxy) = peers(&folder, namespace, policies)?;
        let peers = vec![
            EdgePeer { name: "palisade", pid: namespace, http: 8080, https: 8443, tcp: 8082 },
            EdgePeer { name: "envoy", pid: envoy.pid(), http: 10080, https: 10443, tcp: 10082 },
            EdgePeer { name: "haproxy", pid: haproxy.pid(), http: 20080, https: 20443, tcp: 20082 },
        ];
        let mut processes = vec![upstream, envoy, haproxy];
        for (process, port) in processes.iter_mut().zip([9080, 10080, 20080]) {
            let log = mesh.folder().display().to_string();
            process.listens(port).await.with_context(|| format!("port {port}; see {log}"))?;
        }
        let edge = Self { mesh, peers, namespace, _folder: folder, _processes: processes };
        for peer in &edge.peers {
            until(peer.name, READY_LIMIT, async || {
                let ask = format!("--kind http1 --connections 1 --seconds 0.01 --target 127.0.0.1:{}", peer.http);
                measure::run(namespace, &[peer.pid], &words(&ask)).await.map(drop)
            })
            .await?;
        }
        Ok(edge)
    }

    /// Ends our mesh in good order; the peers are killed.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.mesh.stop().await
    }
}

fn certificates(folder: &std::path::Path) -> anyhow::Result<()> {
    shell(
        folder,
        "openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt > server-key.pem
         openssl req -x509 -new -key server-key.pem -sha256 -days 30 -subj /CN=bench.example.com \
           -addext subjectAltName=DNS:bench.example.com -out server.pem
         cat server.pem server-key.pem > server-both.pem
         chmod 0644 *.pem",
    )
}

fn peers(folder: &TempDir, namespace: u32, policies: Policies) -> anyhow::Result<(Process, Process)> {
    let at = folder.path().display().to_string();
    let write = |file: &str, template: &str| -> anyhow::Result<PathBuf> {
        let path = folder.path().join(file);
        fs::write(&path, template.replace("FOLDER", &at).replace("BACKEND_IP", UPSTREAM))?;
        Ok(path)
    };
    let config = include_str!("envoy-gateway.yaml")
        .replace("ROUTES", &indent(&envoy_routes(), 14))
        .replace("POLICIES", &indent(&envoy_gateway_policies(policies), 10));
    let config = write("envoy.yaml", &config)?;
    let arguments =
        format!("--concurrency {THREADS} --disable-hot-restart --log-level warning -c {}", config.display());
    let envoy = Process::start(
        namespace,
        &folder.path().join("envoy.log"),
        &envoy_program(folder.path())?,
        &words(&arguments),
    )?;
    let mut routes = String::new();
    let mut backends = String::new();
    for path in 0..PATHS {
        let _ = writeln!(routes, "  use_backend svc{path} if {{ path_beg /svc{path}/ }}");
        let _ = writeln!(backends, "backend svc{path}\n  server upstream BACKEND_IP:9080\n");
    }
    routes.push_str("  use_backend svc0 if { path_beg /bytes/ }\n");
    let config = include_str!("haproxy.cfg")
        .replace("ROUTES", &routes)
        .replace("POLICIES", HAPROXY_POLICIES)
        .replace("BACKENDS", &backends);
    let config = write("haproxy.cfg", &config)?;
    let arguments = format!("-db -f {}", config.display());
    let program = std::path::Path::new("/usr/sbin/haproxy");
    let haproxy = Process::start(namespace, &folder.path().join("haproxy.log"), program, &words(&arguments))?;
    Ok((envoy, haproxy))
}

/// Ten routes by prefix, one for bulk, and as many that nobody asks for as are wanted.
fn routes(extra: usize) -> String {
    let rule = |prefix: String| {
        format!(
            "- match: [{{uri: {{prefix: {prefix}}}}}]\n  route: [{{destination: {{host: upstream, port: {{number: 9080}}}}}}]\n"
        )
    };
    let mut text: String = (0..PATHS).map(|path| rule(format!("/svc{path}/"))).collect();
    text.push_str(&rule("/bytes/".to_owned()));
    text.extend((0..extra).map(|number| rule(format!("/unused/{number}/"))));
    text
}

fn envoy_routes() -> String {
    let route = |prefix: String| {
        format!(
            "- match: {{prefix: \"{prefix}\"}}\n  name: \"{prefix}\"\n  route: {{cluster: upstream, timeout: 0s}}\n"
        )
    };
    let mut text: String = (0..PATHS).map(|path| route(format!("/svc{path}/"))).collect();
    text.push_str(&route("/bytes/".to_owned()));
    text
}
