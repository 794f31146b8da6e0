//! The rules as one nftables script.

use std::collections::BTreeSet;
use std::fmt::{Display, Write};
use std::net::IpAddr;

use super::{
    DNS_PORT, DnsCapture, HBONE_PORT, INBOUND_PORT, InboundPorts, IpFamily, OUTBOUND_PORT, OutboundRanges,
    PROXY_INBOUND_PORTS, ProxyOwner, Redirect,
};

/// The one table that the rules live in.
const TABLE: &str = "inet palisade_redirect";

/// A script for `nft -f -`: one transaction that replaces the rules of an earlier run, whole or not at all.
pub fn nft_script(redirect: &Redirect) -> String {
    let Redirect { owner, inbound, outbound, dns, excluded_interfaces, virtual_interfaces } = redirect;
    let mut script = Script::default();
    script.line(0, format_args!("add table {TABLE}"));
    script.line(0, format_args!("delete table {TABLE}"));
    script.line(0, format_args!("table {TABLE} {{"));

    script.line(1, "chain prerouting {");
    script.line(2, "type nat hook prerouting priority dstnat; policy accept;");
    if let Some(names) = interfaces(excluded_interfaces) {
        script.line(2, format_args!("iifname {names} return"));
    }
    if let Some(names) = interfaces(virtual_interfaces) {
        redirect_included(&mut script, &format!("iifname {names} "), &outbound.included);
        script.line(2, format_args!("iifname {names} return"));
    }
    script.line(2, format_args!("tcp dport {HBONE_PORT} return"));
    match inbound {
        InboundPorts::AllExcept(ports) => {
            let ports: BTreeSet<u16> = ports.iter().copied().chain(PROXY_INBOUND_PORTS).collect();
            script.set(2, "tcp dport", &ports, "return");
            script.line(2, format_args!("meta l4proto tcp redirect to :{INBOUND_PORT}"));
        }
        InboundPorts::Only(ports) => script.set(2, "tcp dport", ports, format_args!("redirect to :{INBOUND_PORT}")),
    }
    script.line(1, "}");

    script.line(1, "chain output {");
    script.line(2, "type nat hook output priority -100; policy accept;");
    if let Some(names) = interfaces(excluded_interfaces) {
        script.line(2, format_args!("oifname {names} return"));
    }
    // Before anything else: connections of the proxy to its own pod are no exception.
    script.set(2, "meta l4proto { tcp, udp } th dport", &outbound.excluded_ports, "return");
    for family in IpFamily::BOTH {
        script.line(2, format_args!("oifname \"lo\" {} saddr {} return", ip(family), family.inbound_source()));
    }
    for (is_proxy, is_other) in owners(*owner) {
        let not_own = if dns.is_some() { format!("!= {{ 53, {HBONE_PORT} }}") } else { format!("!= {HBONE_PORT}") };
        for family in IpFamily::BOTH {
            script.line(
                2,
                format_args!(
                    "oifname \"lo\" {} daddr != {} tcp dport {not_own} {is_proxy} redirect to :{INBOUND_PORT}",
                    ip(family),
                    family.loopback()
                ),
            );
        }
        // An address of loopback that is to be included means all of the pod's own, as in Istio.
        if !outbound.included.has_loopback() {
            // With DNS capture a query to a resolver on loopback still has to reach the rules below.
            let direct = if dns.is_some() { "tcp dport != 53 " } else { "" };
            script.line(2, format_args!("oifname \"lo\" {direct}{is_other} return"));
        }
        script.line(2, format_args!("{is_proxy} return"));
    }
    if let Some(dns) = dns {
        for destination in servers(dns, "daddr") {
            script
                .line(2, format_args!("{destination}meta l4proto {{ tcp, udp }} th dport 53 redirect to :{DNS_PORT}"));
        }
    }
    for family in IpFamily::BOTH {
        script.line(2, format_args!("{} daddr {} return", ip(family), family.loopback()));
    }
    for family in IpFamily::BOTH {
        let ranges = outbound.excluded_ranges.iter().filter(|range| range.family() == family).collect::<Vec<_>>();
        script.set(2, format_args!("{} daddr", ip(family)), ranges, "return");
    }
    script.set(2, "tcp dport", &outbound.included_ports, format_args!("redirect to :{OUTBOUND_PORT}"));
    redirect_included(&mut script, "", &outbound.included);
    script.line(1, "}");

    if let Some(dns) = dns {
        write_zones(&mut script, *owner, dns);
    }
    script.line(0, "}");
    script.text
}

/// What is to be included goes to the outbound proxy, of packets that `of` matches.
fn redirect_included(script: &mut Script, of: &str, included: &OutboundRanges) {
    let verdict = format!("meta l4proto tcp redirect to :{OUTBOUND_PORT}");
    match included {
        OutboundRanges::All => script.line(2, format_args!("{of}{verdict}")),
        OutboundRanges::Only(ranges) => {
            for family in IpFamily::BOTH {
                let ranges = ranges.iter().filter(|range| range.family() == family).collect::<Vec<_>>();
                script.set(2, format_args!("{of}{} daddr", ip(family)), ranges, &verdict);
            }
        }
    }
}

/// The application's query and the one that the proxy sends on its behalf may have equal ports and addresses; separate
/// connection tracking zones keep their answers apart.
fn write_zones(script: &mut Script, owner: ProxyOwner, dns: &DnsCapture) {
    script.line(1, "chain raw_output {");
    script.line(2, "type filter hook output priority raw; policy accept;");
    for (is_proxy, _) in owners(owner) {
        script.line(2, format_args!("{is_proxy} udp dport 53 ct zone set 1 return"));
        script.line(2, format_args!("{is_proxy} udp sport {DNS_PORT} ct zone set 2 return"));
    }
    for destination in servers(dns, "daddr") {
        script.line(2, format_args!("{destination}udp dport 53 ct zone set 2 return"));
    }
    script.line(1, "}");
    script.line(1, "chain raw_prerouting {");
    script.line(2, "type filter hook prerouting priority raw; policy accept;");
    for source in servers(dns, "saddr") {
        script.line(2, format_args!("iifname != \"lo\" {source}udp sport 53 ct zone set 1 return"));
    }
    script.line(1, "}");
}

/// Matches of the proxy's packets, and of all others, by each way to recognise them.
fn owners(owner: ProxyOwner) -> Vec<(String, String)> {
    match owner {
        ProxyOwner::Ids { uid, gid } => vec![
            (format!("meta skuid {uid}"), format!("meta skuid != {uid}")),
            (format!("meta skgid {gid}"), format!("meta skgid != {gid}")),
        ],
        ProxyOwner::Mark(mark) => vec![(format!("meta mark {mark:#x}"), format!("meta mark != {mark:#x}"))],
    }
}

/// One match, with a trailing space, per family that has servers.
fn servers(dns: &DnsCapture, direction: &str) -> Vec<String> {
    let servers = match dns {
        DnsCapture::All => return vec![String::new()],
        DnsCapture::Servers(servers) => servers,
    };
    let mut matches = Vec::new();
    for family in IpFamily::BOTH {
        let of_family: Vec<&IpAddr> = servers.iter().filter(|server| IpFamily::of(**server) == family).collect();
        if let Some(set) = set(of_family) {
            matches.push(format!("{} {direction} {set} ", ip(family)));
        }
    }
    matches
}

fn ip(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "ip",
        IpFamily::V6 => "ip6",
    }
}

fn interfaces(names: &BTreeSet<String>) -> Option<String> {
    set(names.iter().map(|name| format!("\"{name}\"")))
}

fn set<T: Display>(items: impl IntoIterator<Item = T>) -> Option<String> {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    (!items.is_empty()).then(|| format!("{{ {} }}", items.join(", ")))
}

#[derive(Default)]
struct Script {
    text: String,
}

impl Script {
    fn line(&mut self, indent: usize, line: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{}{line}", "\t".repeat(indent));
    }

    /// One rule over a set of values; none where the set is empty.
    fn set<T: Display>(
        &mut self,
        indent: usize,
        field: impl Display,
        items: impl IntoIterator<Item = T>,
        verdict: impl Display,
    ) {
        if let Some(set) = set(items) {
            self.line(indent, format_args!("{field} {set} {verdict}"));
        }
    }
}
