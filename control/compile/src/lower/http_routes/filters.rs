//! HTTPRoute filters, read into what they do.

use std::sync::Arc;

use palisade_crds::gateway_api::{
    BackendObjectReference, HttpPathModifier, HttpPathModifierType, HttpRequestRedirectFilter, HttpRouteFilter,
    HttpRouteFilterType, HttpUrlRewriteFilter, RedirectScheme,
};
use palisade_model::route::{Cors, HeaderMutations, PathRewrite, Percent, Redirect, RedirectPort, Rewrite};

use super::mutations;
use crate::lower::{cors, mirrors};

/// What a list of filters does.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) request_headers: HeaderMutations,
    pub(super) response_headers: HeaderMutations,
    pub(super) rewrite: Rewrite,
    pub(super) redirect: Option<Redirect>,
    pub(super) cors: Option<Cors>,
    pub(super) mirrors: Vec<(BackendObjectReference, Percent)>,
    /// A filter that is not served and must not be skipped: what it decides about would pass.
    pub(super) refusal: Option<Arc<str>>,
}

/// Reads a list of filters.
pub(super) fn read(filters: &[HttpRouteFilter]) -> Effects {
    let mut effects = Effects::default();
    for filter in filters {
        match filter.filter_type {
            HttpRouteFilterType::RequestHeaderModifier => {
                effects.request_headers = filter.request_header_modifier.as_ref().map(mutations).unwrap_or_default();
            }
            HttpRouteFilterType::ResponseHeaderModifier => {
                effects.response_headers = filter.response_header_modifier.as_ref().map(mutations).unwrap_or_default();
            }
            HttpRouteFilterType::RequestRedirect => effects.redirect = filter.request_redirect.as_ref().map(redirect),
            HttpRouteFilterType::UrlRewrite => {
                effects.rewrite = filter.url_rewrite.as_ref().map(rewrite).unwrap_or_default();
            }
            HttpRouteFilterType::RequestMirror => effects.mirrors.extend(
                filter.request_mirror.as_ref().map(|mirror| (mirror.backend_ref.clone(), mirrors::share(mirror))),
            ),
            HttpRouteFilterType::Cors => effects.cors = filter.cors.as_ref().map(cors::of_http_route),
            HttpRouteFilterType::ExtensionRef => {
                // Gateway API: a filter that cannot be resolved must answer with an error, not be skipped.
                effects.refusal = Some("the filter `extensionRef` names something that is not served".into());
            }
            HttpRouteFilterType::ExternalAuth => {
                effects.refusal = Some("the filter `externalAuth` is not served yet".into());
            }
        }
    }
    effects
}

fn redirect(written: &HttpRequestRedirectFilter) -> Redirect {
    let HttpRequestRedirectFilter { scheme, hostname, path, port, status_code } = written;
    let port = match (port, scheme) {
        (Some(port), _) => RedirectPort::Explicit(*port),
        // With a scheme the port is that scheme's own, whatever the client wrote; without, the listener's.
        (None, Some(RedirectScheme::Http)) => RedirectPort::Explicit(80),
        (None, Some(RedirectScheme::Https)) => RedirectPort::Explicit(443),
        (None, None) => RedirectPort::Request,
    };
    Redirect {
        scheme: scheme.as_ref().map(|scheme| match scheme {
            RedirectScheme::Http => "http".into(),
            RedirectScheme::Https => "https".into(),
        }),
        authority: hostname.as_deref().map(Arc::from),
        port,
        path: path.as_ref().and_then(path_rewrite),
        status: *status_code,
    }
}

fn rewrite(written: &HttpUrlRewriteFilter) -> Rewrite {
    let HttpUrlRewriteFilter { hostname, path } = written;
    Rewrite { path: path.as_ref().and_then(path_rewrite), authority: hostname.as_deref().map(Arc::from) }
}

fn path_rewrite(written: &HttpPathModifier) -> Option<PathRewrite> {
    let HttpPathModifier { modifier_type, replace_full_path, replace_prefix_match } = written;
    match modifier_type {
        HttpPathModifierType::ReplaceFullPath => {
            replace_full_path.as_deref().map(|path| PathRewrite::Full(path.into()))
        }
        HttpPathModifierType::ReplacePrefixMatch => {
            replace_prefix_match.as_deref().map(|path| PathRewrite::SegmentPrefix(path.into()))
        }
    }
}
