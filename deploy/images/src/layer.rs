//! The files of a layer, and its archive, whose bytes depend on nothing but them.

use std::{collections::BTreeMap, fs, path::Path};

use tar::{Builder, EntryType, Header};

use crate::{ImageError, libraries_of};

/// Files by their path in the image.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    // Without the leading slash, as an archive has them; folders too, so that the order is right by itself.
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    Folder { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
}

impl Layer {
    /// Whether it has no files.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a file; one that was there is replaced.
    pub fn add(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        let path = self.add_parents(path);
        self.entries.insert(path, Entry::File { mode, content });
    }

    /// Adds a copy of a file of this machine.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn copy(&mut self, source: &Path, path: &str, mode: u32) -> Result<(), ImageError> {
        let content = fs::read(source).map_err(ImageError::file(source))?;
        self.add(path, mode, content);
        Ok(())
    }

    /// Adds a folder.
    pub fn add_folder(&mut self, path: &str, mode: u32) {
        let path = self.add_parents(path);
        self.entries.insert(path, Entry::Folder { mode });
    }

    /// Adds a symbolic link.
    pub fn add_link(&mut self, path: &str, target: &str) {
        let path = self.add_parents(path);
        self.entries.insert(path, Entry::Link { target: target.to_owned() });
    }

    /// Adds the shared libraries that a program of this machine is linked to, each where its loader looks for it.
    ///
    /// # Errors
    /// When one is missing or cannot be read.
    pub fn add_libraries_of(&mut self, program: &Path) -> Result<(), ImageError> {
        for library in libraries_of(program)? {
            self.copy(&library, &library.to_string_lossy(), 0o755)?;
        }
        Ok(())
    }

    fn add_parents(&mut self, path: &str) -> String {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            if let Some(parent) = path.get(..end) {
                self.entries.entry(parent.to_owned()).or_insert(Entry::Folder { mode: 0o755 });
            }
        }
        path.to_owned()
    }

    /// The archive.
    pub(crate) fn archive(&self) -> Result<Vec<u8>, ImageError> {
        let mut archive = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            append(&mut archive, path, entry).map_err(ImageError::Archive)?;
        }
        archive.into_inner().map_err(ImageError::Archive)
    }
}

fn append(archive: &mut Builder<Vec<u8>>, path: &str, entry: &Entry) -> std::io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    match entry {
        Entry::Folder { mode } => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(*mode);
            header.set_size(0);
            archive.append_data(&mut header, format!("{path}/"), std::io::empty())
        }
        Entry::File { mode, content } => {
            header.set_entry_type(EntryType::Regular);
            header.set_mode(*mode);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, content.as_slice())
        }
        Entry::Link { target } => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            archive.append_link(&mut header, path, target)
        }
    }
}
