//! WorkloadEntry: a workload that is no pod. <https://istio.io/latest/docs/reference/config/networking/workload-entry/>

use std::collections::BTreeMap;

use crate::codes::Code;
use crate::schema::Check::{Each, EachKey, Entries, Range, Rule};
use crate::schema::Cursor;
use crate::schema::formats::{is_port_name, up_to};

record! {
    /// The spec of a WorkloadEntry, and an endpoint of a ServiceEntry.
    pub struct WorkloadEntry {
        /// IP address, host name, or `unix://` path. May be left out if a network is given.
        address: Option<String> = "address" [
            up_to(256),
            Rule("a unix:// address with an absolute path or abstract name", is_socket_or_other, SOCKET_RULE),
        ];
        /// Port numbers by port name of the service; a port not listed keeps its own number.
        ports: BTreeMap<String, u32> = "ports" [Entries(0, 128), EachKey("a port name", is_port_name, PORT_NAME_RULE), Each(&[Range(1, 65535)])];
        /// Labels of the workload.
        labels: BTreeMap<String, String> = "labels" [Entries(0, 256)];
        /// Endpoints of one network reach each other directly.
        network: Option<String> = "network" [up_to(2048)];
        /// `region/zone/subzone`.
        locality: String = "locality" [up_to(2048)] or String::new();
        /// Share among the endpoints; 0 counts as 1.
        weight: u32 = "weight" or 0;
        /// Names the workload's identity, in the entry's namespace.
        service_account: String = "serviceAccount" [up_to(253)] or String::new();
    }
    verify verify;
    cel ["has(self.address) || has(self.network)", "`address` is required unless `network` is given"],
        ["!has(self.ports) || self.ports.size() == 0 || !has(self.address) || !self.address.startsWith('unix://')", "an address on a unix socket has no ports"];
}

pub(super) const PORT_NAME_RULE: &str = "key.size() < 63 && key.matches('^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$')";
pub(super) const SOCKET_RULE: &str =
    "!self.startsWith('unix://') || (self.size() > 7 && self.substring(7, 8) in ['/', '@'] && !self.endsWith('/'))";

fn verify(entry: &WorkloadEntry, cursor: &mut Cursor<'_>) {
    if entry.address.is_none() && entry.network.is_none() {
        cursor.report(Code::InvalidCombination, "`address` is required unless `network` is given");
    }
    socket_has_no_ports(entry.address.as_deref(), !entry.ports.is_empty(), cursor);
}

pub(super) fn socket_has_no_ports(address: Option<&str>, has_ports: bool, cursor: &mut Cursor<'_>) {
    if has_ports && address.is_some_and(|address| address.starts_with("unix://")) {
        cursor.report_at("ports", Code::InvalidCombination, "an address on a unix socket has no ports");
    }
}

pub(super) fn is_socket_or_other(address: &str) -> bool {
    address
        .strip_prefix("unix://")
        .is_none_or(|path| (path.starts_with('/') || path.starts_with('@')) && !address.ends_with('/'))
}
