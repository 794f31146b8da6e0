//! The authority on disk: `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`, `cert-chain.pem`.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::SystemTime,
};

use palisade_model::identity::TrustDomain;

use super::{
    CaError, CertificateAuthority,
    material::{CERTIFICATE, CHAIN, KEY, Material, ROOTS},
};

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

impl CertificateAuthority {
    /// Reads the authority of a folder, or makes a self-signed ECDSA P-256 root there, all files with mode 0600.
    ///
    /// A folder that an operator filled may hold an intermediate authority, RSA or ECDSA: `cert-chain.pem` then leads
    /// from it to `root-cert.pem`.
    ///
    /// # Errors
    /// When files are missing, damaged, do not belong together, or cannot be written.
    pub fn load_or_create(folder: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        if [CERTIFICATE, KEY, ROOTS, CHAIN].iter().all(|name| !folder.join(name).exists()) {
            create(folder, trust_domain, now)?;
        }
        load(folder, now)
    }
}

fn load(folder: &Path, now: SystemTime) -> Result<CertificateAuthority, CaError> {
    for missing in [CERTIFICATE, KEY, ROOTS] {
        if !folder.join(missing).exists() {
            let present = [CERTIFICATE, KEY, ROOTS, CHAIN].into_iter().find(|name| folder.join(name).exists());
            let folder = folder.to_owned();
            return Err(CaError::Incomplete { folder, present: present.unwrap_or("other files"), missing });
        }
    }
    let chain = if folder.join(CHAIN).exists() { Some(read(folder, CHAIN)?) } else { None };
    let (certificate, key, roots) = (read(folder, CERTIFICATE)?, read(folder, KEY)?, read(folder, ROOTS)?);
    Material { certificate, key, roots, chain }.authority(folder, now)
}

fn create(folder: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<(), CaError> {
    let Material { certificate, key, roots, chain } = Material::generate(trust_domain, now)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| CaError::Io { path: path.clone(), source }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed(folder))?;
    let files =
        [(ROOTS, roots), (CHAIN, chain.unwrap_or_else(|| certificate.clone())), (CERTIFICATE, certificate), (KEY, key)];
    // Everything is on the disk before anything has its name: a full disk leaves nothing behind.
    let staged = |name: &str| folder.join(format!(".{name}.new-{}", std::process::id()));
    let result = files.iter().try_for_each(|(name, text)| {
        let path = staged(name);
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .map_err(failed(&path))
    });
    let result = result.and_then(|()| {
        files.iter().try_for_each(|(name, _)| {
            let path = folder.join(name);
            fs::rename(staged(name), &path).map_err(failed(&path))
        })
    });
    if result.is_err() {
        for (name, _) in &files {
            // What is not there need not go; the first error is the one to tell.
            drop(fs::remove_file(staged(name)));
        }
    }
    result
}

fn read(folder: &Path, name: &str) -> Result<String, CaError> {
    let path = folder.join(name);
    let failed = |source| CaError::Io { path: path.clone(), source };
    let size = fs::metadata(&path).map_err(failed)?.len();
    if size > MAX_FILE_BYTES {
        return Err(CaError::Malformed { path, problem: format!("{size} bytes, at most {MAX_FILE_BYTES} are read") });
    }
    fs::read_to_string(&path).map_err(failed)
}
