//! OCI image layouts, as a folder and as an archive.

use std::{borrow::Cow, collections::BTreeMap, fs, io::Write, path::Path};

use serde_json::{Value, json};
use tar::{Builder, Header};

use crate::{BuiltImage, ImageError, image::architecture};

/// Writes images into a layout: `oci-layout`, `index.json` and `blobs/`. What the folder held of another layout stays.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_layout(folder: &Path, images: &[BuiltImage]) -> Result<(), ImageError> {
    for (path, bytes) in files(images)? {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(ImageError::file(parent))?;
        }
        fs::write(&path, &*bytes).map_err(ImageError::file(&path))?;
    }
    Ok(())
}

/// Writes the archive of a layout, as `ctr images import` and others take it.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_archive(out: impl Write, images: &[BuiltImage]) -> Result<(), ImageError> {
    let mut archive = Builder::new(out);
    for (path, bytes) in files(images)? {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, &*bytes).map_err(ImageError::Archive)?;
    }
    archive.into_inner().and_then(|mut out| out.flush()).map_err(ImageError::Archive)
}

fn files(images: &[BuiltImage]) -> Result<BTreeMap<String, Cow<'_, [u8]>>, ImageError> {
    let mut files = BTreeMap::new();
    let mut manifests = Vec::new();
    for image in images {
        manifests.push(entry(image)?);
        for blob in image.blobs.iter().chain([&image.manifest]) {
            files.insert(blob.path(), Cow::Borrowed(blob.bytes.as_slice()));
        }
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests,
    });
    files.insert("index.json".to_owned(), Cow::Owned(serde_json::to_vec(&index)?));
    files.insert("oci-layout".to_owned(), Cow::Owned(serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?));
    Ok(files)
}

fn entry(image: &BuiltImage) -> Result<Value, ImageError> {
    let name = full_name(&image.reference);
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let mut entry = image.manifest.descriptor();
    if let Some(fields) = entry.as_object_mut() {
        fields.insert("platform".to_owned(), json!({"architecture": architecture()?, "os": "linux"}));
        let names = json!({"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": name});
        fields.insert("annotations".to_owned(), names);
    }
    Ok(entry)
}

/// The whole name of an image, as nodes know it: with its registry and a tag.
fn full_name(reference: &str) -> String {
    let (first, rest) = reference.split_once('/').unwrap_or(("", reference));
    let is_registry = first.contains(['.', ':']) || first == "localhost";
    let name = match (first, is_registry) {
        (_, true) => reference.to_owned(),
        ("", false) => format!("docker.io/library/{rest}"),
        (_, false) => format!("docker.io/{reference}"),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    if last.contains(':') { name } else { format!("{name}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_known_by_their_whole_names() {
        for (given, whole) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("palisade/palisade-sidecar:0.1.0", "docker.io/palisade/palisade-sidecar:0.1.0"),
            ("localhost/pause:1", "localhost/pause:1"),
            ("registry.example:5000/a/b", "registry.example:5000/a/b:latest"),
        ] {
            assert_eq!(full_name(given), whole, "{given}");
        }
    }
}
