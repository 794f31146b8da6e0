//! Why an image cannot be made.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why an image cannot be made.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A file cannot be read or written.
    #[error("`{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program that this work needs cannot be run, or failed.
    #[error("`{program}`: {message}")]
    Program {
        /// The program.
        program: &'static str,
        /// What it said.
        message: String,
    },
    /// A shared library of a program is not on this machine.
    #[error("`{}` needs `{library}`, which is not on this machine", program.display())]
    Library {
        /// The program.
        program: PathBuf,
        /// Its library.
        library: String,
    },
    /// An image cannot be made on a machine of this kind.
    #[error("no images can be made for `{0}`")]
    Architecture(&'static str),
    /// An archive cannot be written.
    #[error("the archive cannot be written")]
    Archive(#[source] io::Error),
    /// A document of an image cannot be written.
    #[error("a document of the image cannot be written")]
    Document(#[from] serde_json::Error),
    /// `Cargo.lock` or what cargo says of it cannot be read.
    #[error("the crates of `{package}` are not known: {message}")]
    Crates {
        /// The package whose crates were asked for.
        package: String,
        /// Why.
        message: String,
    },
}

impl ImageError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
