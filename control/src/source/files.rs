//! Documents from files, folders and standard input.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use palisade_crds::{Documents, document};

/// Why the paths of a command line cannot be read. What stands in the files is another matter: it is reported per document.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{path}`: {source}")]
pub struct ReadError {
    /// The file or folder.
    pub path: String,
    /// Why.
    pub source: io::Error,
}

/// Reads files, folders (recursively: every `*.yaml`, `*.yml` and `*.json`, in the order of their names) and `-`
/// (standard input). A file named on the command line is read whatever its name.
///
/// # Errors
/// When a path is not there or not readable.
pub fn read(paths: &[PathBuf]) -> Result<Documents, ReadError> {
    let mut all = Documents::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = Vec::new();
            let mut input = io::stdin().lock().take(document::MAX_TEXT_BYTES as u64 + 1);
            input.read_to_end(&mut text).map_err(|source| ReadError { path: "-".to_owned(), source })?;
            append(&mut all, "-", &text);
            continue;
        }
        for file in files_of(path)? {
            let text = fs::read(&file).map_err(|source| error(&file, source))?;
            append(&mut all, &file.to_string_lossy(), &text);
        }
    }
    Ok(all)
}

/// The files that a path stands for: itself, or the documents of a folder and its subfolders. Hidden files are left out,
/// and links are followed once.
///
/// # Errors
/// When the path or a folder below it cannot be read.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let meta = fs::metadata(path).map_err(|source| error(path, source))?;
    if !meta.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(|source| error(path, source))? {
        entries.push(entry.map_err(|source| error(path, source))?);
    }
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let kind = entry.file_type().map_err(|source| error(&path, source))?;
        // A linked folder could lead back up here.
        let is_folder = kind.is_dir() && !kind.is_symlink();
        if is_folder {
            files.extend(files_of(&path)?);
        } else if is_document(&path) {
            files.push(path);
        }
    }
    Ok(files)
}

/// Whether a file of a folder is one of documents.
pub fn is_document(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

fn append(all: &mut Documents, name: &str, text: &[u8]) {
    let Documents { documents, unreadable } = document::read(name, text);
    all.documents.extend(documents);
    all.unreadable.extend(unreadable);
}

fn error(path: &Path, source: io::Error) -> ReadError {
    ReadError { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_recursively_in_the_order_of_names() {
        let folder = std::env::temp_dir().join(format!("palisade-files-{}", std::process::id()));
        fs::create_dir_all(folder.join("sub")).unwrap();
        for (name, text) in [
            ("b.yaml", "kind: B\napiVersion: v1\n"),
            ("a.json", "{\"kind\": \"A\", \"apiVersion\": \"v1\"}"),
            ("sub/c.yml", "kind: C\napiVersion: v1\n---\n: : broken\n"),
            ("notes.txt", "not a document"),
            (".hidden.yaml", "kind: Hidden"),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        let read = read(std::slice::from_ref(&folder));
        fs::remove_dir_all(&folder).unwrap();
        let read = read.unwrap();
        let kinds: Vec<_> = read.documents.iter().map(|document| document.value["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
    }

    #[test]
    fn a_path_that_is_not_there_is_named() {
        let error = read(&[PathBuf::from("no/such/file.yaml")]).unwrap_err();
        assert!(error.to_string().contains("no/such/file.yaml"), "{error}");
    }
}
