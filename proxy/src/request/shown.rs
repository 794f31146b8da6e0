//! What a connection's requests say of it upstream and in the log, made once and not for each of them.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use http::HeaderValue;

use super::facts::ClientCertificate;

/// Texts about one connection under one configuration.
#[derive(Debug)]
pub(super) struct Shown {
    caller: Arc<str>,
    peer: Option<HeaderValue>,
    certificate: OnceLock<Option<HeaderValue>>,
}

impl Shown {
    /// Of the peer at this address; `uri` is the name that the handshake proved.
    pub(super) fn new(peer: IpAddr, uri: Option<&str>) -> Self {
        let peer = peer.to_canonical().to_string();
        Self {
            caller: uri.unwrap_or(&peer).into(),
            peer: HeaderValue::try_from(peer).ok(),
            certificate: OnceLock::new(),
        }
    }

    /// Who called, for logs: the name that the handshake proved, else the peer's address.
    pub(super) fn caller(&self) -> &Arc<str> {
        &self.caller
    }

    /// The peer's address as a header's value; `None` never happens, for addresses are ASCII.
    pub(super) fn peer(&self) -> Option<&HeaderValue> {
        self.peer.as_ref()
    }

    /// The client certificate's element of `x-forwarded-client-cert`. `None`: a name in it holds what no header may.
    pub(super) fn certificate(&self, own: impl FnOnce() -> String, of: &ClientCertificate) -> Option<&HeaderValue> {
        self.certificate.get_or_init(|| HeaderValue::try_from(element(&own(), of)).ok()).as_ref()
    }
}

/// One element of `x-forwarded-client-cert`, in Envoy's form and order.
fn element(own: &str, certificate: &ClientCertificate) -> String {
    let ClientCertificate { names, trust: _, fingerprint } = certificate;
    let mut element = format!("By={own}");
    if let Some(fingerprint) = fingerprint {
        element.push_str(&format!(";Hash={fingerprint}"));
    }
    element.push_str(&format!(";Subject=\"{}\"", names.subject.replace('\\', "\\\\").replace('"', "\\\"")));
    for uri in &names.uris {
        element.push_str(&format!(";URI={uri}"));
    }
    for name in &names.dns {
        element.push_str(&format!(";DNS={name}"));
    }
    element
}
