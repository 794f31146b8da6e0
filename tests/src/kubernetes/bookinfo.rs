//! Istio's Bookinfo on a node: its own documents, and images by the names that they call for.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context, ensure};
use palisade_images::{BuiltImage, Compression, Image};

use super::Node;
use crate::checkout;

/// The image of the tests' own pods.
pub const BOOKINFO_IMAGE: &str = "localhost/bookinfo:1";

/// What each image runs, by the end of its name.
const SERVICES: [(&str, &[&str]); 6] = [
    ("examples-bookinfo-productpage-v1", &["productpage"]),
    ("examples-bookinfo-details-v1", &["details"]),
    ("examples-bookinfo-ratings-v1", &["ratings"]),
    ("examples-bookinfo-reviews-v1", &["reviews", "--version=v1"]),
    ("examples-bookinfo-reviews-v2", &["reviews", "--version=v2"]),
    ("examples-bookinfo-reviews-v3", &["reviews", "--version=v3"]),
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
    /// Loads an image for each that the documents call for, and [`BOOKINFO_IMAGE`]: all are one program.
    ///
    /// # Errors
    /// When the program is not built, or a document calls for an image that is none of Bookinfo's.
    pub async fn load_bookinfo(&self, documents: &str) -> anyhow::Result<()> {
        let program = checkout::binary("bookinfo")?;
        let base = Image::of_program(BOOKINFO_IMAGE, &program, "/bookinfo")?;
        let mut images: Vec<BuiltImage> = vec![base.build(Compression::None)?];
        let named = documents.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("image:"));
        let named: BTreeSet<&str> = named.map(|name| name.trim().trim_matches(['"', '\''])).collect();
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
