//! The parts of `/etc/resolv.conf` that matter here.

use std::net::IpAddr;

/// Name servers and search domains, in the file's order. Lines that cannot be read are skipped, as every resolver does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvConf {
    pub servers: Vec<IpAddr>,
    /// Lower-case, without the last dot.
    pub search: Vec<String>,
}

impl ResolvConf {
    /// Reads the file's text. The last `search` or `domain` line wins, as in glibc.
    pub fn parse(text: &str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                // A zone, as in `fe80::1%eth0`, has no place in an address that rules are made of.
                Some("nameserver") => {
                    parsed.servers.extend(words.next().and_then(|server| server.parse::<IpAddr>().ok()))
                }
                Some("search" | "domain") => {
                    parsed.search = words
                        .map(|domain| domain.trim_end_matches('.').to_ascii_lowercase())
                        .filter(|domain| !domain.is_empty())
                        .collect();
                }
                _ => {}
            }
        }
        parsed
    }
}
