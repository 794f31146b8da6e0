//! What the machine denies: a port that is taken, a disk that is full.

use std::{fs, net::TcpListener, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use palisade_tests::{checkout, http::Client, wait::until};
use tokio::process::Command;

use crate::gateway::{Application, Gateway, SOON, edge, free_port, plain, service};

/// Any free port.
const ANY: &str = "127.0.0.1:0";

/// Runs a program that is to fail soon; what it said.
async fn failure(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(SOON, output).await.context("it does not end")??;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(!output.status.success(), "it ended well: {said}");
    ensure!(!said.contains("panicked"), "{said}");
    Ok(said)
}

#[tokio::test]
async fn a_process_whose_own_port_is_taken_ends_and_names_it() -> anyhow::Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let folder = tempfile::tempdir()?;
    let documents = folder.path().join("all.yaml");
    fs::write(&documents, edge(&plain("http", free_port()?)))?;
    let run = |admin: &str| {
        let mut command = Command::new(checkout::binary("palisade")?);
        command.args(["run", "--gateway", "default/edge", "--admin", admin, "-f"]).arg(&documents);
        anyhow::Ok(command)
    };
    let control = |listen: &str, admin: &str| {
        let mut command = Command::new(checkout::binary("palisade-control")?);
        command.arg("--files").arg(&documents).arg("--ca-dir").arg(folder.path().join("ca"));
        command.arg("--token-key").arg(folder.path().join("key"));
        command.args(["--listen", listen, "--admin", admin]);
        anyhow::Ok(command)
    };
    for (name, command) in [
        ("admin pages of a gateway", run(&address)?),
        ("configuration", control(&address, ANY)?),
        ("admin pages of the control plane", control(ANY, &address)?),
    ] {
        let mut command = command;
        let said = failure(&mut command).await.context(name)?;
        ensure!(said.contains(&address), "{name}: {said}");
    }
    Ok(())
}

/// The other listeners serve meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_whose_port_is_taken_listens_once_it_is_free() -> anyhow::Result<()> {
    let application = Application::start("one").await?;
    let taken = TcpListener::bind("0.0.0.0:0")?;
    let (port, late) = (free_port()?, taken.local_addr()?.port());
    let listeners = format!("{}, {}", plain("http", port), plain("late", late));
    let gateway = Gateway::start(&(edge(&listeners) + &service("app", application.address)), port).await?;
    let served = async |port: u16| -> anyhow::Result<()> {
        let answer = Client::new(&format!("127.0.0.1:{port}")).get("/", &[("host", "a.test")]).await?;
        ensure!(answer.status() == 200, "{}", answer.status());
        Ok(())
    };
    until("the free port", SOON, async || served(port).await).await?;
    until("the complaint", SOON, async || {
        let said = gateway.said();
        ensure!(said.contains(&format!("0.0.0.0:{late}")) && said.contains("cannot listen"), "{said}");
        Ok(())
    })
    .await?;
    drop(taken);
    until("the other port", SOON, async || served(late).await).await
}

/// A disk without room for the root: the control plane says so and leaves no half of an authority; with room it begins.
#[tokio::test]
async fn a_disk_that_is_full_leaves_no_half_authority() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let documents = folder.path().join("all.yaml");
    fs::write(&documents, edge(&plain("http", free_port()?)))?;
    let disk = folder.path().join("disk");
    fs::create_dir(&disk)?;
    let control = checkout::binary("palisade-control")?;
    let begin = |disk: &Path| {
        format!(
            "{} --files {} --ca-dir {}/ca --token-key {}/key --listen 127.0.0.1:0 --admin 127.0.0.1:0",
            control.display(),
            documents.display(),
            disk.display(),
            folder.path().display(),
        )
    };
    // A file system of one page for the files: the first of four fits.
    let script = format!(
        "mount -t tmpfs -o size=4096,mode=0700 none {disk} || exit 77
         {begin}; status=$?
         ls -A {disk}/ca
         exit $status",
        disk = disk.display(),
        begin = begin(&disk),
    );
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", &script])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(SOON, output).await.context("it does not end")??;
    let (said, left) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    if output.status.code() == Some(77) || said.contains("unshare") {
        println!("skipped: this machine lets nobody mount: {said}");
        return Ok(());
    }
    ensure!(!output.status.success() && said.contains(&format!("{}/ca", disk.display())), "{said}{left}");
    ensure!(!said.contains("panicked") && left.trim().is_empty(), "{said} left {left}");

    let mut child = Command::new("sh")
        .args(["-c", &format!("exec {}", begin(&disk))])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    until("the authority", Duration::from_secs(20), async || {
        ensure!(child.try_wait()?.is_none(), "it ended");
        ensure!(disk.join("ca/ca-key.pem").is_file(), "no key yet");
        Ok(())
    })
    .await
}
