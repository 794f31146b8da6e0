//! ServiceEntry: a service that Kubernetes does not know. <https://istio.io/latest/docs/reference/config/networking/service-entry/>

use super::{LabelSelector, WorkloadEntry};
use crate::codes::Code;
use crate::schema::Check::{Each, Items, Range, Rule, Unique};
use crate::schema::Cursor;
use crate::schema::formats::up_to;

record! {
    /// The spec of a ServiceEntry.
    pub struct ServiceEntry {
        /// Host names, perhaps with a wildcard.
        hosts: Vec<String> = "hosts" [Items(1, 256), Each(&[Rule("a host other than `*`", |host| host != "*", "self != '*'")])] or_required;
        /// Virtual addresses or CIDRs; empty lets one be assigned.
        addresses: Vec<String> = "addresses" [Items(0, 256), Each(&[up_to(64)])];
        /// Ports of the service.
        ports: Vec<ServicePort> = "ports" [Items(0, 256), Unique(&["name"]), Unique(&["number"])];
        /// Absent is outside the mesh.
        location: Location = "location" or Location::MeshExternal;
        /// How endpoints are found; absent is NONE.
        resolution: Resolution = "resolution" or Resolution::None;
        /// The endpoints; absent differs from empty when a selector is given.
        endpoints: Option<Vec<WorkloadEntry>> = "endpoints" [Items(0, 4096)];
        /// Endpoints are the WorkloadEntries and pods with these labels, in the same namespace.
        workload_selector: Option<LabelSelector> = "workloadSelector";
        /// Namespaces that see it: `*`, `.`, `~`, or names. Empty: the mesh's default.
        export_to: Vec<String> = "exportTo";
        /// Names of which the server certificate must carry one.
        subject_alt_names: Vec<String> = "subjectAltNames";
    }
    at_most_one ["workloadSelector", "endpoints"];
    verify verify;
    cel ["!has(self.addresses) || !self.addresses.exists(address, address.contains('/')) || (has(self.resolution) ? self.resolution : 'NONE') in ['NONE', 'STATIC']", "CIDR addresses need resolution NONE or STATIC"],
        ["!has(self.endpoints) || (has(self.resolution) ? self.resolution : 'NONE') != 'NONE'", "resolution NONE cannot have endpoints"],
        ["!has(self.endpoints) || self.endpoints.size() <= 1 || !has(self.resolution) || self.resolution != 'DNS_ROUND_ROBIN'", "resolution DNS_ROUND_ROBIN takes one endpoint"];
}

record! {
    /// A port of a ServiceEntry.
    pub struct ServicePort {
        /// The port that clients dial.
        number: u32 = "number" [Range(1, 65535)];
        /// HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP or TLS; empty is detected.
        protocol: String = "protocol" [up_to(256)] or String::new();
        /// Unique in its ServiceEntry.
        name: String = "name" [up_to(256)];
        /// The endpoints' port; absent is the same.
        target_port: Option<u32> = "targetPort" [Range(1, 65535)];
    }
}

choice! {
    /// Whether a service is part of the mesh.
    pub enum Location {
        /// Outside: no mesh TLS.
        MeshExternal = "MESH_EXTERNAL",
        /// Inside.
        MeshInternal = "MESH_INTERNAL",
    }
}

choice! {
    /// How the endpoints of a ServiceEntry are found.
    pub enum Resolution {
        /// The address that the client dialled.
        None = "NONE",
        /// The endpoints as written.
        Static = "STATIC",
        /// All addresses of the host names.
        Dns = "DNS",
        /// One address of the host name at a time.
        DnsRoundRobin = "DNS_ROUND_ROBIN",
        /// The host that the request names.
        DynamicDns = "DYNAMIC_DNS",
    }
}

fn verify(entry: &ServiceEntry, cursor: &mut Cursor<'_>) {
    let endpoints = entry.endpoints.as_ref();
    if entry.addresses.iter().any(|address| address.contains('/'))
        && !matches!(entry.resolution, Resolution::Static | Resolution::None)
    {
        cursor.report_at("addresses", Code::InvalidCombination, "CIDR addresses need resolution NONE or STATIC");
    }
    if entry.resolution == Resolution::None && endpoints.is_some() {
        cursor.report_at("endpoints", Code::InvalidCombination, "resolution NONE cannot have endpoints");
    }
    if entry.resolution == Resolution::DnsRoundRobin && endpoints.is_some_and(|endpoints| endpoints.len() > 1) {
        cursor.report_at("endpoints", Code::InvalidCombination, "resolution DNS_ROUND_ROBIN takes one endpoint");
    }
}
