//! What to do with an inbound connection: PeerAuthentication mode × declared protocol × first bytes, as Istio's inbound
//! filter chains do it. Pure.

use crate::tls::{ClientHello, MeshProtocol, MeshTreatment, mesh_treatment};

use super::sniff::Sniffed;

/// PeerAuthentication's effective mode on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MtlsMode {
    /// Mesh TLS only.
    Strict,
    /// Mesh TLS, plaintext, and the application's own TLS.
    Permissive,
    /// TLS is never terminated.
    Disable,
}

/// What the Service says about a port (port name prefix or `appProtocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeclaredProtocol {
    /// HTTP, HTTP/2, gRPC.
    Http,
    /// TCP, TLS, HTTPS, databases: opaque bytes.
    Tcp,
    /// Nothing declared: detected.
    Auto,
}

/// What the connection carries once it is plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payload {
    /// HTTP/1, or bytes on a declared HTTP port that are not HTTP: the HTTP session answers those 400.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Opaque bytes.
    Opaque,
}

/// What becomes of an inbound connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Serve the bytes as they are.
    Plaintext(Payload),
    /// Terminate mesh TLS, client certificate required.
    TerminateMesh(MeshProtocol),
    /// The application's own TLS: relay it unread.
    Passthrough,
    /// Reset the connection. Reason `peer-refused`, except for a client that has gone.
    Refuse(Refusal),
}

/// Why an inbound connection is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// STRICT, and the bytes are not TLS (or there were none in time).
    #[error("plaintext where mutual TLS is required")]
    Plaintext,
    /// STRICT, and what began as TLS is no ClientHello.
    #[error("a malformed TLS ClientHello where mutual TLS is required")]
    InvalidTls,
    /// PERMISSIVE on a declared HTTP port: TLS that is not the mesh's finds no chain.
    #[error("TLS without a mesh ALPN name on a port that is declared HTTP")]
    ForeignTls,
    /// The client closed before it said anything.
    #[error("the client closed before it said anything")]
    Closed,
}

/// Decides as istio-semantics describes for PeerAuthentication (inbound filter chains of Istio 1.30).
///
/// Under `Disable` TLS is not inspected: its bytes are relayed, or are bad HTTP on a declared HTTP port. Where TLS is
/// inspected, the client's offer alone decides, in the client's order; what the bytes inside turn out to be does not.
pub fn decide(mode: MtlsMode, declared: DeclaredProtocol, sniffed: &Sniffed) -> Treatment {
    if matches!(sniffed, Sniffed::Closed) {
        return Treatment::Refuse(Refusal::Closed);
    }
    match (mode, sniffed) {
        (MtlsMode::Strict, Sniffed::Tls(hello)) => Treatment::TerminateMesh(strict_protocol(declared, hello)),
        (MtlsMode::Strict, Sniffed::InvalidTls(_)) => Treatment::Refuse(Refusal::InvalidTls),
        (MtlsMode::Strict, _) => Treatment::Refuse(Refusal::Plaintext),
        (MtlsMode::Permissive, Sniffed::Tls(hello)) => permissive_tls(declared, hello),
        (MtlsMode::Disable, Sniffed::Tls(_)) if declared != DeclaredProtocol::Http => Treatment::Passthrough,
        (MtlsMode::Permissive | MtlsMode::Disable, _) => Treatment::Plaintext(payload(declared, sniffed)),
    }
}

/// STRICT has one chain for declared protocols. For detected ones any HTTP name in the offer means HTTP, because the
/// other chain asks for no name.
fn strict_protocol(declared: DeclaredProtocol, hello: &ClientHello) -> MeshProtocol {
    let says_http = || hello.alpn.iter().any(|name| mesh_treatment(&[name]) == Some(MeshTreatment::Http));
    match declared {
        DeclaredProtocol::Http => MeshProtocol::Http,
        DeclaredProtocol::Auto if says_http() => MeshProtocol::Http,
        DeclaredProtocol::Tcp | DeclaredProtocol::Auto => MeshProtocol::Tcp,
    }
}

fn permissive_tls(declared: DeclaredProtocol, hello: &ClientHello) -> Treatment {
    match (declared, mesh_treatment(&hello.alpn)) {
        (DeclaredProtocol::Http, None) => Treatment::Refuse(Refusal::ForeignTls),
        (DeclaredProtocol::Tcp | DeclaredProtocol::Auto, None) => Treatment::Passthrough,
        (DeclaredProtocol::Http, Some(_)) | (DeclaredProtocol::Auto, Some(MeshTreatment::Http)) => {
            Treatment::TerminateMesh(MeshProtocol::Http)
        }
        (DeclaredProtocol::Tcp, Some(_)) | (DeclaredProtocol::Auto, Some(MeshTreatment::Tcp)) => {
            Treatment::TerminateMesh(MeshProtocol::Tcp)
        }
    }
}

/// What plaintext bytes are taken for. Silence on a port that is not declared HTTP is a server that speaks first.
pub fn payload(declared: DeclaredProtocol, sniffed: &Sniffed) -> Payload {
    match (declared, sniffed) {
        (DeclaredProtocol::Tcp, _) => Payload::Opaque,
        (_, Sniffed::Http2) => Payload::Http2,
        (DeclaredProtocol::Http, _) | (DeclaredProtocol::Auto, Sniffed::Http1) => Payload::Http1,
        (DeclaredProtocol::Auto, _) => Payload::Opaque,
    }
}

#[cfg(test)]
mod tests;
