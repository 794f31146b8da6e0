//! The result of a case, as interfaces name it.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;

/// One result.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    pub(super) id: Value,
    pub(super) outcome: &'static str,
    pub(super) status: Option<u16>,
    pub(super) grpc_status: Option<u32>,
    pub(super) reason: &'static str,
    pub(super) connection: ConnectionAnswer,
    pub(super) request: Option<RequestAnswer>,
    pub(super) authz: Option<AuthzAnswer>,
    pub(super) route: Option<RouteAnswer>,
}

impl Answer {
    /// `forward`, `respond`, `reset` or `passthrough`.
    pub(crate) fn outcome(&self) -> &'static str {
        self.outcome
    }

    /// The HTTP status of the proxy's own answer.
    pub(crate) fn status(&self) -> Option<u16> {
        self.status
    }

    /// The reason, by its name.
    pub(crate) fn reason(&self) -> &'static str {
        self.reason
    }

    /// `allow` or `deny`, and `NAMESPACE/NAME` with the rule of the policy that decided.
    pub(crate) fn decided(&self) -> (Option<&'static str>, Option<(String, Option<u32>)>) {
        let Some(authz) = &self.authz else { return (None, None) };
        let first = authz.policies.first();
        (Some(authz.decision), first.map(|policy| (format!("{}/{}", policy.namespace, policy.name), policy.rule)))
    }
}

#[derive(Debug, Serialize)]
pub(super) struct ConnectionAnswer {
    pub(super) mode: &'static str,
    pub(super) protocol: &'static str,
}

/// The request as it goes upstream.
#[derive(Debug, Serialize)]
pub(super) struct RequestAnswer {
    pub(super) method: Bytes,
    pub(super) authority: Bytes,
    pub(super) path: Bytes,
    pub(super) headers: Vec<(String, Bytes)>,
}

#[derive(Debug, Serialize)]
pub(super) struct AuthzAnswer {
    pub(super) decision: &'static str,
    pub(super) policies: Vec<PolicyAnswer>,
    pub(super) custom: Vec<CustomAnswer>,
    pub(super) shadow: Vec<ShadowAnswer>,
    #[serde(rename = "shadowAll")]
    pub(super) shadow_all: Option<&'static str>,
    pub(super) nearest: Vec<NearAnswer>,
}

/// What one provider said.
#[derive(Debug, Serialize)]
pub(super) struct CustomAnswer {
    pub(super) provider: String,
    pub(super) decision: &'static str,
}

/// A dry-run policy with the decision that it would make, or an audited one, which makes none.
#[derive(Debug, Serialize)]
pub(super) struct ShadowAnswer {
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<u32>,
    pub(super) matched: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) decision: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct PolicyAnswer {
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) rule: Option<u32>,
}

#[derive(Debug, Serialize)]
pub(super) struct NearAnswer {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) rule: Option<u32>,
    pub(super) failed: Vec<FailedAnswer>,
}

#[derive(Debug, Serialize)]
pub(super) struct FailedAnswer {
    pub(super) field: String,
    pub(super) expected: Vec<String>,
    pub(super) actual: String,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct RouteAnswer {
    pub(super) source: Option<String>,
    pub(super) name: Option<String>,
    pub(super) rule: Option<u32>,
    #[serde(rename = "match")]
    pub(super) matched: Option<u32>,
    pub(super) backends: Vec<BackendAnswer>,
    pub(super) mirrors: Vec<String>,
    pub(super) redirect: Option<Bytes>,
    pub(super) timeout_ms: Option<u64>,
    pub(super) retries: Option<RetriesAnswer>,
    pub(super) fault: Option<FaultAnswer>,
    pub(super) headers: Option<HeadersAnswer>,
}

#[derive(Debug, Serialize)]
pub(super) struct BackendAnswer {
    pub(super) cluster: String,
    pub(super) weight: u32,
    pub(super) endpoints: Vec<EndpointAnswer>,
    pub(super) tls: &'static str,
    pub(super) sni: Option<String>,
    pub(super) sans: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct EndpointAnswer {
    pub(super) address: String,
    pub(super) priority: u32,
    pub(super) weight: u32,
    /// Only where the endpoints of a backend differ in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct RetriesAnswer {
    pub(super) attempts: u32,
    pub(super) per_try_ms: Option<u64>,
    pub(super) on: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct FaultAnswer {
    pub(super) delay_ms: Option<u64>,
    pub(super) abort: Option<u16>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct HeadersAnswer {
    pub(super) set: Vec<(String, String)>,
    pub(super) add: Vec<(String, String)>,
    pub(super) remove: Vec<String>,
}

/// Bytes: a string where they are UTF-8, else `{"b64": "…"}`.
#[derive(Debug)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("b64", &STANDARD.encode(&self.0))?;
                map.end()
            }
        }
    }
}
