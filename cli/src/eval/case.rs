//! A case of `palisade eval`, read whole: unknown keys are errors, also of parts that are not served yet.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// One case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// Echoed.
    #[serde(default)]
    pub(super) id: Value,
    pub(super) proxy: ProxyCase,
    #[serde(default)]
    pub(super) direction: DirectionCase,
    #[serde(default)]
    pub(super) source: SourceCase,
    pub(super) destination: DestinationCase,
    pub(super) tls: Option<TlsCase>,
    pub(super) http: Option<HttpCase>,
    /// What each CUSTOM provider answers; one that is asked and not here is unavailable.
    #[serde(default)]
    pub(super) providers: BTreeMap<String, ProviderCase>,
    /// RFC 3339; default: now.
    pub(super) time: Option<jiff::Timestamp>,
    /// `0.0..1.0`; default: drawn.
    pub(super) random: Option<f64>,
}

/// The proxy that is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ProxyCase {
    pub(super) kind: Option<KindCase>,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) service_account: Option<String>,
    pub(super) ip: Option<IpAddr>,
    pub(super) ips: Option<Vec<IpAddr>>,
    pub(super) gateway: Option<String>,
    pub(super) locality: Option<String>,
    pub(super) node: Option<String>,
    pub(super) network: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum KindCase {
    Sidecar,
    Gateway,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DirectionCase {
    #[default]
    Inbound,
    Outbound,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct SourceCase {
    pub(super) ip: Option<IpAddr>,
    pub(super) port: Option<u16>,
    /// The peer presents a mesh certificate with this SPIFFE id.
    pub(super) identity: Option<String>,
    /// Address in a PROXY protocol header, with or without port.
    pub(super) proxy_protocol: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DestinationCase {
    pub(super) ip: Option<IpAddr>,
    pub(super) port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsCase {
    pub(super) sni: Option<String>,
    pub(super) alpn: Option<Vec<String>>,
    /// The mesh's offer; without an identity: and no certificate.
    #[serde(default)]
    pub(super) mesh: bool,
    pub(super) client: Option<ClientCase>,
}

/// A client certificate that is not a mesh peer's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ClientCase {
    #[serde(default)]
    pub(super) uris: Vec<String>,
    #[serde(default)]
    pub(super) dns: Vec<String>,
    #[serde(default)]
    pub(super) subject: String,
    /// `mesh`, `NS/SECRET` or `none`.
    pub(super) trusted_by: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpCase {
    pub(super) method: Option<Text>,
    pub(super) scheme: Option<Text>,
    pub(super) authority: Option<Text>,
    pub(super) path: Option<Text>,
    pub(super) version: Option<Version>,
    #[serde(default)]
    pub(super) headers: Vec<(Text, Text)>,
    /// As if a verified token had carried them.
    pub(super) claims: Option<serde_json::Map<String, Value>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Version {
    #[serde(rename = "1.0")]
    Http10,
    #[serde(rename = "1.1")]
    Http11,
    #[serde(rename = "2")]
    Http2,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderCase {
    /// Default: 200.
    pub(super) status: Option<u16>,
    #[serde(default)]
    pub(super) headers: Vec<(Text, Text)>,
    /// It gives no answer.
    pub(super) error: Option<String>,
}

/// A string, or `{"b64": "…"}` for bytes that are not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Encoded {
            b64: String,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Plain(String),
            Encoded(Encoded),
        }
        match Written::deserialize(deserializer)? {
            Written::Plain(text) => Ok(Self(text.into_bytes())),
            Written::Encoded(Encoded { b64 }) => STANDARD.decode(b64).map(Self).map_err(serde::de::Error::custom),
        }
    }
}

impl SourceCase {
    /// The address of the PROXY protocol header.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn proxied(&self) -> Result<Option<SocketAddr>, String> {
        let Some(text) = &self.proxy_protocol else { return Ok(None) };
        let address = text.parse::<SocketAddr>().ok();
        let address =
            address.or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port.unwrap_or(0))));
        address.map(Some).ok_or_else(|| format!("source.proxyProtocol: `{text}` is not an address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proxy_and_destination_port_are_required() {
        let case: Case =
            serde_json::from_str(r#"{"proxy": {"namespace": "a", "name": "b"}, "destination": {"port": 80}}"#).unwrap();
        assert_eq!(case.direction, DirectionCase::Inbound);
        assert!(serde_json::from_str::<Case>(r#"{"proxy": {}}"#).is_err());
    }

    #[test]
    fn unknown_keys_are_errors() {
        for text in [
            r#"{"proxy": {}, "destination": {"port": 1}, "extra": 1}"#,
            r#"{"proxy": {"labls": {}}, "destination": {"port": 1}}"#,
            r#"{"proxy": {}, "destination": {"port": 1}, "http": {"verb": "GET"}}"#,
            r#"{"proxy": {}, "destination": {"port": 1}, "tls": {"client": {"cn": "x"}}}"#,
        ] {
            assert!(serde_json::from_str::<Case>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_come_in_base64() {
        let http: HttpCase =
            serde_json::from_str(r#"{"path": {"b64": "L/8="}, "headers": [["a", {"b64": "/w=="}]]}"#).unwrap();
        assert_eq!(http.path, Some(Text(vec![b'/', 0xff])));
        assert_eq!(http.headers, [(Text(b"a".to_vec()), Text(vec![0xff]))]);
    }
}
