//! External authorizers: which requests of one target are put before which provider, and how it is asked.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

/// The checks of one target, made before tokens are looked at, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAuthorization {
    /// Key of the policy set of the same target.
    pub key: Arc<str>,
    /// Checks, sorted by provider.
    pub checks: Arc<[ExternalCheck]>,
}

/// What one provider is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalCheck {
    /// The provider's name, as policies call it.
    pub provider: Arc<str>,
    /// Key of the policy set whose forbids say which requests need the provider's word: what they forbid, the provider may
    /// allow. A set that denies everything denies it whatever the provider would say.
    pub policies: Arc<str>,
    /// The provider is asked beside the request, and changes no answer.
    pub is_dry_run: bool,
    /// Who is asked.
    pub asks: ExternalProvider,
    /// Answers that count again for equal requests; `None` = each request is asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CheckCache>,
}

/// For how long, and for which requests, an answer counts again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckCache {
    /// An answer counts for this long.
    pub lifetime: Duration,
    /// What two requests must have in common, beside the caller and where they go; sorted, without repetition.
    pub key: Arc<[KeyPart]>,
}

/// A part of a request that an answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyPart {
    /// Method.
    Method,
    /// `http` or `https`.
    Scheme,
    /// Authority, port included.
    Host,
    /// Normalised path without query.
    Path,
    /// Query.
    Query,
    /// Address of the peer, whoever it proved to be.
    SourceIp,
    /// All lines of a header, by its lower-case name.
    Header(Arc<str>),
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExternalProvider {
    /// Nobody can be: what needs the provider's word is denied.
    Missing {
        /// Why, for logs and explanations.
        message: Arc<str>,
    },
    /// A service by Envoy's `envoy.service.auth.v3.Authorization`.
    Grpc(CheckService),
    /// A service by a copy of the request's head. On opaque connections it is not asked.
    Http(HttpCheck),
}

/// A service that decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckService {
    /// Its cluster.
    pub cluster: Arc<str>,
    /// Its host name, sent as authority.
    pub host: Arc<str>,
    /// The whole check must be done within this time.
    pub timeout: Duration,
    /// Without an answer the request passes.
    pub fails_open: bool,
    /// Without an answer the request is refused with this status.
    pub status_on_error: u16,
    /// The body in the check; `None` = none.
    pub body: Option<CheckBody>,
    /// Routes see the headers that the provider changed.
    pub clears_route: bool,
}

/// The body in a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckBody {
    /// Bytes of the body at most.
    pub max_bytes: u32,
    /// A longer body is cut instead of refused with 413.
    pub allows_partial: bool,
    /// As bytes instead of text (gRPC).
    pub is_bytes: bool,
}

/// How a service that decides over HTTP is asked, and what of its answer counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// The service.
    pub service: CheckService,
    /// Put before the path.
    pub path_prefix: Arc<str>,
    /// Request headers that the check carries, beside `authorization`.
    pub request_headers: Arc<[NamePattern]>,
    /// Further headers of the check: name and value.
    pub added_headers: Arc<[(Arc<str>, Arc<str>)]>,
    /// Headers of an allowing answer that go upstream, replacing the request's.
    pub upstream_headers: Arc<[NamePattern]>,
    /// Headers of a refusing answer that go downstream; empty = all.
    pub denied_headers: Arc<[NamePattern]>,
    /// Headers of an allowing answer that go downstream.
    pub allowed_headers: Arc<[NamePattern]>,
}

/// A condition on a lower-case header name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamePattern {
    /// This name.
    Exact(Arc<str>),
    /// Names that begin so.
    Prefix(Arc<str>),
    /// Names that end so.
    Suffix(Arc<str>),
}

impl ExternalProvider {
    /// The service, where there is one.
    pub fn service(&self) -> Option<&CheckService> {
        match self {
            Self::Missing { message: _ } => None,
            Self::Grpc(service) => Some(service),
            Self::Http(check) => Some(&check.service),
        }
    }
}

impl NamePattern {
    /// Whether a lower-case name fits.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(wanted) => **wanted == *name,
            Self::Prefix(wanted) => name.starts_with(&**wanted),
            Self::Suffix(wanted) => name.ends_with(&**wanted),
        }
    }
}
