//! The application protocol names that Istio's sidecars offer and answer, and what an offer says about the traffic.

/// What a mesh client offers, by what it is about to send. Exactly Istio's lists, so that either side may be an Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlpnOffer {
    /// HTTP/1.1 requests: `istio-http/1.1,istio,http/1.1`.
    Http1,
    /// HTTP/2 requests: `istio-h2,istio,h2`. Between Palisade sidecars too.
    Http2,
    /// Opaque bytes: `istio-peer-exchange,istio`.
    Tcp,
}

/// What the first recognised name of a mesh offer says about the bytes inside the TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeshTreatment {
    /// `istio-http/1.0`, `istio-http/1.1` or `istio-h2`: the client recognised HTTP.
    Http,
    /// `istio` or `istio-peer-exchange`: the client sends bytes it did not recognise.
    Tcp,
}

/// What a mesh server answers on a port that carries HTTP, most preferred first.
pub const HTTP_ANSWERS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// What a mesh server answers on a port that carries opaque bytes, most preferred first.
pub const TCP_ANSWERS: [&[u8]; 3] = [b"istio-peer-exchange", b"h2", b"http/1.1"];

impl AlpnOffer {
    /// The names offered, in the order in which they go out.
    pub const fn protocols(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[b"istio-http/1.1", b"istio", b"http/1.1"],
            Self::Http2 => &[b"istio-h2", b"istio", b"h2"],
            Self::Tcp => &[b"istio-peer-exchange", b"istio"],
        }
    }
}

/// What the client's offer says: the first Istio name in the client's own order decides, as Envoy's filter chain match
/// does. `None`: no Istio name is offered, so this is the application's own TLS.
pub fn mesh_treatment<T: AsRef<[u8]>>(offer: &[T]) -> Option<MeshTreatment> {
    offer.iter().find_map(|name| match name.as_ref() {
        b"istio-http/1.0" | b"istio-http/1.1" | b"istio-h2" => Some(MeshTreatment::Http),
        b"istio" | b"istio-peer-exchange" => Some(MeshTreatment::Tcp),
        _ => None,
    })
}

/// Whether server and client share a name. No offer at all counts as shared: then nothing is negotiated.
///
/// rustls refuses a handshake without a shared name; Envoy goes on without one. Where this is false, a configuration
/// without ALPN must be used to behave as Envoy does.
pub(crate) fn is_negotiable<T: AsRef<[u8]>, U: AsRef<[u8]>>(answers: &[T], offer: &[U]) -> bool {
    offer.is_empty() || offer.iter().any(|name| answers.iter().any(|answer| answer.as_ref() == name.as_ref()))
}

pub(crate) fn owned<T: AsRef<[u8]>>(names: &[T]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_ref().to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_istio_name_in_the_clients_order_decides() {
        type Case<'a> = (&'a str, &'a [&'a [u8]], Option<MeshTreatment>);
        let cases: [Case<'_>; 7] = [
            ("istio h1", AlpnOffer::Http1.protocols(), Some(MeshTreatment::Http)),
            ("istio h2", AlpnOffer::Http2.protocols(), Some(MeshTreatment::Http)),
            ("istio tcp", AlpnOffer::Tcp.protocols(), Some(MeshTreatment::Tcp)),
            ("istio before istio-h2", &[b"istio", b"istio-h2"], Some(MeshTreatment::Tcp)),
            ("h2 before istio-h2", &[b"h2", b"istio-h2"], Some(MeshTreatment::Http)),
            ("a browser", &[b"h2", b"http/1.1"], None),
            ("no offer", &[], None),
        ];
        for (name, offer, expected) in cases {
            assert_eq!(mesh_treatment(offer), expected, "{name}");
        }
    }

    #[test]
    fn an_istio_only_offer_shares_nothing_with_the_http_answers() {
        assert!(!is_negotiable(&HTTP_ANSWERS, AlpnOffer::Tcp.protocols()));
        assert!(is_negotiable(&TCP_ANSWERS, AlpnOffer::Tcp.protocols()));
        assert!(is_negotiable(&HTTP_ANSWERS, AlpnOffer::Http1.protocols()));
        assert!(is_negotiable::<_, &[u8]>(&HTTP_ANSWERS, &[]));
    }
}
