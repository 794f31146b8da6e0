//! CUSTOM policies and the external authorizers that they name.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use palisade_crds::istio::{
    Action, AuthorizationPolicy, ExtAuthzGrpc, ExtAuthzHttp, ExtAuthzRequestBody, ExtensionProvider,
};
use palisade_model::external_authorization::{
    CheckBody, CheckCache, CheckService, ExternalProvider, HttpCheck, NamePattern,
};
use palisade_policy::TrustDomains;

use crate::{
    hosts,
    inputs::Inputs,
    lower::clusters::Destination,
    object::{self, Object},
    reports::{Code, Report, Reports},
    resolve::{authorization::Restriction, check_cache},
    settings::MeshSettings,
    time,
};

/// A check may take this long if its provider says nothing (Istio).
const TIMEOUT: Duration = Duration::from_secs(600);
/// What a caller is told when the provider cannot be.
const STATUS_ON_ERROR: u16 = 403;

/// One CUSTOM policy.
#[derive(Debug)]
pub(crate) struct CustomPolicy {
    /// Its rules as forbids: what they match needs the provider's word.
    pub(crate) restriction: Restriction,
    /// The provider that it names.
    pub(crate) provider: Arc<str>,
    /// The provider is asked, and nothing comes of it.
    pub(crate) is_dry_run: bool,
    /// Answers that count again, as far as this policy is concerned.
    pub(crate) cache: Option<CheckCache>,
}

/// A provider of the mesh configuration, as far as it can be known without a proxy.
#[derive(Debug, Clone)]
pub(crate) enum Provider {
    /// It cannot be asked.
    Unusable(String),
    /// It can, if this destination is there, in this namespace where one is written.
    Usable { destination: Destination, namespace: Option<Arc<str>>, asks: Box<ExternalProvider> },
}

/// Where a provider is, in which namespace if that is written, and how it is asked.
type Asked = (Destination, Option<Arc<str>>, ExternalProvider);

/// All CUSTOM policies, oldest first.
pub(crate) fn custom_policies(inputs: &Inputs, settings: &MeshSettings, reports: &mut Reports) -> Vec<CustomPolicy> {
    let aliases = settings.trust_domain_aliases.iter().map(ToString::to_string);
    let domains = TrustDomains::new(settings.trust_domain.as_str(), aliases);
    let mut policies = Vec::new();
    for document in object::by_age(inputs.authorization_policies.values()) {
        if document.spec.action == Action::Custom {
            policies.extend(custom_policy(document, settings, &domains, reports));
        }
    }
    policies
}

fn custom_policy(
    document: &Object<AuthorizationPolicy>,
    settings: &MeshSettings,
    domains: &TrustDomains,
    reports: &mut Reports,
) -> Option<CustomPolicy> {
    let restriction = Restriction::of_custom(document, domains, reports)?;
    let name = document.spec.provider.as_ref().map(|provider| provider.name.as_str()).unwrap_or_default();
    let mut shows_body = false;
    match find(name, settings) {
        Provider::Unusable(message) => {
            let message = format!("{message}: what the policy matches is denied");
            reports.add(Report::warning(&document.head, Code::UnknownProvider, "spec.provider.name", &message));
        }
        Provider::Usable { destination: _, namespace: _, asks } => {
            shows_body = asks.service().is_some_and(|service| service.body.is_some())
        }
    }
    let is_dry_run = super::authorization::is_dry_run(&document.head);
    let cache = check_cache::of(&document.head, is_dry_run, shows_body, reports);
    Some(CustomPolicy { restriction, provider: name.into(), is_dry_run, cache })
}

/// A provider by name.
pub(crate) fn find(name: &str, settings: &MeshSettings) -> Provider {
    let is_authorizer = |provider: &&ExtensionProvider| {
        provider.envoy_ext_authz_http.is_some() || provider.envoy_ext_authz_grpc.is_some()
    };
    let mut named = settings.extension_providers.iter().filter(|provider| provider.name == name);
    let mut authorizers = named.clone().filter(is_authorizer);
    let usable = match (authorizers.next(), authorizers.next()) {
        (None, _) if named.next().is_some() => Err("is no external authorizer".to_owned()),
        (None, _) => {
            return Provider::Unusable(format!("there is no extension provider `{name}` in the mesh configuration"));
        }
        // Which of them is meant cannot be known.
        (Some(_), Some(_)) => Err("is there more than once".to_owned()),
        (Some(provider), None) => of_authorizer(provider, settings),
    };
    match usable {
        Ok((destination, namespace, asks)) => Provider::Usable { destination, namespace, asks: Box::new(asks) },
        Err(message) => Provider::Unusable(format!("extension provider `{name}` {message}")),
    }
}

fn of_authorizer(provider: &ExtensionProvider, settings: &MeshSettings) -> Result<Asked, String> {
    let ExtensionProvider { name, envoy_ext_authz_http, envoy_ext_authz_grpc, .. } = provider;
    if !is_label(name) {
        return Err("has a name that is no DNS label".to_owned());
    }
    match (envoy_ext_authz_http, envoy_ext_authz_grpc) {
        (Some(http), _) => of_http(http, settings),
        (None, Some(grpc)) => of_grpc(grpc, settings),
        (None, None) => Err("is no external authorizer".to_owned()),
    }
}

/// RFC 1123: Istio takes no other name of an authorizer.
fn is_label(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(is_inner) && !name.starts_with('-') && !name.ends_with('-')
}

fn of_grpc(written: &ExtAuthzGrpc, settings: &MeshSettings) -> Result<Asked, String> {
    let ExtAuthzGrpc {
        service,
        port,
        timeout,
        fail_open,
        clear_route_cache,
        status_on_error,
        include_request_body_in_check,
    } = written;
    let (destination, namespace) = destination(service, *port, settings)?;
    let service = CheckService {
        cluster: destination.cluster_name(),
        host: Arc::clone(&destination.host),
        timeout: limit(*timeout)?,
        fails_open: *fail_open,
        status_on_error: status(status_on_error)?,
        body: body(include_request_body_in_check.as_ref())?,
        clears_route: *clear_route_cache,
    };
    Ok((destination, namespace, ExternalProvider::Grpc(service)))
}

fn of_http(written: &ExtAuthzHttp, settings: &MeshSettings) -> Result<Asked, String> {
    let ExtAuthzHttp {
        service,
        port,
        timeout,
        path_prefix,
        fail_open,
        clear_route_cache,
        status_on_error,
        include_headers_in_check,
        include_request_headers_in_check,
        include_additional_headers_in_check,
        include_request_body_in_check,
        headers_to_upstream_on_allow,
        headers_to_downstream_on_deny,
        headers_to_downstream_on_allow,
    } = written;
    let (destination, namespace) = destination(service, *port, settings)?;
    if !path_prefix.is_empty() && !path_prefix.starts_with('/') {
        return Err("has a `pathPrefix` that does not begin with `/`".to_owned());
    }
    for (field, names) in [
        ("includeHeadersInCheck", include_headers_in_check),
        ("includeRequestHeadersInCheck", include_request_headers_in_check),
        ("headersToUpstreamOnAllow", headers_to_upstream_on_allow),
        ("headersToDownstreamOnDeny", headers_to_downstream_on_deny),
        ("headersToDownstreamOnAllow", headers_to_downstream_on_allow),
    ] {
        if names.iter().any(|name| name == "*") {
            return Err(format!("has `*` alone in `{field}`, which Istio refuses: name a prefix or a suffix"));
        }
    }
    let service = CheckService {
        cluster: destination.cluster_name(),
        host: Arc::clone(&destination.host),
        timeout: limit(*timeout)?,
        fails_open: *fail_open,
        status_on_error: status(status_on_error)?,
        body: body(include_request_body_in_check.as_ref())?,
        clears_route: *clear_route_cache,
    };
    let sent = match include_request_headers_in_check.is_empty() {
        true => include_headers_in_check,
        false => include_request_headers_in_check,
    };
    let added: BTreeMap<_, _> =
        include_additional_headers_in_check.iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    let check = HttpCheck {
        service,
        path_prefix: path_prefix.as_str().into(),
        request_headers: patterns(sent),
        added_headers: added.into_iter().map(|(name, value)| (name.into(), value.as_str().into())).collect(),
        upstream_headers: patterns(headers_to_upstream_on_allow),
        denied_headers: patterns(headers_to_downstream_on_deny),
        allowed_headers: patterns(headers_to_downstream_on_allow),
    };
    Ok((destination, namespace, ExternalProvider::Http(check)))
}

/// `HOST` or `NAMESPACE/HOST`.
fn destination(service: &str, port: u32, settings: &MeshSettings) -> Result<(Destination, Option<Arc<str>>), String> {
    let (written, host) = match service.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, service),
    };
    let namespace = written.unwrap_or(&settings.root_namespace);
    let port = u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| format!("has no port: {port}"))?;
    if host.is_empty() {
        return Err("names no service".to_owned());
    }
    let host = hosts::full_name(&host.to_ascii_lowercase(), namespace, &settings.cluster_domain);
    Ok((Destination { host: host.as_str().into(), port, subset: "".into() }, written.map(Arc::from)))
}

fn status(text: &str) -> Result<u16, String> {
    match text {
        "" => Ok(STATUS_ON_ERROR),
        text => text
            .parse()
            .ok()
            .filter(|status| is_envoy_status(*status))
            .ok_or_else(|| format!("has a `statusOnError` that is no status: `{text}`")),
    }
}

/// The statuses that Envoy has a name for; Istio takes no other.
const fn is_envoy_status(status: u16) -> bool {
    matches!(
        status,
        200..=208 | 226 | 300..=305 | 307 | 308 | 400..=417 | 421..=424 | 426 | 428 | 429 | 431 | 500..=508 | 510 | 511
    )
}

/// How long a check may take. Envoy takes zero for no limit; nothing waits without one here.
fn limit(written: Option<palisade_crds::Duration>) -> Result<Duration, String> {
    let Some(written) = written else { return Ok(TIMEOUT) };
    match time::not_negative(written) {
        None => Err("has a negative `timeout`".to_owned()),
        Some(Duration::ZERO) => Ok(TIMEOUT),
        Some(timeout) => Ok(timeout),
    }
}

fn body(written: Option<&ExtAuthzRequestBody>) -> Result<Option<CheckBody>, String> {
    let Some(written) = written else { return Ok(None) };
    let ExtAuthzRequestBody { max_request_bytes, allow_partial_message, pack_as_bytes } = written;
    if *max_request_bytes == 0 {
        // With Istio the proxies refuse their whole configuration then.
        return Err(
            "has `maxRequestBytes: 0` in `includeRequestBodyInCheck`: leave the body out, or say how much of it"
                .to_owned(),
        );
    }
    Ok(Some(CheckBody {
        max_bytes: *max_request_bytes,
        allows_partial: *allow_partial_message,
        is_bytes: *pack_as_bytes,
    }))
}

fn patterns(written: &[String]) -> Arc<[NamePattern]> {
    written
        .iter()
        .map(|text| {
            let text = text.to_ascii_lowercase();
            // As Istio: a star in front counts first, and one behind it is then a letter like others.
            match (text.strip_prefix('*'), text.strip_suffix('*')) {
                (Some(suffix), _) => NamePattern::Suffix(suffix.into()),
                (None, Some(prefix)) => NamePattern::Prefix(prefix.into()),
                (None, None) => NamePattern::Exact(text.as_str().into()),
            }
        })
        .collect()
}
