//! The shared libraries that a program is linked to.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::ImageError;

/// The shared libraries of a program, its loader included, as this machine's loader finds them. None for a static program.
///
/// # Errors
/// When the loader cannot say, or one of them is missing.
pub fn libraries_of(program: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let failed = |message: String| ImageError::Program { program: "ldd", message };
    let output =
        Command::new("ldd").arg(program).env("LC_ALL", "C").output().map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let lines = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        // How ldd says that there are none.
        let is_static = said.contains("not a dynamic executable") || lines.contains("statically linked");
        return if is_static { Ok(Vec::new()) } else { Err(failed(format!("{}: {}", program.display(), said.trim()))) };
    }
    let mut found = Vec::new();
    for line in lines.lines() {
        if let Some((library, "not found")) = line.trim().split_once(" => ") {
            return Err(ImageError::Library { program: program.to_owned(), library: library.to_owned() });
        }
        // `name => /path (address)`, or `/path (address)` for the loader; what the kernel brings along has no path.
        found.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_has_a_library_and_a_loader() {
        let found = libraries_of(Path::new("/bin/sh")).unwrap();
        assert!(found.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{found:?}");
        assert!(found.iter().any(|path| path.to_string_lossy().contains("/ld-linux")), "{found:?}");
        assert!(libraries_of(Path::new("/nonexistent")).is_err());
    }
}
