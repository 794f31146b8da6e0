//! Notices that documents have changed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use palisade_control::source::files::files_of;

/// What tells one state of the documents from another: each file's time and size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Fingerprint {
    files: BTreeMap<PathBuf, (Option<SystemTime>, u64)>,
}

impl Fingerprint {
    /// Looks at the files that would be read. What cannot be read counts as absent: it changes when it appears.
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        let mut fingerprint = Self::default();
        for file in paths.iter().filter_map(|path| files_of(path).ok()).flatten() {
            if let Ok(metadata) = file.metadata() {
                fingerprint.files.insert(file, (metadata.modified().ok(), metadata.len()));
            }
        }
        fingerprint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_added_or_removed_file_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().to_owned()];
        let file = folder.path().join("sub/a.yaml");
        let empty = Fingerprint::of(&paths);
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::fs::write(&file, "a").unwrap();
        let added = Fingerprint::of(&paths);
        assert_ne!(empty, added);
        assert_eq!(added, Fingerprint::of(&paths));
        std::fs::write(&file, "ab").unwrap();
        assert_ne!(added, Fingerprint::of(&paths));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(empty, Fingerprint::of(&paths));
    }
}
