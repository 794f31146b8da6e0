//! An image: layers of files and how its program is started.

use std::{collections::BTreeMap, io::Write};

use flate2::{GzBuilder, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{ImageError, Layer};

/// What an image is made of.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Its name, as a pod names it: `palisade/palisade-sidecar:0.1.0`.
    pub reference: String,
    /// Its files, lowest first. What several images share goes into a layer of its own, which is then stored once.
    pub layers: Vec<Layer>,
    /// What is started.
    pub entrypoint: Vec<String>,
    /// `UID:GID` that it runs as; empty: root.
    pub user: String,
    /// Its environment.
    pub environment: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Ports that it listens at, as `15012/tcp`.
    pub ports: Vec<String>,
}

/// How layers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As they are: for an image that is made to be run at once.
    None,
    /// As gzip, as small as it gets.
    Gzip,
}

/// A part of an image, by its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its type.
    pub media_type: &'static str,
    /// `sha256:…`.
    pub digest: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// An image as it is stored.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// Its name.
    pub reference: String,
    /// Its manifest.
    pub manifest: Blob,
    /// Its configuration and layers.
    pub blobs: Vec<Blob>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { media_type, digest: digest(&bytes), bytes }
    }

    pub(crate) fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }

    /// Where it lies in a layout.
    pub(crate) fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }
}

impl BuiltImage {
    /// Bytes that a node fetches.
    pub fn size(&self) -> usize {
        self.blobs.iter().map(|blob| blob.bytes.len()).sum::<usize>() + self.manifest.bytes.len()
    }
}

impl Image {
    /// An image of one program, its only file, by its path in the image.
    ///
    /// # Errors
    /// When the program or one of its libraries cannot be read.
    pub fn of_program(reference: &str, program: &std::path::Path, path: &str) -> Result<Self, ImageError> {
        let mut libraries = Layer::default();
        libraries.add_libraries_of(program)?;
        let mut own = Layer::default();
        own.copy(program, path, 0o755)?;
        Ok(Self {
            reference: reference.to_owned(),
            layers: vec![libraries, own],
            entrypoint: vec![path.to_owned()],
            ..Self::default()
        })
    }

    /// Makes the archives, the configuration and the manifest.
    ///
    /// # Errors
    /// On a machine whose architecture has no name among images.
    pub fn build(&self, compression: Compression) -> Result<BuiltImage, ImageError> {
        let Self { reference, layers, entrypoint, user, environment, labels, ports } = self;
        let mut blobs = Vec::new();
        let mut contents = Vec::new();
        for layer in layers.iter().filter(|layer| !layer.is_empty()) {
            let archive = layer.archive()?;
            contents.push(digest(&archive));
            blobs.push(match compression {
                Compression::None => Blob::new("application/vnd.oci.image.layer.v1.tar", archive),
                Compression::Gzip => Blob::new("application/vnd.oci.image.layer.v1.tar+gzip", gzip(&archive)?),
            });
        }
        let layers: Vec<Value> = blobs.iter().map(Blob::descriptor).collect();
        let variables: Vec<String> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let ports: BTreeMap<&str, Value> = ports.iter().map(|port| (port.as_str(), json!({}))).collect();
        let configuration = json!({
            "architecture": architecture()?,
            "os": "linux",
            "config": {
                "User": user, "Env": variables, "Entrypoint": entrypoint, "WorkingDir": "/", "Labels": labels, "ExposedPorts": ports,
            },
            "rootfs": {"type": "layers", "diff_ids": contents},
        });
        let configuration = Blob::new("application/vnd.oci.image.config.v1+json", serde_json::to_vec(&configuration)?);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": configuration.descriptor(),
            "layers": layers,
            "annotations": labels,
        });
        blobs.push(configuration);
        let manifest = Blob::new("application/vnd.oci.image.manifest.v1+json", serde_json::to_vec(&manifest)?);
        Ok(BuiltImage { reference: reference.clone(), manifest, blobs })
    }
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let mut text = String::from("sha256:");
    for byte in hash {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
    // Neither name nor time.
    let mut encoder: GzEncoder<Vec<u8>> = GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).map_err(ImageError::Archive)?;
    encoder.finish().map_err(ImageError::Archive)
}

/// This machine's architecture by its name among images.
pub(crate) fn architecture() -> Result<&'static str, ImageError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => Err(ImageError::Architecture(other)),
    }
}
