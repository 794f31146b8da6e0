//! The Debian packages that files of this machine come from.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use crate::ImageError;

/// A Debian package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The source package and its version, by which its licence and its sources are found.
    pub source: String,
}

/// The packages that own these files. A file that no package owns is an error: an image has no file of unknown origin.
///
/// # Errors
/// When dpkg is missing or does not know one of the files.
pub fn packages_of(files: &BTreeSet<PathBuf>) -> Result<BTreeSet<Package>, ImageError> {
    let mut packages = BTreeSet::new();
    for file in files {
        let owner = owner(file)?;
        let said = query(&["-W", "-f", "${Package}\t${Version}\t${source:Package}@${source:Version}", &owner])?;
        let mut fields = said.split('\t').map(str::to_owned);
        if let (Some(name), Some(version), Some(source)) = (fields.next(), fields.next(), fields.next()) {
            packages.insert(Package { name, version, source });
        }
    }
    Ok(packages)
}

/// The package of a file; where `/lib` is a link into `/usr`, the package may have written the file under either name.
fn owner(file: &Path) -> Result<String, ImageError> {
    let resolved = file.canonicalize().map_err(ImageError::file(file))?;
    let mut names = BTreeSet::new();
    for path in [file.to_owned(), resolved] {
        let text = path.to_string_lossy().into_owned();
        names.extend(text.strip_prefix("/usr").map(str::to_owned));
        names.insert(format!("/usr{text}"));
        names.insert(text);
    }
    for name in &names {
        if let Ok(said) = query(&["-S", name])
            && let Some((package, _)) =
                said.lines().find(|line| !line.starts_with("diversion")).and_then(|line| line.split_once(": "))
        {
            return Ok(package.to_owned());
        }
    }
    Err(ImageError::Program { program: "dpkg-query", message: format!("no package owns `{}`", file.display()) })
}

fn query(arguments: &[&str]) -> Result<String, ImageError> {
    let failed = |message: String| ImageError::Program { program: "dpkg-query", message };
    let output = Command::new("dpkg-query")
        .args(arguments)
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
