//! Whether this machine can carry a node.

use std::{fs, path::Path};

/// The programs of a node that come from the machine, with the Debian packages that carry them.
const PROGRAMS: [(&str, &str); 8] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("runc", "runc"),
    ("conntrack", "conntrack"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
];

/// A plugin of the package that carries all.
const BRIDGE: &str = "/usr/lib/cni/bridge";

/// Why no node can run here; `None` where it can. A test that is skipped for it says so.
pub fn lacks_for_node() -> Option<String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("a node takes root".to_owned());
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(Into::into);
    let on_path =
        |name: &str| std::env::split_paths(&folders).chain(sbin.clone()).any(|folder| folder.join(name).is_file());
    for (program, package) in PROGRAMS {
        if !on_path(program) {
            return Some(format!("a node takes `{program}`, which Debian's package {package} has"));
        }
    }
    if !Path::new(BRIDGE).is_file() {
        return Some(format!("a node takes `{BRIDGE}`, which Debian's package containernetworking-plugins has"));
    }
    // The controller of memory where each has a hierarchy of its own, else the one for all.
    let folder = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].into_iter().find(|folder| Path::new(folder).is_dir());
    let Some(folder) = folder else { return Some("a node takes cgroups, which are not mounted here".to_owned()) };
    let probe = Path::new(folder).join(format!("palisade-probe-{}", std::process::id()));
    if let Err(error) = fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)) {
        return Some(format!("a node takes cgroups, and none can be made in {folder}: {error}"));
    }
    None
}
