//! Ways out that callers try: from pods of a real mesh, under REGISTRY_ONLY and under an egress policy. Each attempt has a defined end.

use std::{collections::BTreeMap, fs, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use palisade_tests::{
    checkout,
    mesh::{Mesh, Options, Pod},
    wait::until,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// The hosts outside the mesh; the n-th has the address 198.19.0.n.
const HOSTS: [&str; 5] =
    ["allowed.example.com", "evil.example.com", "good.wild.example.com", "bad.wild.example.com", "none.example.com"];
const ALLOWED: &str = "198.19.0.1";
const EVIL: &str = "198.19.0.2";
const NONE: &str = "198.19.0.5";

/// How long something may take to come about.
const LIMIT: Duration = Duration::from_secs(20);

/// What an attempt ends with.
enum End {
    /// The host of that name answers.
    Reaches(&'static str),
    /// The proxy answers, with these texts in its answer.
    Says(&'static [&'static str]),
    /// No host outside answers, whatever the proxy says.
    Unanswered,
    /// The connection is closed without an answer.
    Closed,
}

use End::{Closed, Reaches, Says, Unanswered};

/// REGISTRY_ONLY, in the proxy's words.
const UNKNOWN: End = Says(&["HTTP/1.1 502", "egress-unknown-host"]);
/// An egress policy, in the proxy's words.
const DENIED: End = Says(&["HTTP/1.1 403", "x-palisade-decision"]);
/// Nothing that could be meant in two ways is passed on.
const MALFORMED: End = Says(&["HTTP/1.1 400"]);

type Attempt = (&'static str, Value, End);

#[tokio::test]
async fn nobody_gets_out_by_pretending() -> anyhow::Result<()> {
    if !checkout::may_make_namespaces() {
        println!("skipped: this machine lets nobody make network namespaces");
        return Ok(());
    }
    let folder = tempfile::Builder::new().prefix("palisade-attacks-").tempdir()?;
    let mesh = start(&folder).await?;
    let (lab, cage) = (mesh.pod("lab", "agent")?.clone(), mesh.pod("cage", "agent")?.clone());
    // The hosts outside start on their own: wait for them once.
    until("hosts outside", LIMIT, async || {
        for host in ["allowed.example.com", "good.wild.example.com", "bad.wild.example.com"] {
            let address = ALLOWED;
            let said = make(&mesh, &lab, &[http(address, &format!("Host: {host}"))]).await?;
            ensure!(said.iter().all(|said| said.contains("I am ")), "{host}: {said:?}");
        }
        Ok(())
    })
    .await?;
    check(&mesh, &lab, registry_only()).await?;
    check(&mesh, &cage, egress_policy()).await?;
    lives_follow_the_policy(&mesh, &cage).await?;
    mesh.stop().await
}

/// Names and addresses under REGISTRY_ONLY.
fn registry_only() -> Vec<Attempt> {
    let mut attempts = vec![
        ("an unknown host", http(EVIL, "Host: evil.example.com"), UNKNOWN),
        ("a known host, at another's address", http(EVIL, "Host: allowed.example.com"), Reaches("allowed")),
        ("an address as host", http(EVIL, "Host: 198.19.0.2"), UNKNOWN),
        ("a known host's address as host", http(ALLOWED, "Host: 198.19.0.1"), UNKNOWN),
        ("a mapped address as host", http(EVIL, "Host: [::ffff:198.19.0.2]"), UNKNOWN),
        ("a mapped address", http("::ffff:198.19.0.2", "Host: evil.example.com"), UNKNOWN),
        ("capitals", http(EVIL, "Host: ALLOWED.Example.COM"), Reaches("allowed")),
        ("a final dot", http(EVIL, "Host: allowed.example.com."), Reaches("allowed")),
        ("two final dots", http(EVIL, "Host: allowed.example.com.."), Reaches("allowed")),
        ("an unknown host with a final dot", http(EVIL, "Host: evil.example.com."), UNKNOWN),
        ("the port of the connection", http(EVIL, "Host: allowed.example.com:80"), Reaches("allowed")),
        ("a name below a known one", http(EVIL, "Host: evil.allowed.example.com"), UNKNOWN),
        ("user information", http(EVIL, "Host: allowed.example.com@evil.example.com"), MALFORMED),
        ("a fragment", http(EVIL, "Host: evil.example.com#allowed.example.com"), MALFORMED),
        ("a list", http(EVIL, "Host: allowed.example.com, evil.example.com"), MALFORMED),
        ("two hosts", http(EVIL, "Host: allowed.example.com\r\nHost: evil.example.com"), MALFORMED),
        ("no host", http(EVIL, "X-Host: allowed.example.com"), MALFORMED),
        ("an empty host", http(EVIL, "Host:"), MALFORMED),
        ("forwarded", http(EVIL, "Host: evil.example.com\r\nX-Forwarded-Host: allowed.example.com"), UNKNOWN),
        (
            "another original",
            http(ALLOWED, "Host: evil.example.com\r\nx-envoy-original-dst-host: 198.19.0.2:80"),
            UNKNOWN,
        ),
        ("a service of pods, at a stranger's address", http(EVIL, "Host: pods.lab.svc.cluster.local"), UNKNOWN),
        (
            "an absolute target",
            raw(EVIL, 80, "GET http://evil.example.com/ HTTP/1.1\r\nHost: evil.example.com\r\n\r\n"),
            UNKNOWN,
        ),
        (
            "an absolute target that is not the host",
            raw(EVIL, 80, "GET http://evil.example.com/ HTTP/1.1\r\nHost: allowed.example.com\r\n\r\n"),
            MALFORMED,
        ),
        (
            "a host that is not the absolute target",
            raw(EVIL, 80, "GET http://allowed.example.com/ HTTP/1.1\r\nHost: evil.example.com\r\n\r\n"),
            MALFORMED,
        ),
        ("HTTP/1.0 without host", raw(EVIL, 80, "GET / HTTP/1.0\r\n\r\n"), Says(&["502", "egress-unknown-host"])),
        (
            "a second request",
            requests(EVIL, &["Host: allowed.example.com", "Host: evil.example.com"]),
            Says(&["I am allowed", "HTTP/1.1 502"]),
        ),
        (
            "two requests at once",
            at_once(
                "GET / HTTP/1.1\r\nHost: allowed.example.com\r\n\r\nGET / HTTP/1.1\r\nHost: evil.example.com\r\nConnection: close\r\n\r\n",
            ),
            Says(&["I am allowed", "HTTP/1.1 502"]),
        ),
        ("HTTP/2", h2("evil.example.com", None), Says(&["egress-unknown-host"])),
        ("HTTP/2, a known authority", h2("allowed.example.com", None), Reaches("allowed")),
        ("HTTP/2, another host", h2("allowed.example.com", Some("evil.example.com")), Unanswered),
        ("HTTP/2, a known host and another authority", h2("evil.example.com", Some("allowed.example.com")), Unanswered),
        (
            "a port that is not declared",
            raw(ALLOWED, 8080, "GET / HTTP/1.1\r\nHost: allowed.example.com\r\n\r\n"),
            Closed,
        ),
        ("bytes to a port that is not declared", raw(ALLOWED, 9999, "hello"), Closed),
        ("bytes to a declared port", raw(ALLOWED, 5432, "hello"), Reaches("allowed")),
        ("bytes to a declared port of another address", raw(EVIL, 5432, "hello"), Closed),
        ("an unknown server name", tls(EVIL, "evil.example.com"), Closed),
        ("a known server name, at another's address", tls(EVIL, "allowed.example.com"), Reaches("allowed")),
        ("an unknown server name, at a known host's address", tls(ALLOWED, "evil.example.com"), Closed),
        ("no server name", tls(EVIL, ""), Closed),
        ("no server name, at a known host's address", tls(ALLOWED, ""), Closed),
        ("a server name in capitals", tls(EVIL, "ALLOWED.example.com"), Reaches("allowed")),
        ("HTTP on the port of TLS", raw(EVIL, 443, "GET / HTTP/1.1\r\nHost: allowed.example.com\r\n\r\n"), Closed),
        ("a wildcard's name", http(EVIL, "Host: bad.wild.example.com"), Reaches("bad.wild")),
        ("a wildcard's own name", http(EVIL, "Host: wild.example.com"), UNKNOWN),
        ("a name like a wildcard's", http(EVIL, "Host: evil.example.com.wild.example.com.evil.example.com"), UNKNOWN),
        ("the proxy's own port", raw("127.0.0.1", 15001, "GET / HTTP/1.1\r\nHost: evil.example.com\r\n\r\n"), Closed),
    ];
    for method in ["CONNECT evil.example.com:443", "CONNECT allowed.example.com:443", "CONNECT 198.19.0.2:443"] {
        let text = format!("{method} HTTP/1.1\r\nHost: allowed.example.com\r\n\r\n");
        attempts.push(("a tunnel", raw(EVIL, 80, &text), Says(&["HTTP/1.1 4"])));
    }
    attempts
}

/// Names and addresses under an egress policy that permits some names, and ALLOW_ANY.
fn egress_policy() -> Vec<Attempt> {
    vec![
        ("a permitted host", http(EVIL, "Host: allowed.example.com"), Reaches("allowed")),
        ("an unknown host", http(EVIL, "Host: evil.example.com"), DENIED),
        ("an address as host", http(EVIL, "Host: 198.19.0.2"), DENIED),
        ("a permitted name that goes where it is dialled", http(EVIL, "Host: none.example.com"), DENIED),
        ("the same at its own address, which nothing says is its", http(NONE, "Host: none.example.com"), DENIED),
        ("a service of pods, at a stranger's address", http(EVIL, "Host: pods.lab.svc.cluster.local"), DENIED),
        ("a permitted name of a wildcard", http(EVIL, "Host: good.wild.example.com"), Reaches("good.wild")),
        ("another name of it", http(EVIL, "Host: bad.wild.example.com"), DENIED),
        ("another name of it, with a final dot", http(ALLOWED, "Host: bad.wild.example.com."), DENIED),
        (
            "a second request",
            requests(EVIL, &["Host: allowed.example.com", "Host: evil.example.com"]),
            Says(&["I am allowed", "HTTP/1.1 403"]),
        ),
        ("HTTP/2", h2("evil.example.com", None), Says(&["RBAC"])),
        ("a permitted server name", tls(EVIL, "allowed.example.com"), Reaches("allowed")),
        ("a server name that goes where it is dialled", tls(EVIL, "none.example.com"), Closed),
        ("another name of a wildcard", tls(EVIL, "bad.wild.example.com"), Closed),
        ("a permitted name of a wildcard", tls(EVIL, "good.wild.example.com"), Reaches("good.wild")),
        ("an unknown server name", tls(EVIL, "evil.example.com"), Closed),
        ("bytes", raw(EVIL, 9999, "hello"), Closed),
        ("bytes to a permitted host", raw(ALLOWED, 5432, "hello"), Reaches("allowed")),
        ("bytes to its address at another port", raw(ALLOWED, 9999, "hello"), Closed),
        // UDP is not the mesh's: docs/tasks/egress.md says so.
        ("UDP", json!({"address": EVIL, "port": 443, "udp": true, "sends": ["hello"]}), Reaches("evil")),
    ]
}

/// A connection outside lives on while its host is permitted, whatever else changes, and ends when it no longer is.
async fn lives_follow_the_policy(mesh: &Mesh, pod: &Pod) -> anyhow::Result<()> {
    let script = "import socket,sys\ns=socket.create_connection(('198.19.0.1',5432),timeout=60)\nfor line in sys.stdin:\n s.sendall(b'x')\n print(s.recv(64).decode(),flush=True)\n";
    let mut command = mesh.command(pod)?;
    let mut child = command
        .args(["python3", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    let mut output = BufReader::new(child.stdout.take().context("no output")?);
    let mut ask = async || -> anyhow::Result<String> {
        input.write_all(b"\n").await?;
        // Whole lines: Python writes a line and its end apart now and then.
        let mut line = String::new();
        tokio::time::timeout(LIMIT, output.read_line(&mut line)).await??;
        Ok(line.trim().to_owned())
    };
    ensure!(ask().await? == "I am allowed");
    let policy = mesh.read("policy.yaml")?;
    // Another host is refused from now on: seen by a new connection, not by this one.
    mesh.write("policy.yaml", &policy.replace(", \"none.example.com\"", "").replace("good.wild", "other.wild"))?;
    until("the policy to be in force", LIMIT, async || {
        let said = make(mesh, pod, &[http(EVIL, "Host: good.wild.example.com")]).await?;
        ensure!(said.iter().all(|said| said.contains("HTTP/1.1 403")), "{said:?}");
        Ok(())
    })
    .await?;
    ensure!(ask().await? == "I am allowed", "a change elsewhere closes nothing");
    mesh.write("policy.yaml", &policy.replace("\"db.example.com\", ", ""))?;
    until("the policy to be in force", LIMIT, async || {
        let said = make(mesh, pod, &[raw(ALLOWED, 5432, "hello")]).await?;
        ensure!(said.iter().all(|said| said.starts_with("closed")), "{said:?}");
        Ok(())
    })
    .await?;
    ensure!(ask().await.unwrap_or_default().is_empty(), "what is no longer permitted ends");
    mesh.write("policy.yaml", &policy)
}

async fn check(mesh: &Mesh, pod: &Pod, attempts: Vec<Attempt>) -> anyhow::Result<()> {
    let wanted: Vec<Value> = attempts.iter().map(|(_, wanted, _)| wanted.clone()).collect();
    let said = make(mesh, pod, &wanted).await?;
    ensure!(said.len() == attempts.len(), "{said:?}");
    let mut wrong = BTreeMap::new();
    for ((name, wanted, end), said) in attempts.iter().zip(&said) {
        let is_right = match end {
            Reaches(host) => said.contains(&format!("I am {host}")),
            Says(texts) => {
                let lower = said.to_ascii_lowercase();
                texts.iter().all(|text| lower.contains(&text.to_ascii_lowercase())) && !said.contains("I am evil")
            }
            Unanswered => !said.contains("I am "),
            Closed => said.starts_with("closed") && !said.contains("I am "),
        };
        if !is_right {
            wrong.insert(format!("{name}: {wanted}"), said);
        }
    }
    ensure!(wrong.is_empty(), "{}/{}: {wrong:#?}", pod.namespace, pod.name);
    Ok(())
}

/// What each attempt received, made as the pod's application.
async fn make(mesh: &Mesh, pod: &Pod, attempts: &[Value]) -> anyhow::Result<Vec<String>> {
    let script = checkout::root().join("tests/tests/egress_attacks/attempt.py").display().to_string();
    let mut command = mesh.command(pod)?;
    command.args(["python3", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn()?;
    child.stdin.take().context("no input")?.write_all(Value::from(attempts).to_string().as_bytes()).await?;
    let output = child.wait_with_output().await?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
}

fn http(address: &str, headers: &str) -> Value {
    requests(address, &[headers])
}

/// Requests on one connection, each after the answer to the one before.
fn requests(address: &str, each: &[&str]) -> Value {
    let sends: Vec<String> = each.iter().map(|headers| format!("GET / HTTP/1.1\r\n{headers}\r\n\r\n")).collect();
    json!({"address": address, "port": 80, "sends": sends})
}

fn raw(address: &str, port: u16, text: &str) -> Value {
    json!({"address": address, "port": port, "sends": [text]})
}

/// Everything that is received, to the end.
fn at_once(text: &str) -> Value {
    json!({"address": EVIL, "port": 80, "all": true, "sends": [text]})
}

fn tls(address: &str, name: &str) -> Value {
    json!({"address": address, "port": 443, "tls": name, "sends": ["GET / HTTP/1.1\r\nHost: any.example.com\r\n\r\n"]})
}

/// One request in HTTP/2 frames, as characters below 256.
fn h2(authority: &str, host: Option<&str>) -> Value {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap_or(0)], text.as_bytes()].concat();
    // GET, http, `/`, then the authority and perhaps a host, literally.
    let mut block = vec![0x82, 0x86, 0x84, 0x01];
    block.extend(text(authority));
    if let Some(host) = host {
        block.push(0);
        block.extend(text("host"));
        block.extend(text(host));
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS, empty; HEADERS of stream 1, which ends it.
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    bytes.extend([0, 0, u8::try_from(block.len()).unwrap_or(0), 1, 5, 0, 0, 0, 1]);
    bytes.extend(block);
    let sends: String = bytes.into_iter().map(char::from).collect();
    json!({"address": EVIL, "port": 80, "h2": true, "sends": [sends]})
}

async fn start(folder: &TempDir) -> anyhow::Result<Mesh> {
    let sources = checkout::root().join("tests/tests/egress_attacks");
    let made = rcgen::generate_simple_self_signed(HOSTS.map(str::to_owned))?;
    fs::write(folder.path().join("cert.pem"), made.cert.pem())?;
    fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem())?;
    fs::write(folder.path().join("images.yaml"), "{}\n")?;
    let origin = |host: &str| {
        let file = |name: &str| folder.path().join(name).display().to_string();
        let name = host.strip_suffix(".example.com").unwrap_or(host);
        let script = sources.join("origin.py").display().to_string();
        format!("--external={host}=python3 {script} {name} {} {}", file("cert.pem"), file("key.pem"))
    };
    Mesh::start(Options {
        documents: vec![sources.join("documents.yaml"), sources.join("policy.yaml")],
        images: folder.path().join("images.yaml"),
        arguments: HOSTS.map(origin).to_vec(),
        ..Options::default()
    })
    .await
}
