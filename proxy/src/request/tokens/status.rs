//! What is wrong with a token: Envoy's words, which callers' libraries know.

use palisade_model::reason::Reason;

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenStatus {
    /// There is none.
    Missing,
    /// One place carries several.
    Several,
    /// Not three parts, or too long.
    BadFormat,
    /// The header is not base64url.
    HeaderEncoding,
    /// The header is not a JSON object, or names a member twice.
    HeaderJson,
    /// `alg` is missing or no text.
    AlgorithmMissing,
    /// `alg` is `none`, symmetric or unknown.
    AlgorithmUnsupported,
    /// `kid` is no text.
    KeyIdType,
    /// `crit` asks for something that is not understood.
    CriticalUnsupported,
    /// The payload is not base64url.
    PayloadEncoding,
    /// The payload is not a JSON object, or names a claim twice.
    PayloadJson,
    /// A registered claim has another type than it must.
    ClaimType(&'static str),
    /// The signature is not base64url.
    SignatureEncoding,
    /// `nbf` is ahead.
    NotYetValid,
    /// `exp` is over.
    Expired,
    /// No rule takes its issuer.
    UnknownIssuer,
    /// None of its audiences is wanted.
    AudienceNotAllowed,
    /// No key is meant for it.
    NoMatchingKey,
    /// The signature is wrong.
    Unverified,
}

impl TokenStatus {
    /// The reason of the refusal.
    pub const fn reason(self) -> Reason {
        match self {
            Self::AudienceNotAllowed => Reason::JwtAudience,
            _ => Reason::JwtInvalid,
        }
    }

    /// Whether it speaks about a token that a rule took for its own.
    pub(super) const fn is_specific(self) -> bool {
        !matches!(self, Self::Missing | Self::UnknownIssuer)
    }

    /// The body of the answer, as Envoy words it.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Missing => "Jwt is missing",
            Self::Several => "Found multiple Jwt tokens",
            Self::BadFormat => "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
            Self::HeaderEncoding => "Jwt header is an invalid Base64url encoded",
            Self::HeaderJson => "Jwt header is an invalid JSON",
            Self::AlgorithmMissing => "Jwt header [alg] field is required and must be a string",
            Self::AlgorithmUnsupported => "Jwt header [alg] is not supported",
            Self::KeyIdType => "Jwt header [kid] field is not a string",
            Self::CriticalUnsupported => "Jwt header [crit] is not supported",
            Self::PayloadEncoding => "Jwt payload is an invalid Base64url encoded",
            Self::PayloadJson => "Jwt payload is an invalid JSON",
            Self::ClaimType(message) => message,
            Self::SignatureEncoding => "Jwt signature is an invalid Base64url encoded",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Expired => "Jwt is expired",
            Self::UnknownIssuer => "Jwt issuer is not configured",
            Self::AudienceNotAllowed => "Audiences in Jwt are not allowed",
            Self::NoMatchingKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::Unverified => "Jwt verification fails",
        }
    }

    /// `www-authenticate` (RFC 6750 section 3) for a request to `scheme`, `authority` and `path`. The query is left out: it may
    /// carry the token.
    pub fn challenge(self, scheme: &str, authority: &str, path: &str) -> String {
        /// As Envoy; longer paths are cut.
        const MAX_PATH_BYTES: usize = 256;
        let quoted = |text: &str| -> String {
            text.bytes()
                .map(|byte| match byte {
                    b'!' | b'#'..=b'[' | b']'..=b'~' => char::from(byte).to_string(),
                    other => format!("%{other:02X}"),
                })
                .collect()
        };
        let bytes = path.as_bytes();
        let path = String::from_utf8_lossy(bytes.get(..MAX_PATH_BYTES).unwrap_or(bytes)).into_owned();
        let error = if self == Self::Missing { "" } else { ", error=\"invalid_token\"" };
        format!("Bearer realm=\"{scheme}://{}{}\"{error}", quoted(authority), quoted(&path))
    }
}
