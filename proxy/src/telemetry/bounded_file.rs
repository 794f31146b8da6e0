//! A file that never grows beyond a size: it is put aside once, and begun again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
};

/// Appends to a file; when the next write would make it larger than the limit, it becomes `FILE.1` and a new one begins. At most twice the
/// limit is on the disk.
#[derive(Debug)]
pub struct BoundedFile {
    path: PathBuf,
    limit: u64,
    file: File,
    written: u64,
}

impl BoundedFile {
    /// Opens or creates the file, readable by its owner alone.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: PathBuf, limit: u64) -> io::Result<Self> {
        let file = open(&path)?;
        let written = file.metadata()?.len();
        Ok(Self { path, limit, file, written })
    }

    fn begin_again(&mut self) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".1");
        fs::rename(&self.path, aside)?;
        self.file = open(&self.path)?;
        self.written = 0;
        Ok(())
    }
}

fn open(path: &std::path::Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

impl Write for BoundedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.written > 0 && self.written.saturating_add(length) > self.limit {
            self.begin_again()?;
        }
        let written = self.file.write(bytes)?;
        self.written = self.written.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_once() {
        let folder = std::env::temp_dir().join(format!("palisade-bounded-{}", fastrand::u64(..)));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("log");
        let mut file = BoundedFile::open(path.clone(), 10).unwrap();
        for line in ["12345\n", "1234\n", "123\n"] {
            file.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "1234\n123\n");
        assert_eq!(fs::read_to_string(folder.join("log.1")).unwrap(), "12345\n");
        fs::remove_dir_all(folder).unwrap();
    }
}
