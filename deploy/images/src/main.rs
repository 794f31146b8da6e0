//! `palisade-images`: makes container images from files, with neither container engine nor registry.

use std::{
    fs,
    io::{BufWriter, stdout},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, ensure};
use clap::Parser;
use palisade_images::{Compression, Image, Layer, PRODUCTS, strip, write_archive, write_layout};

/// Makes container images from files, with neither container engine nor registry.
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    /// The images of Palisade, each as an OCI layout with its bill of materials.
    Products {
        /// Folder of the programs.
        #[arg(long, value_name = "DIR", default_value = "target/production")]
        binaries: PathBuf,
        /// Folder that the layouts go to.
        #[arg(long, value_name = "DIR", default_value = "target/images")]
        out: PathBuf,
        /// What stands before the name of each image.
        #[arg(long, value_name = "PREFIX", default_value = "palisade")]
        repository: String,
        /// Tag of each image.
        #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
        tag: String,
    },
    /// One image of files of this machine, as an archive on standard output: for `ctr --namespace k8s.io images import -`.
    Files {
        /// Name of the image, with a tag other than `latest`.
        reference: String,
        /// A file and its path in the image; the first is what is started. Their shared libraries come along.
        #[arg(required = true, value_name = "FILE[:PATH]")]
        files: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Products { binaries, out, repository, tag } => products(&binaries, &out, &repository, &tag),
        Command::Files { reference, files } => of_files(reference, &files),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn products(binaries: &std::path::Path, out: &std::path::Path, repository: &str, tag: &str) -> anyhow::Result<()> {
    let workspace = std::env::current_dir()?;
    let stripped = out.join("stripped");
    fs::create_dir_all(&stripped).with_context(|| stripped.display().to_string())?;
    let mut too_large = Vec::new();
    for product in PRODUCTS {
        let name = product.name;
        strip(&binaries.join(name), &stripped.join(name))?;
        let mut image = product.image(&stripped, &format!("{repository}/{name}:{tag}"))?;
        let materials = product.bill_of_materials(&workspace, &stripped)?;
        let mut documents = Layer::default();
        documents.add(&format!("/usr/share/doc/{name}/{name}.cdx.json"), 0o644, materials.clone());
        image.layers.push(documents);
        let built = image.build(Compression::Gzip)?;
        let folder = out.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        write_layout(&folder, std::slice::from_ref(&built))?;
        fs::write(out.join(format!("{name}.cdx.json")), materials)?;
        let size = built.size();
        println!("{:<40} {:>6.1} MB  {}", image.reference, megabytes(size), built.manifest.digest);
        if size > product.limit {
            too_large.push(format!("{name}: {:.1} MB of at most {:.1}", megabytes(size), megabytes(product.limit)));
        }
    }
    fs::remove_dir_all(&stripped)?;
    ensure!(too_large.is_empty(), "too large: {}", too_large.join(", "));
    Ok(())
}

fn of_files(reference: String, files: &[String]) -> anyhow::Result<()> {
    let mut libraries = Layer::default();
    let mut own = Layer::default();
    let mut entrypoint = Vec::new();
    for file in files {
        let (source, path) = file.split_once(':').unwrap_or((file, file));
        let source = std::path::Path::new(source);
        own.copy(source, path, 0o755)?;
        libraries.add_libraries_of(source)?;
        if entrypoint.is_empty() {
            entrypoint.push(path.to_owned());
        }
    }
    let image = Image { reference, layers: vec![libraries, own], entrypoint, ..Image::default() };
    write_archive(BufWriter::new(stdout().lock()), &[image.build(Compression::None)?])?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}
