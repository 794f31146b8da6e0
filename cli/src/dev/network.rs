//! The network that pods share: its addresses, and how a namespace is joined to it.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// The bridge: this machine's end of the network, and the DNS server's address. From the range for benchmarks
/// (RFC 2544), which no document has a reason to use.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// The control plane's address.
pub(super) const CONTROL: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// The host name that proxies call the control plane by.
pub(super) const CONTROL_HOST: &str = "palisade-control.palisade-system.svc";

/// Domain of all names in the mesh.
pub(super) const CLUSTER_DOMAIN: &str = "cluster.local";

const BRIDGE: &str = "mesh0";

/// Address of the n-th host outside the mesh.
pub(super) fn external(index: usize) -> anyhow::Result<IpAddr> {
    let last = u8::try_from(index).ok().and_then(|index| index.checked_add(1)).context("too many external hosts")?;
    Ok(Ipv4Addr::new(198, 19, 0, last).into())
}

/// Makes the bridge, in the namespace of the calling thread. Every pod is a neighbour of every other: an address is
/// found by asking for it, so that pods may have any addresses.
pub(super) fn make_bridge() -> anyhow::Result<()> {
    let mut script = format!(
        "link set lo up\nlink add {BRIDGE} type bridge forward_delay 0\naddr add {HOST}/32 dev {BRIDGE}\n\
         link set {BRIDGE} up\nroute add default dev {BRIDGE} src {HOST}\n"
    );
    if has_ipv6() {
        let _ = writeln!(script, "route add ::/0 dev {BRIDGE}");
    }
    run_ip(&script)?;
    hurry_neighbours();
    Ok(())
}

/// Gives the namespace of process `pid` an interface `eth0` on the bridge, from the bridge's namespace.
pub(super) fn attach(index: u32, pid: u32) -> anyhow::Result<()> {
    run_ip(&format!(
        "link add pod{index} type veth peer name eth0 netns {pid}\nlink set pod{index} master {BRIDGE}\n\
         link set pod{index} up\n"
    ))
}

/// Brings up the calling process's namespace, once it has its `eth0`.
pub(super) fn bring_up(addresses: &[IpAddr]) -> anyhow::Result<()> {
    // Before the interface comes up, so that nothing waits for duplicate address detection.
    let has_ipv6 = has_ipv6();
    let mut script = "link set lo up\n".to_owned();
    for address in addresses {
        let _ = match address {
            IpAddr::V4(address) => writeln!(script, "addr add {address}/32 dev eth0"),
            IpAddr::V6(_) if !has_ipv6 => bail!("this machine has no IPv6, which the address {address} needs"),
            IpAddr::V6(address) => writeln!(script, "addr add {address}/128 dev eth0 nodad"),
        };
    }
    script.push_str("link set eth0 up\n");
    if addresses.iter().any(IpAddr::is_ipv4) {
        script.push_str("route add default dev eth0\n");
    }
    if addresses.iter().any(IpAddr::is_ipv6) {
        script.push_str("route add ::/0 dev eth0\n");
    }
    run_ip(&script)?;
    hurry_neighbours();
    // Every application may listen on every port, whoever it runs as.
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0").context("cannot free the low ports")
}

/// An address that nobody has is reported within a second, not after three.
fn hurry_neighbours() {
    for family in ["ipv4", "ipv6"] {
        for interface in ["default", "eth0", BRIDGE] {
            // Absent where there is no such interface or family; and only a matter of speed.
            let _ = std::fs::write(format!("/proc/sys/net/{family}/neigh/{interface}/retrans_time_ms"), "250");
        }
    }
}

fn has_ipv6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

fn run_ip(script: &str) -> anyhow::Result<()> {
    run_with_input("ip", &["-batch", "-"], script)
}

/// Runs a program that takes a script, and fails with what it says.
pub(super) fn run_with_input(program: &str, arguments: &[&str], input: &str) -> anyhow::Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{program}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that stopped reading says why below.
        let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("cannot run `{program}`"))?;
    if !output.status.success() {
        bail!("`{program}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The pod's `/etc/resolv.conf`, as Kubernetes writes it.
pub(super) fn resolv_conf(namespace: &str) -> String {
    let search = search(namespace).join(" ");
    format!("nameserver {HOST}\nsearch {search}\noptions ndots:5\n")
}

pub(super) fn search(namespace: &str) -> [String; 3] {
    [format!("{namespace}.svc.{CLUSTER_DOMAIN}"), format!("svc.{CLUSTER_DOMAIN}"), CLUSTER_DOMAIN.to_owned()]
}

/// The pod's `/etc/hosts`.
pub(super) fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let mut hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n".to_owned();
    for address in addresses {
        let _ = writeln!(hosts, "{address} {hostname}");
    }
    let _ = writeln!(hosts, "{CONTROL} {CONTROL_HOST}");
    hosts
}
