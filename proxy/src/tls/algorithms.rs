//! Bounds that documents set to TLS: protocol versions, cipher suites, curves.

use std::sync::Arc;

use palisade_model::listener::{TlsAlgorithms, TlsVersion};
use rustls::{
    CipherSuite, NamedGroup, SupportedProtocolVersion,
    crypto::CryptoProvider,
    version::{TLS12, TLS13},
};

use super::{material::InvalidMaterial, provider};

static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
static OLD: [&SupportedProtocolVersion; 1] = [&TLS12];
static NEW: [&SupportedProtocolVersion; 1] = [&TLS13];

/// The versions of a range, the greatest first; none where the least is above the greatest.
pub(super) fn versions(min: TlsVersion, max: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match (min, max) {
        (TlsVersion::V1_2, TlsVersion::V1_2) => &OLD,
        (TlsVersion::V1_2, TlsVersion::V1_3) => &BOTH,
        (TlsVersion::V1_3, TlsVersion::V1_3) => &NEW,
        (TlsVersion::V1_3, TlsVersion::V1_2) => &[],
    }
}

/// The provider restricted to what is named. Names of what is not spoken count as well: where nothing else is named, TLS 1.2 has no suite
/// left and no handshake uses it.
///
/// # Errors
/// No curve that is named is spoken: no handshake could be made.
pub(super) fn provider_with(algorithms: &TlsAlgorithms) -> Result<Arc<CryptoProvider>, InvalidMaterial> {
    let TlsAlgorithms { cipher_suites, curves } = algorithms;
    if algorithms.is_default() {
        return Ok(provider());
    }
    let mut restricted = provider().as_ref().clone();
    let is_named = |names: &[Arc<str>], name: Option<&str>| {
        names.is_empty() || name.is_some_and(|name| names.iter().any(|wanted| **wanted == *name))
    };
    restricted
        .cipher_suites
        .retain(|suite| suite.version() == &TLS13 || is_named(cipher_suites, openssl_name(suite.suite())));
    restricted.kx_groups.retain(|group| is_named(curves, curve_name(group.name())));
    if restricted.kx_groups.is_empty() {
        return Err(InvalidMaterial::Empty("list of curves"));
    }
    Ok(Arc::new(restricted))
}

fn openssl_name(suite: CipherSuite) -> Option<&'static str> {
    Some(match suite {
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => return None,
    })
}

fn curve_name(group: NamedGroup) -> Option<&'static str> {
    Some(match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "P-256",
        NamedGroup::secp384r1 => "P-384",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use palisade_model::listener::{SPOKEN_CIPHER_SUITES, SPOKEN_CURVES};

    use super::*;

    fn algorithms(suites: &[&str], curves: &[&str]) -> TlsAlgorithms {
        let list = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        TlsAlgorithms { cipher_suites: list(suites), curves: list(curves) }
    }

    #[test]
    fn what_is_said_to_be_spoken_is() {
        let named = |suite: &rustls::SupportedCipherSuite| openssl_name(suite.suite());
        let mut suites: Vec<_> = provider().cipher_suites.iter().filter_map(named).collect();
        let mut spoken = SPOKEN_CIPHER_SUITES.to_vec();
        suites.sort_unstable();
        spoken.sort_unstable();
        assert_eq!(suites, spoken);
        let mut curves: Vec<_> = provider().kx_groups.iter().filter_map(|group| curve_name(group.name())).collect();
        let mut spoken = SPOKEN_CURVES.to_vec();
        curves.sort_unstable();
        spoken.sort_unstable();
        assert_eq!(curves, spoken);
    }

    #[test]
    fn only_what_is_named_is_left() {
        let left =
            provider_with(&algorithms(&["ECDHE-RSA-AES128-GCM-SHA256", "AES128-SHA"], &["P-256", "P-521"])).unwrap();
        let suites: Vec<_> = left.cipher_suites.iter().filter_map(|suite| openssl_name(suite.suite())).collect();
        assert_eq!(suites, ["ECDHE-RSA-AES128-GCM-SHA256"]);
        assert!(left.cipher_suites.iter().any(|suite| suite.version() == &TLS13));
        assert_eq!(left.kx_groups.iter().map(|group| group.name()).collect::<Vec<_>>(), [NamedGroup::secp256r1]);
    }

    #[test]
    fn without_a_curve_nothing_is_spoken() {
        assert!(provider_with(&algorithms(&[], &["P-521"])).is_err());
    }
}
