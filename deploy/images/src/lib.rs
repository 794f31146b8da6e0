//! Container images from files, with neither container engine nor registry: the same files give the same bytes.

mod error;
mod image;
mod layer;
mod layout;
mod libraries;
mod packages;
mod products;
mod sbom;

pub use error::ImageError;
pub use image::{Blob, BuiltImage, Compression, Image};
pub use layer::Layer;
pub use layout::{write_archive, write_layout};
pub use libraries::libraries_of;
pub use packages::{Package, packages_of};
pub use products::{PRODUCTS, Product, strip};
pub use sbom::bill_of_materials;
