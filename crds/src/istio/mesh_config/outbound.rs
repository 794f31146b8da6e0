//! Traffic to hosts that no document names.

use crate::codes::Code;
use crate::istio::ClientTlsSettings;
use crate::schema::Cursor;

record! {
    /// Traffic to unknown hosts.
    pub struct MeshOutboundTrafficPolicy {
        /// Absent is REGISTRY_ONLY, protobuf's zero value.
        mode: MeshOutboundMode = "mode" or MeshOutboundMode::RegistryOnly;
        /// TLS towards such hosts.
        tls: Option<ClientTlsSettings> = "tls";
    }
    verify what_is_served;
}

fn what_is_served(policy: &MeshOutboundTrafficPolicy, cursor: &mut Cursor<'_>) {
    if policy.tls.is_some() {
        let message = "`tls` is not served: calls to unknown hosts are refused";
        cursor.report_at("tls", Code::FieldRefused, message);
    } else if policy.mode == MeshOutboundMode::AllowAnyDynamicDns {
        let message = "served as ALLOW_ANY: calls go to the address that was dialled, whatever name they carry";
        cursor.report_at("mode", Code::FieldNotServed, message);
    }
}

choice! {
    /// Whether unknown hosts can be reached.
    pub enum MeshOutboundMode {
        /// No.
        RegistryOnly = "REGISTRY_ONLY",
        /// Yes, at the address that the client dialled.
        AllowAny = "ALLOW_ANY",
        /// Yes, at the address of the name that the request carries.
        AllowAnyDynamicDns = "ALLOW_ANY_DYNAMIC_DNS",
    }
}
