//! PeerAuthentication: which connections a workload takes. <https://istio.io/latest/docs/reference/config/security/peer_authentication/>

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::WorkloadSelector;
use crate::codes::Code;
use crate::schema::Check::{EachKey, Entries};
use crate::schema::{Cursor, Decode, Shape};

record! {
    /// The spec of a PeerAuthentication. Without selector it applies to its namespace, in the root namespace to the mesh.
    pub struct PeerAuthentication {
        /// Workloads it applies to. Absent and empty are the same.
        selector: Option<WorkloadSelector> = "selector";
        /// For all ports; absent inherits.
        mtls: Option<MutualTls> = "mtls";
        /// For single ports of the workload; absent ports follow `mtls`.
        port_level_mtls: Option<PortLevelMtls> = "portLevelMtls" [
            Entries(1, usize::MAX),
            EachKey("a port between 1 and 65535", is_port, "key.matches('^[+]?[0-9]+$') && 0 < int(key) && int(key) <= 65535"),
        ];
    }
    verify ports_need_a_selector;
    cel ["!has(self.portLevelMtls) || (has(self.selector) && has(self.selector.matchLabels) && self.selector.matchLabels.size() > 0)", "`portLevelMtls` requires a selector with labels"];
}

record! {
    /// A mode.
    pub struct MutualTls {
        /// Absent is UNSET.
        mode: MutualTlsMode = "mode" or MutualTlsMode::Unset;
    }
}

choice! {
    /// Which connections are taken.
    pub enum MutualTlsMode {
        /// What the next wider policy says; PERMISSIVE if none does.
        Unset = "UNSET",
        /// Plaintext; TLS is not terminated.
        Disable = "DISABLE",
        /// Both.
        Permissive = "PERMISSIVE",
        /// mTLS only.
        Strict = "STRICT",
    }
}

/// Modes by port of the workload, 1 to 65535.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortLevelMtls(pub BTreeMap<u16, MutualTls>);

impl Decode for PortLevelMtls {
    fn shape() -> Shape {
        Shape::Map(MutualTls::shape)
    }

    fn decode(value: &Value, cursor: &mut Cursor<'_>) -> Option<Self> {
        let by_text: BTreeMap<String, MutualTls> = Decode::decode(value, cursor)?;
        let by_port: Vec<Option<(u16, MutualTls)>> = by_text
            .into_iter()
            .map(|(text, mode)| match text.parse::<u16>() {
                Ok(port) if port > 0 => Some((port, mode)),
                _ => {
                    cursor.report_at(
                        text.as_str(),
                        Code::OutOfRange,
                        format!("`{text}` is not a port between 1 and 65535"),
                    );
                    None
                }
            })
            .collect();
        by_port.into_iter().collect::<Option<_>>().map(Self)
    }
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn ports_need_a_selector(policy: &PeerAuthentication, cursor: &mut Cursor<'_>) {
    let selects = policy.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty());
    if policy.port_level_mtls.is_some() && !selects {
        cursor.report_at("portLevelMtls", Code::InvalidCombination, "`portLevelMtls` requires a selector with labels");
    }
}
