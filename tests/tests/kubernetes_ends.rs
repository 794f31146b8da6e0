//! However a cluster ends, nothing of it stays.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use palisade_tests::{kubernetes::Cluster, wait::until};

/// Tells the program that it is the process that ends, and how.
const ENDING: &str = "PALISADE_TEST_ENDING";

const SOON: Duration = Duration::from_secs(10);

/// Whether a process, other than this one, belongs to a cluster: by its arguments or by its network.
fn belongs(process: &Path, folder: &str, network: &str) -> bool {
    // A process that has ended in between is none.
    let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
    let its_network = fs::read_link(process.join("ns/net")).unwrap_or_default();
    String::from_utf8_lossy(&arguments).contains(folder) || its_network == Path::new(network)
}

async fn nothing_stays(folder: &str, network: &str) -> anyhow::Result<()> {
    until("the end of everything", SOON, async || {
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let arguments =
                || String::from_utf8_lossy(&fs::read(path.join("cmdline")).unwrap_or_default()).into_owned();
            ensure!(!belongs(&path, folder, network), "{} {}", path.display(), arguments());
        }
        ensure!(!Path::new(folder).exists(), "{folder} is there");
        Ok(())
    })
    .await
}

/// The other process: it has a cluster, says so, and ends as it was told.
#[expect(clippy::panic, reason = "one of the ways to end")]
async fn end(how: &str) -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    cluster.fake_nodes(1).await?;
    let network: PathBuf = fs::read_link(cluster.network())?;
    println!("cluster\t{}\t{}", cluster.folder().display(), network.display());
    match how {
        "panics" => panic!("as it was told"),
        "is killed" => std::future::pending().await,
        _ => Ok(()),
    }
}

#[tokio::test]
async fn a_cluster_ends_with_its_process() -> anyhow::Result<()> {
    if let Ok(how) = std::env::var(ENDING) {
        return end(&how).await;
    }
    for how in ["drops it", "panics", "is killed"] {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", "a_cluster_ends_with_its_process", "--nocapture"])
            .env(ENDING, how)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let said = lines.map_while(Result::ok).find(|line| line.contains("cluster\t"));
        if how == "is killed" {
            child.kill()?;
        }
        let output = child.wait_with_output()?;
        let said = said.with_context(|| format!("no cluster: {}", String::from_utf8_lossy(&output.stderr)))?;
        let mut words = said.split('\t').skip(1);
        let (folder, network) = (words.next().context("no folder")?, words.next().context("no network")?);
        nothing_stays(folder, network).await.context(how)?;
    }
    Ok(())
}
