//! The images of Palisade itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Image, ImageError, Layer, bill_of_materials, libraries_of, packages_of};

/// The CAs that proxies trust where a document asks for the system's.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What loads redirection rules: nft, and iptables for kernels without nf_tables.
const NFT: &str = "/usr/sbin/nft";
const IPTABLES: &str = "/usr/sbin/xtables-legacy-multi";
const IPTABLES_NAMES: [&str; 4] = ["iptables-restore", "iptables-save", "ip6tables-restore", "ip6tables-save"];
/// The extensions of iptables that the rules name.
const EXTENSIONS: [&str; 6] =
    ["libxt_CT.so", "libxt_REDIRECT.so", "libxt_multiport.so", "libxt_owner.so", "libxt_tcp.so", "libxt_udp.so"];

/// An image of Palisade.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// Of the program, its package and the image.
    pub name: &'static str,
    /// User and group.
    id: u32,
    ports: &'static [&'static str],
    title: &'static str,
    loads_rules: bool,
    /// The most that nodes should fetch, compressed.
    pub limit: usize,
}

/// A proxy is fetched by every node.
const PROXY_LIMIT: usize = 25_000_000;

/// All images.
pub const PRODUCTS: [Product; 4] = [
    Product {
        name: "palisade-control",
        id: 65532,
        ports: &["15012/tcp", "15014/tcp", "15017/tcp"],
        title: "Palisade control plane",
        loads_rules: false,
        limit: 2 * PROXY_LIMIT,
    },
    Product {
        name: "palisade-gateway",
        id: 65532,
        ports: &["15020/tcp", "15021/tcp"],
        title: "Palisade gateway",
        loads_rules: false,
        limit: PROXY_LIMIT,
    },
    Product {
        name: "palisade-sidecar",
        // By which the redirection knows its traffic.
        id: 1337,
        ports: &["15001/tcp", "15006/tcp", "15020/tcp", "15021/tcp", "15053/tcp", "15053/udp"],
        title: "Palisade sidecar",
        loads_rules: true,
        limit: PROXY_LIMIT,
    },
    Product {
        name: "palisade",
        id: 65532,
        ports: &[],
        title: "Palisade command line",
        loads_rules: false,
        limit: 2 * PROXY_LIMIT,
    },
];

impl Product {
    /// The image, of a program that was built.
    ///
    /// # Errors
    /// When the program or a file of this machine that belongs into the image is missing.
    pub fn image(&self, binaries: &Path, reference: &str) -> Result<Image, ImageError> {
        let Self { name, id, ports, title, loads_rules, limit: _ } = self;
        let program = binaries.join(name);
        let mut base = Layer::default();
        base.copy(Path::new(CERTIFICATES), CERTIFICATES, 0o644)?;
        base.add(
            "/etc/passwd",
            0o644,
            format!("root:x:0:0::/:/sbin/nologin\n{name}:x:{id}:{id}::/:/sbin/nologin\n").into(),
        );
        base.add("/etc/group", 0o644, format!("root:x:0:\n{name}:x:{id}:\n").into());
        base.add("/etc/nsswitch.conf", 0o644, b"hosts: files dns\n".to_vec());
        base.add_folder("/tmp", 0o1777);
        base.add_libraries_of(&program)?;
        if *loads_rules {
            add_rule_programs(&mut base)?;
        }
        let mut own = Layer::default();
        let path = format!("/usr/bin/{name}");
        own.copy(&program, &path, 0o755)?;
        let environment = BTreeMap::from([
            ("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            // The root file system of a pod may be read-only.
            ("XTABLES_LOCKFILE".to_owned(), "/dev/shm/xtables.lock".to_owned()),
        ]);
        Ok(Image {
            reference: reference.to_owned(),
            layers: vec![base, own],
            entrypoint: vec![path],
            user: format!("{id}:{id}"),
            environment,
            labels: self.labels(title),
            ports: ports.iter().map(|port| (*port).to_owned()).collect(),
        })
    }

    /// What the image is made of; `workspace` is the checkout.
    ///
    /// # Errors
    /// When a file is no package's, or the crates are not known.
    pub fn bill_of_materials(&self, workspace: &Path, binaries: &Path) -> Result<Vec<u8>, ImageError> {
        let mut files: BTreeSet<PathBuf> = libraries_of(&binaries.join(self.name))?.into_iter().collect();
        if self.loads_rules {
            for program in [NFT, IPTABLES] {
                files.insert(program.into());
                files.extend(libraries_of(Path::new(program))?);
            }
        }
        let packages = packages_of(&files)?;
        bill_of_materials(workspace, self.name, env!("CARGO_PKG_VERSION"), &packages)
    }

    fn labels(&self, title: &str) -> BTreeMap<String, String> {
        let label = |key: &str, value: &str| (format!("org.opencontainers.image.{key}"), value.to_owned());
        BTreeMap::from([
            label("title", title),
            label("version", env!("CARGO_PKG_VERSION")),
            label("licenses", "Apache-2.0"),
            label("base.name", "scratch"),
        ])
    }
}

fn add_rule_programs(layer: &mut Layer) -> Result<(), ImageError> {
    for program in [NFT, IPTABLES] {
        layer.copy(Path::new(program), program, 0o755)?;
        layer.add_libraries_of(Path::new(program))?;
    }
    for name in IPTABLES_NAMES {
        layer.add_link(&format!("/usr/sbin/{name}"), "xtables-legacy-multi");
    }
    let folder = format!("/usr/lib/{}-linux-gnu/xtables", std::env::consts::ARCH);
    for extension in EXTENSIONS {
        let path = format!("{folder}/{extension}");
        layer.copy(Path::new(&path), &path, 0o644)?;
    }
    Ok(())
}

/// A copy of a program without its symbols.
///
/// # Errors
/// When `strip` (binutils) is missing or fails.
pub fn strip(program: &Path, to: &Path) -> Result<(), ImageError> {
    let failed = |message: String| ImageError::Program { program: "strip", message };
    let output = Command::new("strip")
        .arg("--strip-all")
        .arg("-o")
        .args([to, program])
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}
