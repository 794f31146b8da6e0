//! The authority on disk under Istio's names, replaced whole or not at all.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use palisade_model::identity::TrustDomain;

use super::{
    CaError, CertificateAuthority,
    material::{CERTIFICATE, CHAIN, KEY, Material, NAMES, OTHER_CERTIFICATE, OTHER_KEY, PHASE, REVOKED, ROOTS},
};

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What is to come, while it is being written.
const DRAFT: &str = ".palisade-draft";
/// What is to come, complete: whoever finds it puts it in its place.
const COMING: &str = ".palisade-coming";
/// Names of files that are to go, one a line.
const GONE: &str = "gone";

/// When a folder's files were changed last, and how long they are: equal as long as nobody touches them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Stamp(Vec<Option<(SystemTime, u64)>>);

impl CertificateAuthority {
    /// Reads the authority of a folder, or makes a self-signed ECDSA P-256 root there, all files with mode 0600.
    ///
    /// A folder that an operator filled may hold an intermediate authority, RSA or ECDSA: `cert-chain.pem` then leads
    /// from it to `root-cert.pem`.
    ///
    /// # Errors
    /// When files are missing, damaged, do not belong together, or cannot be written.
    pub fn load_or_create(folder: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        complete(folder)?;
        if [CERTIFICATE, KEY, ROOTS, CHAIN].iter().all(|name| !folder.join(name).exists()) {
            write_material(folder, &Material::generate(trust_domain, now)?)?;
        }
        read_material(folder)?.authority(folder, now)
    }
}

/// The parts of the authority of a folder.
///
/// # Errors
/// When files are missing or cannot be read.
pub(crate) fn read_material(folder: &Path) -> Result<Material, CaError> {
    for missing in [CERTIFICATE, KEY, ROOTS] {
        if !folder.join(missing).exists() {
            let present = [CERTIFICATE, KEY, ROOTS, CHAIN].into_iter().find(|name| folder.join(name).exists());
            let folder = folder.to_owned();
            return Err(CaError::Incomplete { folder, present: present.unwrap_or("other files"), missing });
        }
    }
    let optional = |name| if folder.join(name).exists() { read(folder, name).map(Some) } else { Ok(None) };
    let other = Material::other(optional(PHASE)?, optional(OTHER_CERTIFICATE)?, optional(OTHER_KEY)?)
        .map_err(|problem| CaError::Unusable { folder: folder.to_owned(), problem })?;
    Ok(Material {
        certificate: read(folder, CERTIFICATE)?,
        key: read(folder, KEY)?,
        roots: read(folder, ROOTS)?,
        chain: optional(CHAIN)?,
        revoked: optional(REVOKED)?,
        other,
    })
}

/// Replaces the authority of a folder. After a crash there is the old one or the new.
///
/// # Errors
/// When the folder cannot be written.
pub(crate) fn write_material(folder: &Path, material: &Material) -> Result<(), CaError> {
    private_folder(folder)?;
    let draft = folder.join(DRAFT);
    // Left behind by somebody who could not finish.
    discard(&draft)?;
    private_folder(&draft)?;
    let result = fill(&draft, material).and_then(|()| {
        let coming = folder.join(COMING);
        fs::rename(&draft, &coming).and_then(|()| sync(folder)).map_err(failed(&coming))
    });
    if result.is_err() {
        // A full disk leaves nothing behind; the first error is the one to tell.
        drop(discard(&draft));
    }
    result.and_then(|()| complete(folder))
}

fn fill(draft: &Path, material: &Material) -> Result<(), CaError> {
    let mut gone = String::new();
    for (name, text) in material.texts() {
        match text {
            Some(text) => write(&draft.join(name), &text)?,
            None => {
                gone.push_str(name);
                gone.push('\n');
            }
        }
    }
    write(&draft.join(GONE), &gone)?;
    sync(draft).map_err(failed(draft))
}

/// Puts in its place what is complete and has not got there yet.
fn complete(folder: &Path) -> Result<(), CaError> {
    let coming = folder.join(COMING);
    if !coming.is_dir() {
        return Ok(());
    }
    for name in NAMES {
        let (from, to) = (coming.join(name), folder.join(name));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&to)(error)),
            Ok(()) | Err(_) => {}
        }
    }
    for name in read(&coming, GONE)?.lines().filter(|name| NAMES.contains(name)) {
        let path = folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&path)(error)),
            Ok(()) | Err(_) => {}
        }
    }
    sync(folder).map_err(failed(folder))?;
    discard(&coming)?;
    sync(folder).map_err(failed(folder))
}

/// When a folder's files were changed last.
pub(crate) fn stamp(folder: &Path) -> Stamp {
    let of = |name| {
        let meta = fs::metadata(folder.join(name)).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    };
    Stamp(NAMES.into_iter().map(of).collect())
}

fn failed(path: &Path) -> impl Fn(io::Error) -> CaError + use<> {
    let path: PathBuf = path.to_owned();
    move |source| CaError::Io { path: path.clone(), source }
}

fn private_folder(path: &Path) -> Result<(), CaError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))
}

fn discard(folder: &Path) -> Result<(), CaError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(folder)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

fn write(path: &Path, text: &str) -> Result<(), CaError> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(failed(path))
}

fn read(folder: &Path, name: &str) -> Result<String, CaError> {
    let path = folder.join(name);
    let size = fs::metadata(&path).map_err(failed(&path))?.len();
    if size > MAX_FILE_BYTES {
        return Err(CaError::Malformed { path, problem: format!("{size} bytes, at most {MAX_FILE_BYTES} are read") });
    }
    fs::read_to_string(&path).map_err(failed(&path))
}
