//! AdmissionReviews as the API server sends and takes them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The only version that is spoken.
const API_VERSION: &str = "admission.k8s.io/v1";
/// Warnings that the API server passes on; more are cut off by it.
const MAX_WARNINGS: usize = 12;
/// Bytes of one warning that every client shows.
const MAX_WARNING: usize = 256;

/// Why a body is no review.
#[derive(Debug, thiserror::Error)]
pub enum InvalidReview {
    /// Not JSON, or of other types.
    #[error("the body is not an AdmissionReview: {0}")]
    Body(#[from] serde_json::Error),
    /// Another kind or version.
    #[error("`{kind}` of `{api_version}` is not served; `AdmissionReview` of `{API_VERSION}` is")]
    Kind {
        /// What was sent.
        api_version: String,
        /// What was sent.
        kind: String,
    },
    /// A response, or nothing.
    #[error("the AdmissionReview has no `request`")]
    NoRequest,
    /// There is nothing to look at.
    #[error("an operation `{0}` must come with its `object`")]
    NoObject(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

/// What the API server asks.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Goes back in the answer.
    pub uid: String,
    /// Which kind, as the webhook asked for it.
    pub kind: Kind,
    /// Such as `status`; empty is the object itself.
    #[serde(default)]
    pub sub_resource: String,
    /// Empty where the API server will choose one.
    #[serde(default)]
    pub name: String,
    /// Empty for cluster-scoped kinds.
    #[serde(default)]
    pub namespace: String,
    /// CREATE, UPDATE, DELETE or CONNECT.
    pub operation: String,
    /// Nothing will be stored.
    #[serde(default)]
    pub dry_run: bool,
    /// As it would be; absent for DELETE.
    #[serde(default)]
    pub object: Option<Value>,
    /// As it is; absent for CREATE.
    #[serde(default)]
    pub old_object: Option<Value>,
}

/// Group, version and kind.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Kind {
    /// API group; empty is the core group.
    #[serde(default)]
    pub group: String,
    /// Its version.
    pub version: String,
    /// The kind.
    pub kind: String,
}

impl Request {
    /// Reads a review.
    ///
    /// # Errors
    /// When the body is not one that can be answered.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidReview> {
        let Review { api_version, kind, request } = serde_json::from_slice(body)?;
        if api_version != API_VERSION || kind != "AdmissionReview" {
            return Err(InvalidReview::Kind { api_version, kind });
        }
        let request = request.ok_or(InvalidReview::NoRequest)?;
        let needs_object = matches!(request.operation.as_str(), "CREATE" | "UPDATE");
        if needs_object && !request.object.as_ref().is_some_and(Value::is_object) {
            return Err(InvalidReview::NoObject(request.operation));
        }
        Ok(request)
    }
}

/// What is answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// Why it is refused; `None` = it is allowed.
    pub refusal: Option<String>,
    /// Shown to whoever wrote the object.
    pub warnings: Vec<String>,
    /// JSON Patch; `None` = the object stays as it is.
    pub patch: Option<Value>,
}

impl Response {
    /// The review with the answer to the request of this uid.
    pub fn to_review(&self, uid: &str) -> Value {
        let Self { refusal, warnings, patch } = self;
        let mut response = Map::new();
        let mut say = |key: &str, value: Value| drop(response.insert(key.to_owned(), value));
        say("uid", uid.into());
        say("allowed", refusal.is_none().into());
        if let Some(message) = refusal {
            say("status", json!({"status": "Failure", "code": 422, "reason": "Invalid", "message": message}));
        }
        if !warnings.is_empty() {
            let mut shown: Vec<String> = warnings.iter().take(MAX_WARNINGS).map(|text| shorten(text)).collect();
            if let Some(rest @ 1..) = warnings.len().checked_sub(MAX_WARNINGS) {
                shown.push(format!("and {rest} more; `palisade analyze` lists all"));
            }
            say("warnings", shown.into());
        }
        if let Some(patch) = patch {
            say("patchType", "JSONPatch".into());
            say("patch", STANDARD.encode(patch.to_string()).into());
        }
        json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
    }
}

fn shorten(text: &str) -> String {
    if text.len() <= MAX_WARNING {
        return text.to_owned();
    }
    let end = (0..=MAX_WARNING - 3).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", text.get(..end).unwrap_or_default())
}
