//! The rules as input for `iptables-restore` and `ip6tables-restore`, where there is no nftables.

use std::fmt::{Display, Write};
use std::net::IpAddr;

use super::{
    DNS_PORT, DnsCapture, HBONE_PORT, INBOUND_PORT, InboundPorts, IpFamily, OUTBOUND_PORT, OutboundRanges,
    PROXY_INBOUND_PORTS, ProxyOwner, Redirect,
};

const INBOUND: &str = "PALISADE_INBOUND";
const OUTPUT: &str = "PALISADE_OUTPUT";
/// In the raw table.
const DNS_OUTPUT: &str = "PALISADE_DNS_OUTPUT";
const DNS_INBOUND: &str = "PALISADE_DNS_INBOUND";

/// Whether an earlier run has already tied our chains to the built-in ones: a second jump would be added, not replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hooked {
    pub nat: bool,
    pub raw: bool,
}

impl Hooked {
    /// Reads what `iptables-save` prints.
    pub fn from_saved(saved: &str) -> Self {
        let has = |rule: String| saved.lines().any(|line| line.trim() == rule);
        Self { nat: has(format!("-A OUTPUT -j {OUTPUT}")), raw: has(format!("-A OUTPUT -j {DNS_OUTPUT}")) }
    }
}

/// The rules of one family, for `iptables-restore --noflush`: the contents of our chains are replaced whole, what others
/// wrote stays.
pub fn restore_script(redirect: &Redirect, family: IpFamily, hooked: Hooked) -> String {
    let Redirect { owner, inbound, outbound, dns, excluded_interfaces, virtual_interfaces } = redirect;
    let mut script = Script::default();
    script.line("*nat");
    script.line(format_args!(":{INBOUND} - [0:0]"));
    script.line(format_args!(":{OUTPUT} - [0:0]"));
    if !hooked.nat {
        script.line(format_args!("-A PREROUTING -p tcp -j {INBOUND}"));
        script.line(format_args!("-A OUTPUT -j {OUTPUT}"));
    }

    for name in excluded_interfaces {
        script.add(INBOUND, format_args!("-i {name} -j RETURN"));
    }
    for name in virtual_interfaces {
        redirect_included(&mut script, INBOUND, &format!("-i {name} "), &outbound.included, family);
        script.add(INBOUND, format_args!("-i {name} -j RETURN"));
    }
    script.add(INBOUND, format_args!("-p tcp --dport {HBONE_PORT} -j RETURN"));
    match inbound {
        InboundPorts::AllExcept(ports) => {
            for port in ports.iter().copied().chain(PROXY_INBOUND_PORTS) {
                script.add(INBOUND, format_args!("-p tcp --dport {port} -j RETURN"));
            }
            script.add(INBOUND, format_args!("-p tcp -j REDIRECT --to-ports {INBOUND_PORT}"));
        }
        InboundPorts::Only(ports) => {
            for port in ports {
                script.add(INBOUND, format_args!("-p tcp --dport {port} -j REDIRECT --to-ports {INBOUND_PORT}"));
            }
        }
    }

    let length = match family {
        IpFamily::V4 => 32,
        IpFamily::V6 => 128,
    };
    let (loopback, source) = (family.loopback(), family.inbound_source());
    for name in excluded_interfaces {
        script.add(OUTPUT, format_args!("-o {name} -j RETURN"));
    }
    for port in &outbound.excluded_ports {
        script.add(OUTPUT, format_args!("-p tcp --dport {port} -j RETURN"));
        script.add(OUTPUT, format_args!("-p udp --dport {port} -j RETURN"));
    }
    script.add(OUTPUT, format_args!("-o lo -s {source}/{length} -j RETURN"));
    for (is_proxy, is_other) in owners(*owner) {
        let not_own = match dns {
            Some(_) => format!("-m multiport ! --dports 53,{HBONE_PORT}"),
            None => format!("! --dport {HBONE_PORT}"),
        };
        script.add(
            OUTPUT,
            format_args!(
                "-o lo ! -d {loopback}/{length} -p tcp {not_own} {is_proxy} -j REDIRECT --to-ports {INBOUND_PORT}"
            ),
        );
        if !outbound.included.has_loopback() {
            let direct = if dns.is_some() { "-p tcp ! --dport 53 " } else { "" };
            script.add(OUTPUT, format_args!("-o lo {direct}{is_other} -j RETURN"));
        }
        script.add(OUTPUT, format_args!("{is_proxy} -j RETURN"));
    }
    if let Some(dns) = dns {
        for destination in servers(dns, family, "-d", length) {
            for protocol in ["tcp", "udp"] {
                let rule = format_args!("-p {protocol} --dport 53 {destination}-j REDIRECT --to-ports {DNS_PORT}");
                script.add(OUTPUT, rule);
            }
        }
    }
    script.add(OUTPUT, format_args!("-d {loopback}/{length} -j RETURN"));
    for range in outbound.excluded_ranges.iter().filter(|range| range.family() == family) {
        script.add(OUTPUT, format_args!("-d {range} -j RETURN"));
    }
    for port in &outbound.included_ports {
        script.add(OUTPUT, format_args!("-p tcp --dport {port} -j REDIRECT --to-ports {OUTBOUND_PORT}"));
    }
    redirect_included(&mut script, OUTPUT, "", &outbound.included, family);
    script.line("COMMIT");
    write_zones(&mut script, *owner, dns.as_ref(), family, hooked);
    script.text
}

fn redirect_included(script: &mut Script, chain: &str, of: &str, included: &OutboundRanges, family: IpFamily) {
    match included {
        OutboundRanges::All => script.add(chain, format_args!("{of}-p tcp -j REDIRECT --to-ports {OUTBOUND_PORT}")),
        OutboundRanges::Only(ranges) => {
            for range in ranges.iter().filter(|range| range.family() == family) {
                script.add(chain, format_args!("{of}-p tcp -d {range} -j REDIRECT --to-ports {OUTBOUND_PORT}"));
            }
        }
    }
}

/// See the nftables twin. Written even without DNS capture, so that an earlier run's zones go.
fn write_zones(script: &mut Script, owner: ProxyOwner, dns: Option<&DnsCapture>, family: IpFamily, hooked: Hooked) {
    if dns.is_none() && !hooked.raw {
        return;
    }
    let length = match family {
        IpFamily::V4 => 32,
        IpFamily::V6 => 128,
    };
    script.line("*raw");
    script.line(format_args!(":{DNS_OUTPUT} - [0:0]"));
    script.line(format_args!(":{DNS_INBOUND} - [0:0]"));
    if !hooked.raw {
        script.line(format_args!("-A PREROUTING -j {DNS_INBOUND}"));
        script.line(format_args!("-A OUTPUT -j {DNS_OUTPUT}"));
    }
    if let Some(dns) = dns {
        for (is_proxy, _) in owners(owner) {
            script.add(DNS_OUTPUT, format_args!("-p udp --dport 53 {is_proxy} -j CT --zone 1"));
            script.add(DNS_OUTPUT, format_args!("-p udp --sport {DNS_PORT} {is_proxy} -j CT --zone 2"));
        }
        // The first zone that is set stays.
        for destination in servers(dns, family, "-d", length) {
            script.add(DNS_OUTPUT, format_args!("-p udp --dport 53 {destination}-j CT --zone 2"));
        }
        for source in servers(dns, family, "-s", length) {
            script.add(DNS_INBOUND, format_args!("! -i lo -p udp --sport 53 {source}-j CT --zone 1"));
        }
    }
    script.line("COMMIT");
}

fn owners(owner: ProxyOwner) -> Vec<(String, String)> {
    match owner {
        ProxyOwner::Ids { uid, gid } => vec![
            (format!("-m owner --uid-owner {uid}"), format!("-m owner ! --uid-owner {uid}")),
            (format!("-m owner --gid-owner {gid}"), format!("-m owner ! --gid-owner {gid}")),
        ],
        ProxyOwner::Mark(mark) => {
            vec![(format!("-m mark --mark {mark:#x}"), format!("-m mark ! --mark {mark:#x}"))]
        }
    }
}

fn servers(dns: &DnsCapture, family: IpFamily, flag: &str, length: u8) -> Vec<String> {
    match dns {
        DnsCapture::All => vec![String::new()],
        DnsCapture::Servers(servers) => servers
            .iter()
            .filter(|server: &&IpAddr| IpFamily::of(**server) == family)
            .map(|server| format!("{flag} {server}/{length} "))
            .collect(),
    }
}

#[derive(Default)]
struct Script {
    text: String,
}

impl Script {
    fn line(&mut self, line: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn add(&mut self, chain: &str, rule: impl Display) {
        self.line(format_args!("-A {chain} {rule}"));
    }
}
