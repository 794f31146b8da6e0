//! However a node ends, nothing of it stays, and while it runs the machine's own network, mounts and settings are as before.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use palisade_tests::{checkout, kubernetes::lacks_for_node, wait::until};

const SOON: Duration = Duration::from_secs(60);

/// Settings of the whole machine that a kubelet likes to change.
const SETTINGS: [&str; 5] =
    ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "net/ipv4/ip_forward"];

/// What of the machine a node might change.
fn machine() -> anyhow::Result<BTreeMap<String, String>> {
    let mut state = BTreeMap::new();
    for (name, program, arguments) in [
        ("rules", "nft", ["list", "ruleset"]),
        ("links", "ip", ["-brief", "link"]),
        ("routes", "ip", ["route", "show"]),
    ] {
        let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
        state.insert(name.to_owned(), String::from_utf8_lossy(&output.stdout).into_owned());
    }
    state.insert("mounts".to_owned(), fs::read_to_string("/proc/self/mounts")?);
    for setting in SETTINGS {
        // One that this kernel lacks stays away.
        state.insert(setting.to_owned(), fs::read_to_string(Path::new("/proc/sys").join(setting)).unwrap_or_default());
    }
    Ok(state)
}

/// Cgroups of a folder's name, anywhere.
fn cgroups(name: &str) -> Vec<String> {
    let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let all = roots.chain(["/sys/fs/cgroup".into()]).map(|root| root.join(name));
    all.filter(|path| path.exists()).map(|path| path.display().to_string()).collect()
}

#[tokio::test]
async fn a_node_ends_with_its_process_and_leaves_the_machine_alone() -> anyhow::Result<()> {
    if let Some(lack) = lacks_for_node() {
        println!("skipped: {lack}");
        return Ok(());
    }
    for how in ["its input ends", "it is killed"] {
        let before = machine()?;
        let mut child = Command::new(checkout::binary("node")?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let lines: Vec<String> = BufReader::new(child.stdout.take().context("no output")?)
            .lines()
            .map_while(Result::ok)
            .scan(false, |is_done, line| {
                let goes_on = !*is_done;
                *is_done = line == "ready";
                goes_on.then_some(line)
            })
            .take_while(|line| line != "ready")
            .collect();
        let kubeconfig = lines.iter().find_map(|line| line.strip_prefix("KUBECONFIG="));
        let during = machine()?;
        if how == "it is killed" {
            child.kill()?;
        }
        drop(child.stdin.take());
        let output = child.wait_with_output()?;
        let kubeconfig = kubeconfig.with_context(|| format!("no node: {}", String::from_utf8_lossy(&output.stderr)))?;
        let folder = Path::new(kubeconfig).ancestors().nth(2).context("no folder")?;
        let name = folder.file_name().context("no name")?.to_string_lossy().into_owned();
        ensure!(before == during, "{how}: {before:#?} became {during:#?}");
        until("the end of everything", SOON, async || {
            for entry in fs::read_dir("/proc")? {
                let path = entry?.path();
                // A process that has ended in between is none.
                let arguments = fs::read(path.join("cmdline")).unwrap_or_default();
                ensure!(!String::from_utf8_lossy(&arguments).contains(&name), "{}", path.display());
            }
            ensure!(!folder.exists(), "{} is there", folder.display());
            ensure!(cgroups(&name).is_empty(), "{:?}", cgroups(&name));
            Ok(())
        })
        .await
        .context(how)?;
    }
    Ok(())
}
