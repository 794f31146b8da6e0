//! `node`: starts a Kubernetes with a real node and keeps it until it is killed or its standard input ends.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use palisade_images::Image;
use palisade_tests::kubernetes::{Node, lacks_for_node};

/// Starts a Kubernetes with a real node and keeps it until it is killed or its standard input ends.
#[derive(Debug, Parser)]
struct Options {
    /// Images to load: a name, and the program that it runs, which may be static or not; repeatable.
    #[arg(long = "load", value_name = "REFERENCE=FILE")]
    load: Vec<String>,
    /// Archives of images to load, as `docker save` and `palisade-images files` write them; repeatable.
    #[arg(long = "archive", value_name = "FILE")]
    archives: Vec<PathBuf>,
    /// Gateway API's CRDs to install: `standard` or `experimental`.
    #[arg(long, value_name = "CHANNEL")]
    gateway_api: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    if let Some(lack) = lacks_for_node() {
        anyhow::bail!(lack);
    }
    let node = Node::start().await?;
    if let Some(channel) = &options.gateway_api {
        node.install_gateway_api(channel).await?;
    }
    for pair in &options.load {
        let (reference, file) =
            pair.split_once('=').ok_or_else(|| anyhow::anyhow!("`{pair}` is not REFERENCE=FILE"))?;
        let file = PathBuf::from(file);
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        node.load(&Image::of_program(reference, &file, &format!("/{name}"))?).await?;
    }
    for archive in &options.archives {
        node.load_archive(archive).await?;
    }
    let enter = format!("nsenter --net={}", node.network());
    let kubeconfig = node.kubeconfig();
    println!("KUBECONFIG={}", kubeconfig.display());
    println!("# programs beside the cluster:   {enter} -- kubectl --kubeconfig={} get pods -A", kubeconfig.display());
    println!("# kubectl, logs and all else:    {} {}", node.kubectl_program().display(), node.folder().display());
    println!("# an image of a program:         palisade-images files NAME:TAG FILE[:PATH] | {}", node.import_command());
    println!("ready");
    // Whoever started it keeps this open; what it reads means nothing.
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())).await??;
    Ok(())
}
