//! What kube-proxy does on a node, in each pod's namespace: a Service's address leads to one of its endpoints.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use super::plan::{ServicePlan, Transport};

/// A script for `nft -f -` that replaces the rules of an earlier one. They come after the sidecar's redirection, and so
/// serve the connections that it leaves alone and the proxy's own.
pub(super) fn nft_script(services: &[ServicePlan]) -> String {
    let mut translations = String::new();
    let mut refusals = String::new();
    for ServicePlan { address, port, transport, endpoints } in services {
        let (family, protocol) = (family(*address), protocol(*transport));
        // Within one family: an IPv4 address cannot lead to an IPv6 one.
        let endpoints: Vec<SocketAddr> =
            endpoints.iter().copied().filter(|endpoint| endpoint.is_ipv4() == address.is_ipv4()).collect();
        let target = match endpoints.as_slice() {
            [] => {
                let refusal = if *transport == Transport::Tcp { "reject with tcp reset" } else { "reject" };
                let _ = writeln!(refusals, "\t\t{family} daddr {address} {protocol} dport {port} {refusal}");
                continue;
            }
            [endpoint] => endpoint.to_string(),
            several => {
                let map: Vec<String> = several
                    .iter()
                    .enumerate()
                    .map(|(index, endpoint)| format!("{index} : {} . {}", endpoint.ip(), endpoint.port()))
                    .collect();
                format!("numgen random mod {} map {{ {} }}", several.len(), map.join(", "))
            }
        };
        let _ =
            writeln!(translations, "\t\t{family} daddr {address} {protocol} dport {port} dnat {family} to {target}");
    }
    format!(
        "add table inet palisade_services\ndelete table inet palisade_services\ntable inet palisade_services {{\n\
         \tchain output {{\n\t\ttype nat hook output priority -90; policy accept;\n{translations}\t}}\n\
         \tchain refuse {{\n\t\ttype filter hook output priority 0; policy accept;\n{refusals}\t}}\n}}\n"
    )
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

fn protocol(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_leads_to_its_endpoints_and_refuses_without_any() {
        let service = |address: &str, endpoints: &[&str]| ServicePlan {
            address: address.parse().unwrap(),
            port: 80,
            transport: Transport::Tcp,
            endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
        };
        let script = nft_script(&[
            service("10.96.0.1", &["10.0.0.1:8080"]),
            service("10.96.0.2", &["10.0.0.1:8080", "10.0.0.2:8081"]),
            service("10.96.0.3", &[]),
            service("fd00::1", &["[fd00::2]:8080", "10.0.0.1:1"]),
        ]);
        for rule in [
            "ip daddr 10.96.0.1 tcp dport 80 dnat ip to 10.0.0.1:8080\n",
            "ip daddr 10.96.0.2 tcp dport 80 dnat ip to numgen random mod 2 map { 0 : 10.0.0.1 . 8080, 1 : 10.0.0.2 . 8081 }\n",
            "ip daddr 10.96.0.3 tcp dport 80 reject with tcp reset\n",
            "ip6 daddr fd00::1 tcp dport 80 dnat ip6 to [fd00::2]:8080\n",
        ] {
            assert!(script.contains(rule), "{rule} is not in\n{script}");
        }
    }
}
