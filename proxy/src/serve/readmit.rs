//! Judging an open connection by the settings that are in force now, before it carries another request.

use std::sync::Arc;

use rustls_pki_types::UnixTime;

use crate::tls::{IdentityStore, PeerCertificate, mesh_treatment};

use super::{
    admit::{GatewayPort, GatewayServer, GatewayTls, RefusalCause},
    decide::{DeclaredProtocol, MtlsMode, Refusal},
    downstream::{DownstreamTls, TlsFacts, VerifiedBy},
};

/// Whether a sidecar's inbound connection would be admitted now, given the port's present mode. Tells what vouches for the
/// caller now; `verified` is what did so the last time.
///
/// A caller is verified again only when another identity is in force than the one that judged it last (its roots or trust
/// domains may differ); an unchanged generation leaves the certificate's period alone, as TLS does.
///
/// # Errors
/// Says why not: close the connection.
pub fn readmit_mesh(
    tls: &DownstreamTls,
    verified: Option<&VerifiedBy>,
    mode: MtlsMode,
    declared: DeclaredProtocol,
    identities: &IdentityStore,
    now: UnixTime,
) -> Result<Option<VerifiedBy>, RefusalCause> {
    match (mode, tls) {
        (MtlsMode::Strict | MtlsMode::Permissive, DownstreamTls::Mesh(facts)) => {
            recheck(facts, verified, identities, now).map(Some)
        }
        (MtlsMode::Strict, DownstreamTls::Plaintext | DownstreamTls::Passthrough(_)) => Err(Refusal::Plaintext.into()),
        (MtlsMode::Permissive, DownstreamTls::Passthrough(_)) if declared == DeclaredProtocol::Http => {
            Err(Refusal::ForeignTls.into())
        }
        (MtlsMode::Permissive, DownstreamTls::Plaintext | DownstreamTls::Passthrough(_)) => Ok(None),
        (MtlsMode::Disable, DownstreamTls::Plaintext | DownstreamTls::Passthrough(_)) => Ok(None),
        // Mesh TLS where it is no longer terminated; user TLS, which sidecars never terminate.
        (MtlsMode::Disable, DownstreamTls::Mesh(_)) | (_, DownstreamTls::Terminated(_)) => Err(RefusalCause::Changed),
    }
}

/// Whether a gateway's connection would be admitted now: its server name still leads to the server called `server`,
/// which does the same with TLS, and the client would pass its present settings. Tells what vouches for the client now;
/// `verified` is what did so the last time: it is not asked again.
///
/// # Errors
/// Says why not: close the connection.
pub fn readmit_gateway(
    tls: &DownstreamTls,
    verified: Option<&VerifiedBy>,
    server: Option<&str>,
    port: &GatewayPort,
    identities: &IdentityStore,
    now: UnixTime,
) -> Result<Option<VerifiedBy>, RefusalCause> {
    let Some(servers) = &port.tls else {
        return if matches!(tls, DownstreamTls::Plaintext) { Ok(None) } else { Err(RefusalCause::Changed) };
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
            let is_judge =
                |by: &VerifiedBy| matches!(by, VerifiedBy::Termination(judge) if Arc::ptr_eq(judge, termination));
            if !verified.is_some_and(is_judge) {
                termination.verify_client(facts.handshake.peer.as_ref(), now).map_err(RefusalCause::Client)?;
            }
            Ok(Some(VerifiedBy::Termination(Arc::clone(termination))))
        }
        (GatewayTls::Mesh, DownstreamTls::Mesh(facts)) => recheck(facts, verified, identities, now).map(Some),
        (GatewayTls::Passthrough, DownstreamTls::Passthrough(_)) => Ok(None),
        (GatewayTls::AutoPassthrough, DownstreamTls::Passthrough(hello)) => {
            if mesh_treatment(&hello.alpn).is_some() {
                Ok(None)
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

fn recheck(
    facts: &TlsFacts,
    verified: Option<&VerifiedBy>,
    identities: &IdentityStore,
    now: UnixTime,
) -> Result<VerifiedBy, RefusalCause> {
    let identity = identities.current().ok_or(RefusalCause::NoIdentity)?;
    let present = identity.generation();
    if !matches!(verified, Some(VerifiedBy::Identity(last)) if *last == present) {
        let nobody = || RefusalCause::Client(crate::tls::InvalidPeer::Missing.into());
        let caller: &PeerCertificate = facts.handshake.peer.as_ref().ok_or_else(nobody)?;
        identity.verify_caller(caller, now).map_err(RefusalCause::Client)?;
    }
    Ok(VerifiedBy::Identity(present))
}

#[cfg(test)]
mod tests;
