//! Judging an open connection by the settings that are in force now, before it carries another request.

use std::sync::Arc;

use rustls_pki_types::UnixTime;

use crate::tls::{IdentityStore, PeerCertificate, mesh_treatment};

use super::{
    admit::{GatewayPort, GatewayServer, GatewayTls, RefusalCause},
    decide::{DeclaredProtocol, MtlsMode, Refusal},
    downstream::{DownstreamTls, TlsFacts},
};

/// Whether a sidecar's inbound connection would be admitted now, given the port's present mode.
///
/// A caller is verified again only when another identity is in force than the one that answered it (its roots or trust
/// domains may differ); an unchanged generation leaves the certificate's period alone, as TLS does.
///
/// # Errors
/// Says why not: close the connection.
pub fn readmit_mesh(
    tls: &DownstreamTls,
    mode: MtlsMode,
    declared: DeclaredProtocol,
    identities: &IdentityStore,
    now: UnixTime,
) -> Result<(), RefusalCause> {
    match (mode, tls) {
        (MtlsMode::Strict | MtlsMode::Permissive, DownstreamTls::Mesh(facts)) => recheck(facts, identities, now),
        (MtlsMode::Strict, DownstreamTls::Plaintext | DownstreamTls::Passthrough(_)) => Err(Refusal::Plaintext.into()),
        (MtlsMode::Permissive, DownstreamTls::Passthrough(_)) if declared == DeclaredProtocol::Http => {
            Err(Refusal::ForeignTls.into())
        }
        (MtlsMode::Permissive, DownstreamTls::Plaintext | DownstreamTls::Passthrough(_)) => Ok(()),
        (MtlsMode::Disable, DownstreamTls::Plaintext | DownstreamTls::Passthrough(_)) => Ok(()),
        // Mesh TLS where it is no longer terminated; user TLS, which sidecars never terminate.
        (MtlsMode::Disable, DownstreamTls::Mesh(_)) | (_, DownstreamTls::Terminated(_)) => Err(RefusalCause::Changed),
    }
}

/// Whether a gateway's connection would be admitted now: its server name still leads to the server called `server`,
/// which does the same with TLS, and the client would pass its present settings.
///
/// # Errors
/// Says why not: close the connection.
pub fn readmit_gateway(
    tls: &DownstreamTls,
    server: Option<&str>,
    port: &GatewayPort,
    identities: &IdentityStore,
    now: UnixTime,
) -> Result<(), RefusalCause> {
    let Some(servers) = &port.tls else {
        return if matches!(tls, DownstreamTls::Plaintext) { Ok(()) } else { Err(RefusalCause::Changed) };
    };
    if matches!(tls, DownstreamTls::Plaintext) {
        return Err(RefusalCause::NotTls);
    }
    let server_name = tls.server_name();
    let Some(GatewayServer { name, tls: present, payload: _ }) = servers.get(server_name.map(AsRef::as_ref)) else {
        return Err(RefusalCause::NoServer(server_name.cloned()));
    };
    if server != Some(name.as_ref()) {
        return Err(RefusalCause::NoServer(server_name.cloned()));
    }
    match (present, tls) {
        (GatewayTls::Unavailable, _) => Err(RefusalCause::NoCertificate(Arc::clone(name))),
        (GatewayTls::Terminate(termination), DownstreamTls::Terminated(facts)) => {
            termination.verify_client(facts.handshake.peer.as_ref(), now).map_err(RefusalCause::Client)
        }
        (GatewayTls::Mesh, DownstreamTls::Mesh(facts)) => recheck(facts, identities, now),
        (GatewayTls::Passthrough, DownstreamTls::Passthrough(_)) => Ok(()),
        (GatewayTls::AutoPassthrough, DownstreamTls::Passthrough(hello)) => {
            if mesh_treatment(&hello.alpn).is_some() {
                Ok(())
            } else {
                Err(RefusalCause::NotMesh(Arc::clone(name)))
            }
        }
        (
            GatewayTls::Terminate(_) | GatewayTls::Mesh | GatewayTls::Passthrough | GatewayTls::AutoPassthrough,
            DownstreamTls::Plaintext
            | DownstreamTls::Mesh(_)
            | DownstreamTls::Terminated(_)
            | DownstreamTls::Passthrough(_),
        ) => Err(RefusalCause::Changed),
    }
}

fn recheck(facts: &TlsFacts, identities: &IdentityStore, now: UnixTime) -> Result<(), RefusalCause> {
    let identity = identities.current().ok_or(RefusalCause::NoIdentity)?;
    if facts.generation == Some(identity.generation()) {
        return Ok(());
    }
    let nobody = || RefusalCause::Client(crate::tls::InvalidPeer::Missing.into());
    let caller: &PeerCertificate = facts.handshake.peer.as_ref().ok_or_else(nobody)?;
    identity.verify_caller(caller, now).map_err(RefusalCause::Client)
}

#[cfg(test)]
mod tests;
