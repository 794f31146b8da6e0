//! Istio's Bookinfo on a node: its own documents, and images by the names that they call for.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context, ensure};
use palisade_images::{BuiltImage, Compression, Image};
use serde_json::Value;

use super::Node;
use crate::checkout;

/// The image of the tests' own pods.
pub const BOOKINFO_IMAGE: &str = "localhost/bookinfo:1";

/// What each image runs, by the end of its name.
const SERVICES: [(&str, &[&str]); 8] = [
    ("examples-bookinfo-productpage-v1", &["productpage"]),
    ("examples-bookinfo-details-v1", &["details"]),
    ("examples-bookinfo-ratings-v1", &["ratings"]),
    ("examples-bookinfo-reviews-v1", &["reviews", "--version=v1"]),
    ("examples-bookinfo-reviews-v2", &["reviews", "--version=v2"]),
    ("examples-bookinfo-reviews-v3", &["reviews", "--version=v3"]),
    ("bookinfo-client", &["client"]),
    ("bookinfo-echo", &["echo"]),
];

/// Istio's documents of Bookinfo, unmodified; `None` where they are not on this machine.
///
/// # Errors
/// When they should be there and are not.
pub fn bookinfo_documents() -> anyhow::Result<Option<String>> {
    let file = "bookinfo/platform/kube/bookinfo.yaml";
    let cache = std::env::var_os("PALISADE_CACHE").map(|folder| PathBuf::from(folder).join("istio-samples"));
    let folder = match (checkout::istio_samples()?, cache) {
        (Some(folder), _) => folder,
        (None, Some(folder)) if folder.is_dir() => folder,
        (None, _) => return Ok(None),
    };
    let path = folder.join(file);
    fs::read_to_string(&path).map(Some).with_context(|| path.display().to_string())
}

impl Node {
    /// What a program in the container `app` of a pod is answered: `bookinfo call` with these arguments. Without an answer the
    /// status is null.
    ///
    /// # Errors
    /// When the pod does not run.
    pub async fn call(&self, namespace: &str, pod: &str, arguments: &[&str]) -> anyhow::Result<Value> {
        let words = ["exec", "-n", namespace, pod, "-c", "app", "--", "/bookinfo", "call"];
        let output = self.kubectl_output(&[&words, arguments].concat(), "").await?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let line = printed.lines().next();
        let line =
            line.with_context(|| format!("{namespace}/{pod}: {}", String::from_utf8_lossy(&output.stderr).trim()))?;
        serde_json::from_str(line).with_context(|| line.to_owned())
    }

    /// Loads an image for each that the documents call for, and [`BOOKINFO_IMAGE`]: all are one program.
    ///
    /// # Errors
    /// When the program is not built, or a document calls for an image that is none of Bookinfo's.
    pub async fn load_bookinfo(&self, documents: &str) -> anyhow::Result<()> {
        let program = checkout::binary("bookinfo")?;
        let base = Image::of_program(BOOKINFO_IMAGE, &program, "/bookinfo")?;
        let mut images: Vec<BuiltImage> = vec![base.build(Compression::None)?];
        let named: BTreeSet<&str> = documents.lines().filter_map(image_of).collect();
        for name in named {
            let service = name.rsplit('/').next().unwrap_or_default().split(':').next().unwrap_or_default();
            let found = SERVICES.iter().find(|(image, _)| *image == service);
            ensure!(found.is_some() || name == BOOKINFO_IMAGE, "`{name}` is no image of Bookinfo");
            if let Some((_, arguments)) = found {
                let mut image = Image { reference: name.to_owned(), ..base.clone() };
                image.entrypoint.extend(arguments.iter().map(|argument| (*argument).to_owned()));
                images.push(image.build(Compression::None)?);
            }
        }
        self.load_built(&images).await
    }
}

/// The image that a line of a document names, in block or flow style.
fn image_of(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("image: ")?;
    let is_key = before.trim_start_matches([' ', '-', '{']).is_empty() || before.ends_with([' ', '{']);
    let name = rest.trim_start_matches(['"', '\'']).split(['"', '\'', ',', '}', ' ']).next().unwrap_or_default();
    (is_key && !name.is_empty()).then_some(name)
}
