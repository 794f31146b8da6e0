//! What the suite finds in the cluster: the images of its own pods, and Palisade as users install it.

use std::path::Path;

use anyhow::{Context, ensure};
use palisade_images::{Compression, Image, Layer, PRODUCTS};
use palisade_tests::{certificates::Certificate, checkout, kubernetes::Node};

/// How many pods serve a Gateway, and what the scheduler sets aside for each: the suite makes dozens of Gateways on one small node.
const SETTINGS: [&str; 4] = [
    "PALISADE_GATEWAY_MIN_REPLICAS=1",
    "PALISADE_GATEWAY_MAX_REPLICAS=1",
    "PALISADE_GATEWAY_CPU=1m",
    "PALISADE_GATEWAY_MEMORY=16Mi",
];

/// Loads the images that the suite's manifests name, made of its own programs.
pub(super) async fn images(node: &Node, suite: &Path) -> anyhow::Result<()> {
    let list = std::fs::read_to_string(suite.join("images"))?;
    let mut built = Vec::new();
    for line in list.lines() {
        let mut words = line.split(' ');
        let reference = words.next().context("an image without a name")?;
        let mut image = Image { reference: reference.to_owned(), ..Image::default() };
        let mut layer = Layer::default();
        for word in words {
            let (program, path) = word.split_once(':').with_context(|| format!("`{word}` is not PROGRAM:PATH"))?;
            layer.copy(&suite.join(program), path, 0o755)?;
            if image.entrypoint.is_empty() {
                image.entrypoint.push(path.to_owned());
            }
        }
        if reference.contains("echo-advanced") {
            // Its pods serve TLS with a certificate that the image holds.
            let (certificate, key) = Certificate::new("echo.example")?.pem();
            layer.add("/cert.crt", 0o644, certificate.into_bytes());
            layer.add("/cert.key", 0o644, key.into_bytes());
        }
        ensure!(!image.entrypoint.is_empty(), "image `{reference}` has no program");
        image.layers.push(layer);
        built.push(image.build(Compression::None)?);
    }
    node.load_built(&built).await
}

/// Installs Palisade from its plain YAML, and waits until it is there.
pub(super) async fn palisade(node: &Node) -> anyhow::Result<()> {
    let binaries = checkout::binary("palisade-control")?;
    let binaries = binaries.parent().context("a program without a folder")?;
    let mut built = Vec::new();
    for product in PRODUCTS {
        let reference = format!("palisade/{}:{}", product.name, env!("CARGO_PKG_VERSION"));
        built.push(product.image(binaries, &reference)?.build(Compression::None)?);
    }
    node.load_built(&built).await?;
    node.install_gateway_api("standard").await?;
    for file in ["crds.yaml", "palisade.yaml"] {
        let path = checkout::root().join("deploy/kubernetes").join(file);
        node.apply(&std::fs::read_to_string(&path).with_context(|| path.display().to_string())?).await?;
    }
    let control = ["-n", "palisade-system", "deployment/palisade-control"];
    // One replica: the machine is small.
    node.kubectl(&["delete", "-n", "palisade-system", "horizontalpodautoscaler/palisade-control"]).await?;
    node.kubectl(&[&["scale", "--replicas=1"][..], &control].concat()).await?;
    node.kubectl(&[&["set", "env"][..], &control, &SETTINGS].concat()).await?;
    node.kubectl(&[&["rollout", "status", "--timeout=120s"][..], &control].concat()).await?;
    // The control plane makes its classes once it leads.
    for wanted in ["create", "condition=Accepted"] {
        node.kubectl(&["wait", &format!("--for={wanted}"), "gatewayclass/palisade", "--timeout=120s"]).await?;
    }
    Ok(())
}
