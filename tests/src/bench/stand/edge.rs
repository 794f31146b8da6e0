//! A gateway, Envoy and HAProxy in one network namespace, with the upstream and the clients on its loopback.

use std::{fmt::Write, fs, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::{THREADS, envoy_program, indent, open_folder, shell};
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
    /// Starts everything. `extra_routes` are added to our gateway alone.
    ///
    /// # Errors
    /// When a peer is not installed or does not come up. Needs root.
    pub async fn start(extra_routes: usize) -> anyhow::Result<Self> {
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
            .replace("POLICIES", &policies("istio-system", "{istio: bench}", "\"8080\", \"8443\""));
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
        let (envoy, haproxy) = peers(&folder, namespace)?;
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

fn peers(folder: &TempDir, namespace: u32) -> anyhow::Result<(Process, Process)> {
    let at = folder.path().display().to_string();
    let write = |file: &str, template: &str| -> anyhow::Result<PathBuf> {
        let path = folder.path().join(file);
        fs::write(&path, template.replace("FOLDER", &at).replace("BACKEND_IP", UPSTREAM))?;
        Ok(path)
    };
    let config = include_str!("envoy-gateway.yaml")
        .replace("ROUTES", &indent(&envoy_routes(), 14))
        .replace("POLICIES", &indent(&envoy_policies(), 10));
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

/// Nine policies that deny what the load never is, and one that allows it.
///
/// `ports`, if any, are those that carry HTTP; on the others nothing is denied, as far as bytes can be judged.
pub(super) fn policies(namespace: &str, labels: &str, ports: &str) -> String {
    let rules = [
        "to: [{operation: {paths: [/admin/*]PORTS}}]",
        "to: [{operation: {methods: [DELETE], paths: [/svc1/*]PORTS}}]",
        "from: [{source: {ipBlocks: [203.0.113.0/24]}}]",
        "to: [{operation: {paths: [/*]PORTS}}]\n    when: [{key: \"request.headers[x-blocked]\", values: [\"yes\"]}]",
        "to: [{operation: {paths: [/internal/*, \"*/debug\"]PORTS}}]",
        "to: [{operation: {hosts: [evil.example.com]PORTS}}]",
        "to: [{operation: {methods: [TRACE, CONNECT]PORTS}}]",
        "to: [{operation: {paths: [/*]PORTS}}]\n    when: [{key: \"request.headers[user-agent]\", values: [\"bad*\"]}]",
        "from: [{source: {ipBlocks: [198.51.100.0/24]}}]\n    to: [{operation: {paths: [/svc3/private/*]PORTS}}]",
    ];
    let policy = |name: &str, action: &str, rule: &str| {
        format!(
            "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {labels}}}
  action: {action}
  rules:
  - {rule}
"
        )
    };
    let mut text: String =
        rules.iter().enumerate().map(|(number, rule)| policy(&format!("deny-{number}"), "DENY", rule)).collect();
    if !ports.is_empty() {
        text.push_str(&policy("allow-bytes", "ALLOW", "to: [{operation: {notPorts: [PORTS_ONLY]}}]"));
    }
    text.push_str(&policy("allow", "ALLOW", "to: [{operation: {methods: [GET, POST]PORTS}}]"));
    let only = if ports.is_empty() { String::new() } else { format!(", ports: [{ports}]") };
    text.replace("PORTS_ONLY", ports).replace("PORTS", &only)
}

/// The same as Envoy's filters, in the way Istio writes them.
pub(super) fn envoy_policies() -> String {
    const ANY: &str = "[{any: true}]";
    let header = |name: &str, matcher: &str| format!("[{{header: {{name: \"{name}\", string_match: {matcher}}}}}]");
    let path = |matcher: &str| format!("{{url_path: {{path: {matcher}}}}}");
    let all = |rules: &[String]| format!("[{{and_rules: {{rules: [{}]}}}}]", rules.join(", "));
    let method = |name: &str| format!("{{header: {{name: \":method\", string_match: {{exact: {name}}}}}}}");
    let address = |prefix: &str| format!("[{{direct_remote_ip: {{address_prefix: {prefix}, prefix_len: 24}}}}]");
    let either = |rules: &[String]| format!("[{{or_rules: {{rules: [{}]}}}}]", rules.join(", "));
    let any = ANY.to_owned();
    let deny = [
        (format!("[{}]", path("{prefix: /admin/}")), any.clone()),
        (all(&[method("DELETE"), path("{prefix: /svc1/}")]), any.clone()),
        (any.clone(), address("203.0.113.0")),
        (any.clone(), header("x-blocked", "{exact: \"yes\"}")),
        (either(&[path("{prefix: /internal/}"), path("{suffix: /debug}")]), any.clone()),
        (header(":authority", "{exact: evil.example.com, ignore_case: true}"), any.clone()),
        (either(&[method("TRACE"), method("CONNECT")]), any.clone()),
        (any.clone(), header("user-agent", "{prefix: bad}")),
        (format!("[{}]", path("{prefix: /svc3/private/}")), address("198.51.100.0")),
    ];
    let filter = |action: &str, policies: &str| {
        format!(
            "- name: envoy.filters.http.rbac
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
    rules:
      action: {action}
      policies:
{policies}"
        )
    };
    let policy = |name: &str, permissions: &str, principals: &str| {
        format!("        {name}:\n          permissions: {permissions}\n          principals: {principals}\n")
    };
    let denied: String = deny
        .iter()
        .enumerate()
        .map(|(number, (permissions, principals))| policy(&format!("deny-{number}"), permissions, principals))
        .collect();
    let allowed = policy("allow", &either(&[method("GET"), method("POST")]), ANY);
    filter("DENY", &denied) + &filter("ALLOW", &allowed)
}

const HAPROXY_POLICIES: &str = "  http-request deny if { path_beg /admin/ }
  http-request deny if METH_DELETE { path_beg /svc1/ }
  http-request deny if { src 203.0.113.0/24 }
  http-request deny if { req.hdr(x-blocked) yes }
  http-request deny if { path_beg /internal/ } or { path_end /debug }
  http-request deny if { req.hdr(host) -i evil.example.com }
  http-request deny if { method TRACE CONNECT }
  http-request deny if { req.hdr(user-agent) -m beg bad }
  http-request deny if { src 198.51.100.0/24 } { path_beg /svc3/private/ }
  http-request deny unless { method GET POST }
";
