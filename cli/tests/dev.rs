//! `palisade dev` with pods outside the mesh: processes, namespaces, names, and that nothing is left behind.
//!
//! Where the machine allows no namespaces these are reported as skips.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

const DOCUMENTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio-injection: disabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: one}}
spec:
  containers: [{name: app, image: sleep, command: [/bin/sleep, infinity], env: [{name: COLOR, value: red}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: two}}
spec:
  containers: [{name: app, image: example.com/sleep:1}]
---
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {selector: {app: two}, ports: [{port: 80}]}
";

const IMAGES: &str = "\"*/sleep:*\": [/bin/sleep, infinity]\n";

struct Dev {
    child: Child,
    folder: TempDir,
}

impl Dev {
    fn spawn(documents: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("documents")).unwrap();
        std::fs::write(folder.path().join("documents/all.yaml"), documents).unwrap();
        std::fs::write(folder.path().join("images.yaml"), IMAGES).unwrap();
        let child = Self::command(folder.path());
        Self { child, folder }
    }

    fn command(folder: &Path) -> Child {
        palisade(folder)
            .arg("dev")
            .arg("-f")
            .arg(folder.join("documents"))
            .arg("--images")
            .arg(folder.join("images.yaml"))
            .arg("--ready-file")
            .arg(folder.join("ready.json"))
            .arg("--external=api.example.com=sleep infinity")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("said")).unwrap())
            .spawn()
            .unwrap()
    }

    /// `None`: this machine does not allow it, and says why.
    fn start(documents: &str) -> Option<Self> {
        let mut dev = Self::spawn(documents);
        if dev.await_ready() {
            return Some(dev);
        }
        let said = dev.said();
        assert!(said.contains("no permission"), "{said}");
        eprintln!("skipped: {said}");
        None
    }

    fn await_ready(&mut self) -> bool {
        wait_for("the ready file", || {
            self.folder.path().join("ready.json").exists() || self.child.try_wait().unwrap().is_some()
        });
        self.folder.path().join("ready.json").exists()
    }

    fn ready(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder.path().join("ready.json")).unwrap()).unwrap()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("said")).unwrap()
    }

    fn exec(&self, pod: &str, script: &str) -> Output {
        palisade(self.folder.path()).args(["dev", "exec", pod, "--", "/bin/sh", "-c", script]).output().unwrap()
    }

    fn holders(&self) -> Vec<PathBuf> {
        let ready = self.ready();
        let pods = ready["pods"].as_array().unwrap().iter().chain(ready["external"].as_array().unwrap());
        pods.map(|pod| PathBuf::from(pod["netns"].as_str().unwrap())).collect()
    }

    /// As a machine would that runs out of memory.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn stop(&mut self) -> Option<i32> {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Meshes of different tests do not share a folder, so they may share a name.
fn palisade(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    command.env("PALISADE_RUNTIME_DIR", folder.join("run"));
    command
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim().to_owned()
}

#[test]
fn a_pod_has_its_own_host_name_addresses_names_and_environment() {
    let Some(mut dev) = Dev::start(DOCUMENTS) else { return };
    let ready = dev.ready();
    assert_eq!(ready["pods"].as_array().unwrap().len(), 2);
    assert!(ready["pods"][0]["sidecar"].is_null() && ready["control"].is_null());
    let ip = ready["pods"][0]["ip"].as_str().unwrap();

    let output = dev.exec("default/one", "hostname; echo $COLOR; ip -o addr show eth0; ls /proc/self/ns >/dev/null");
    let said = text(&output.stdout);
    assert!(said.starts_with("one\nred\n") && said.contains(ip), "{said}");
    assert_eq!(dev.exec("one", "exit 7").status.code(), Some(7));
    assert_eq!(dev.exec("default/three", "true").status.code(), Some(2));

    for (name, is_known) in [("two", true), ("two.default.svc", true), ("api.example.com", true), ("no.example", false)]
    {
        let output = dev.exec("one", &format!("getent ahostsv4 {name}"));
        assert_eq!(output.status.success(), is_known, "{name}: {}", text(&output.stdout));
    }
    assert_eq!(dev.stop(), Some(0));
    assert!(!dev.folder.path().join("ready.json").exists());
}

#[test]
fn nothing_outlives_a_killed_mesh_and_the_next_one_starts() {
    let Some(mut dev) = Dev::start(DOCUMENTS) else { return };
    let holders = dev.holders();
    assert!(holders.len() == 3 && holders.iter().all(|holder| holder.exists()));
    dev.kill();
    wait_for("the end of every pod", || holders.iter().all(|holder| !holder.exists()));
    assert_eq!(dev.exec("one", "true").status.code(), Some(2));

    std::fs::remove_file(dev.folder.path().join("ready.json")).unwrap();
    dev.child = Dev::command(dev.folder.path());
    assert!(dev.await_ready(), "{}", dev.said());
    assert_eq!(dev.exec("one", "true").status.code(), Some(0));
    dev.kill();

    // What the front has started ends a moment after it.
    let clean = || palisade(dev.folder.path()).args(["dev", "--clean"]).output().unwrap().status.success();
    wait_for("the end of the mesh", clean);
    assert_eq!(std::fs::read_dir(dev.folder.path().join("run")).unwrap().count(), 0);
}

#[test]
fn a_second_mesh_of_the_same_name_is_refused() {
    let Some(dev) = Dev::start(DOCUMENTS) else { return };
    let second = palisade(dev.folder.path()).args(["dev", "-f", "/dev/null"]).output().unwrap();
    assert_eq!(second.status.code(), Some(2), "{}", text(&second.stderr));
    let clean = palisade(dev.folder.path()).args(["dev", "--clean"]).output().unwrap();
    assert_eq!(clean.status.code(), Some(1), "{}", text(&clean.stderr));
    assert_eq!(dev.exec("one", "true").status.code(), Some(0));
}

#[test]
fn pods_come_and_go_with_their_documents() {
    let Some(dev) = Dev::start(DOCUMENTS) else { return };
    let has = |name: &str| dev.ready()["pods"].as_array().unwrap().iter().any(|pod| pod["name"] == name);
    let late = dev.folder.path().join("documents/late.yaml");
    std::fs::write(
        &late,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: late}\nspec: {containers: [{name: a, image: x/sleep:2}]}\n",
    )
    .unwrap();
    wait_for("the new pod", || has("late"));
    assert_eq!(dev.exec("late", "true").status.code(), Some(0));
    // What cannot be read changes nothing.
    std::fs::write(dev.folder.path().join("documents/broken.yaml"), "spec: [").unwrap();
    std::fs::remove_file(&late).unwrap();
    wait_for("its end", || !has("late"));
    assert!(has("one"));
}

#[test]
fn an_image_without_a_command_is_named() {
    let mut dev = Dev::spawn(&DOCUMENTS.replace("example.com/sleep:1", "example.com/unknown:1"));
    assert!(!dev.await_ready());
    assert_eq!(dev.child.wait().unwrap().code(), Some(2));
    let said = dev.said();
    assert!(said.contains("example.com/unknown:1") || said.contains("no permission"), "{said}");
}
