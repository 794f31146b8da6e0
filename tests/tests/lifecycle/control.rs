//! What happens to a control plane's machine: its clock is set, its file descriptors run out. Nothing that was in force is lost, and edits go on.

use std::{
    fs::{self, OpenOptions},
    net::SocketAddr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use anyhow::{Context, ensure};
use palisade_control::token::{BoundPod, TokenKey};
use palisade_tests::{checkout, http::Client, load::Load, wait::until};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::gateway::{Application, edge, free_port, plain, service};

/// Both processes look at the wall clock every 15 s, at files every 10 s, and try again after at most 15 s.
const NOTICED: Duration = Duration::from_secs(90);

const DAY: i64 = 24 * 3600;

/// How long the gateway's token is good, either way: its end is no part of these tests.
const TOKEN: Duration = Duration::from_secs(50 * 365 * 24 * 3600);

/// `palisade-control` over files, and a `palisade-gateway` that it configures.
struct Pair {
    folder: TempDir,
    control: Child,
    _gateway: Child,
    listen: SocketAddr,
    address: String,
    port: u16,
}

fn log(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Child> {
    let log = fs::File::create(log)?;
    Ok(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true).spawn()?)
}

impl Pair {
    /// Starts both; `prepare` has the last word about their surroundings.
    async fn start(to: &Application, prepare: impl Fn(&mut Command, &Path)) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let (port, listen) = (free_port()?, SocketAddr::from(([127, 0, 0, 1], free_port()?)));
        fs::create_dir(path("documents"))?;
        fs::write(path("documents/all.yaml"), edge(&plain("http", port)) + &service("app", to.address))?;
        let pod = BoundPod {
            namespace: "default".into(),
            name: "edge-palisade".into(),
            uid: "any".into(),
            service_account: "edge-palisade".into(),
        };
        let token = TokenKey::load_or_create(&path("key"))?.mint(&pod, SystemTime::now() - TOKEN / 4, TOKEN)?;
        fs::write(path("token"), token)?;
        let mut control = Command::new(checkout::binary("palisade-control")?);
        control.arg("--files").arg(path("documents")).arg("--ca-dir").arg(path("ca"));
        control.arg("--token-key").arg(path("key")).args(["--cert-ttl", "24h", "--admin", "127.0.0.1:0"]);
        control.args(["--listen", &listen.to_string()]);
        prepare(&mut control, folder.path());
        let control = spawn(&mut control, &path("control.log"))?;
        until("the control plane", NOTICED, async || Ok(TcpStream::connect(listen).await.map(drop)?)).await?;
        let mut gateway = Command::new(checkout::binary("palisade-gateway")?);
        gateway.args(["--control", &listen.to_string(), "--control-name", "palisade-control"]);
        gateway.arg("--control-ca").arg(path("ca/root-cert.pem")).arg("--token-file").arg(path("token"));
        gateway.args(["--pod-ip", "127.0.0.1", "--namespace", "default", "--name", "edge-palisade"]);
        gateway.args(["--admin", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--health", "127.0.0.1:0"]);
        prepare(&mut gateway, folder.path());
        let gateway = spawn(&mut gateway, &path("gateway.log"))?;
        let pair = Self { folder, control, _gateway: gateway, listen, address: format!("127.0.0.1:{port}"), port };
        pair.served(to.name).await?;
        Ok(pair)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Lets the gateway's route lead to another application.
    fn edit(&self, to: &Application) -> anyhow::Result<()> {
        let new = self.path("documents/.new");
        fs::write(&new, edge(&plain("http", self.port)) + &service("app", to.address))?;
        Ok(fs::rename(new, self.path("documents/all.yaml"))?)
    }

    /// Waits until an application answers through the gateway.
    async fn served(&self, name: &str) -> anyhow::Result<()> {
        let served = until(name, NOTICED, async || {
            let answer = Client::new(&self.address).get("/", &[("host", "a.test")]).await?;
            ensure!(answer.status() == 200 && answer.body() == name, "{answer:?}");
            Ok(())
        });
        served.await.with_context(|| format!("{}{}", log(&self.path("control.log")), log(&self.path("gateway.log"))))
    }

    fn lives(&mut self) -> anyhow::Result<()> {
        let said = log(&self.path("control.log"));
        ensure!(self.control.try_wait()?.is_none(), "the control plane ended: {said}");
        ensure!(!said.contains("panicked"), "{said}");
        Ok(())
    }
}

/// The library that moves the clock; `None` without a C compiler.
async fn shim(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let (source, built) = (checkout::root().join("tests/tests/lifecycle/clock.c"), folder.join("clock.so"));
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&built).arg(source).output().await;
    match compiled {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        compiled => {
            let compiled = compiled?;
            ensure!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
            Ok(Some(built))
        }
    }
}

/// Three days forward, three days back: certificates of both sides are renewed without anybody's help, by each side's own clock, and an edit
/// arrives. Beyond the root's own end nothing is signed, and what is in force stays. No request fails meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_stops_neither_certificates_nor_edits() -> anyhow::Result<()> {
    let tools = tempfile::tempdir()?;
    let Some(library) = shim(tools.path()).await? else {
        println!("skipped: no C compiler to build a clock with");
        return Ok(());
    };
    let clock = tools.path().join("clock");
    fs::write(&clock, 0_i64.to_ne_bytes())?;
    let set = |seconds: i64| -> anyhow::Result<()> {
        Ok(OpenOptions::new().write(true).open(&clock)?.write_all_at(&seconds.to_ne_bytes(), 0)?)
    };
    let (one, two) = (Application::start("one").await?, Application::start("two").await?);
    let mut pair = Pair::start(&one, |command, _| {
        command.env("LD_PRELOAD", &library).env("PALISADE_TEST_CLOCK", &clock);
    })
    .await?;
    let load = Load::start(&pair.address, "/", &[("host", "a.test")], 2);
    let renewals = |pair: &Pair| log(&pair.path("gateway.log")).matches("workload certificate installed").count();
    for (number, days) in [3, -3].into_iter().enumerate() {
        let before = renewals(&pair);
        set(days * DAY)?;
        // The gateway dials anew for it: it takes the control plane's certificate, and a token and a signature by the new time.
        until("a certificate by the new clock", NOTICED, async || {
            ensure!(renewals(&pair) > before, "{}", log(&pair.path("gateway.log")));
            Ok(())
        })
        .await
        .with_context(|| format!("{days} days: {}", log(&pair.path("control.log"))))?;
        let to = if number % 2 == 0 { &two } else { &one };
        pair.edit(to)?;
        pair.served(to.name).await?;
        pair.lives()?;
    }
    set(20 * 365 * DAY)?;
    until("a refusal to sign", NOTICED, async || {
        let said = log(&pair.path("control.log"));
        ensure!(said.contains("the certificate authority has expired"), "{said}");
        Ok(())
    })
    .await?;
    pair.lives()?;
    let before = renewals(&pair);
    set(0)?;
    until("a certificate by the right clock", NOTICED, async || {
        ensure!(renewals(&pair) > before, "{}", log(&pair.path("gateway.log")));
        Ok(())
    })
    .await?;
    pair.edit(&two)?;
    pair.served(two.name).await?;
    pair.lives()?;
    let count = load.stop().await?;
    ensure!(count.total > 20 && count.not_ok() == 0, "{count:?}");
    Ok(())
}

/// As many connections as the control plane has file descriptors: it says so and goes on, an edit that it cannot read takes nothing away,
/// and is in force once there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_without_file_descriptors_keeps_what_it_has() -> anyhow::Result<()> {
    let (one, two) = (Application::start("one").await?, Application::start("two").await?);
    let mut pair = Pair::start(&one, |_, _| {}).await?;
    let load = Load::start(&pair.address, "/", &[("host", "a.test")], 2);
    let pid = pair.control.id().context("it has ended")?.to_string();
    let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let limit = format!("--nofile={0}:{0}", open + 4);
    match Command::new("prlimit").args(["--pid", &pid, &limit]).output().await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: no prlimit on this machine");
            return Ok(());
        }
        set => {
            let set = set?;
            ensure!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
        }
    }
    let mut held = Vec::new();
    until("nothing left", NOTICED, async || {
        held.push(TcpStream::connect(pair.listen).await?);
        let said = log(&pair.path("control.log"));
        ensure!(said.contains("cannot accept"), "{said}");
        Ok(())
    })
    .await?;
    pair.edit(&two)?;
    // Each connection is given up after its handshake's 10 s; as many wait behind it.
    until("an edit that cannot be read", NOTICED, async || {
        held.push(TcpStream::connect(pair.listen).await?);
        let said = log(&pair.path("control.log"));
        ensure!(said.contains("what was in it stays") || said.contains("what is known stays"), "{said}");
        Ok(())
    })
    .await?;
    pair.lives()?;
    drop(held);
    pair.served(two.name).await?;
    pair.lives()?;
    let count = load.stop().await?;
    ensure!(count.total > 20 && count.not_ok() == 0, "{count:?}");
    Ok(())
}
