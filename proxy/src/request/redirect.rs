//! The Location of a redirect.

use std::borrow::Cow;

use palisade_model::route::{PathRewrite, Redirect, RedirectPort};

use super::{authority::Authority, normalize::Target};

/// What a redirect is made from.
#[derive(Debug, Clone, Copy)]
pub struct Redirected<'a> {
    /// The request's scheme.
    pub scheme: &'a str,
    /// Its authority.
    pub authority: &'a Authority<'a>,
    /// Its normalised target.
    pub target: &'a Target<'a>,
    /// Port of the listener that took it.
    pub listener_port: u16,
}

/// The whole Location value; `rewritten` applies a path rewrite. The query is kept unless the new path has one.
pub fn location(from: &Redirected<'_>, redirect: &Redirect, rewritten: impl Fn(&PathRewrite) -> Vec<u8>) -> Vec<u8> {
    let Redirect { scheme, authority, port, path, status: _ } = redirect;
    let scheme = scheme.as_deref().unwrap_or(from.scheme);
    let path = path.as_ref().map_or_else(|| from.target.path.as_bytes().to_vec(), rewritten);
    let host = host_and_port(from, scheme, authority.as_deref(), *port);
    assemble(scheme, &host, &path, from.target.query)
}

/// The Location of `httpsRedirect`.
pub fn https_location(from: &Redirected<'_>) -> Vec<u8> {
    let host = host_and_port(from, "https", None, RedirectPort::ProtocolDefault);
    assemble("https", &host, from.target.path.as_bytes(), from.target.query)
}

/// The same place by its normalised path. With host: `//b/c` alone would lead to host `b`.
pub fn normalized_location(scheme: &str, authority: &Authority<'_>, target: &Target<'_>) -> Vec<u8> {
    assemble(scheme, authority.text, target.path.as_bytes(), target.query)
}

fn assemble(scheme: &str, host: &str, path: &[u8], query: Option<&[u8]>) -> Vec<u8> {
    let mut location = format!("{scheme}://{host}").into_bytes();
    location.extend_from_slice(path);
    if let Some(query) = query.filter(|_| !path.contains(&b'?')) {
        location.push(b'?');
        location.extend_from_slice(query);
    }
    location
}

fn host_and_port<'a>(
    from: &Redirected<'a>,
    scheme: &str,
    authority: Option<&'a str>,
    port: RedirectPort,
) -> Cow<'a, str> {
    let host = || match authority {
        Some(authority) => Cow::Borrowed(authority),
        None if from.authority.host.contains(':') => Cow::Owned(format!("[{}]", from.authority.host)),
        None => Cow::Owned(from.authority.host.clone().into_owned()),
    };
    let with = |port: u16| match Some(port) == default_port(scheme) {
        true => host(),
        false => Cow::Owned(format!("{}:{port}", host())),
    };
    match port {
        RedirectPort::Explicit(port) => with(port),
        RedirectPort::Request => with(from.listener_port),
        // Envoy keeps the port that the client wrote, unless it was the default of a scheme that is left behind.
        RedirectPort::ProtocolDefault => match (authority, from.authority.port) {
            (None, Some(port)) if scheme == from.scheme || Some(port) != default_port(from.scheme) => {
                Cow::Owned(format!("{}:{port}", host()))
            }
            _ => host(),
        },
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::normalize::{PathRules, normalize};
    use palisade_model::settings::PathNormalization;

    #[test]
    fn locations_are_whole() {
        let none =
            || Redirect { scheme: None, authority: None, port: RedirectPort::ProtocolDefault, path: None, status: 301 };
        let full = |path: &str| Some(PathRewrite::Full(path.into()));
        for (name, sent, redirect, expected) in [
            ("path only", "a.com", Redirect { path: full("/new"), ..none() }, "http://a.com/new?q=1"),
            (
                "the client's port stays",
                "a.com:8080",
                Redirect { path: full("/new"), ..none() },
                "http://a.com:8080/new?q=1",
            ),
            ("a new path with a query", "a.com", Redirect { path: full("/new?x"), ..none() }, "http://a.com/new?x"),
            ("authority", "a.com:8080", Redirect { authority: Some("b.com".into()), ..none() }, "http://b.com/old?q=1"),
            ("to https", "a.com:80", Redirect { scheme: Some("https".into()), ..none() }, "https://a.com/old?q=1"),
            (
                "explicit port",
                "a.com",
                Redirect { port: RedirectPort::Explicit(8443), ..none() },
                "http://a.com:8443/old?q=1",
            ),
            (
                "default port unwritten",
                "a.com",
                Redirect { port: RedirectPort::Explicit(80), ..none() },
                "http://a.com/old?q=1",
            ),
            ("listener port", "a.com", Redirect { port: RedirectPort::Request, ..none() }, "http://a.com:8000/old?q=1"),
            ("IPv6", "[::1]:99", none(), "http://[::1]:99/old?q=1"),
        ] {
            let authority = Authority::parse(sent).unwrap();
            let target = normalize(b"/old?q=1", PathRules::new(PathNormalization::Base, false)).unwrap();
            let from = Redirected { scheme: "http", authority: &authority, target: &target, listener_port: 8000 };
            let made = location(&from, &redirect, |rewrite| match rewrite {
                PathRewrite::Full(path) => path.as_bytes().to_vec(),
                _ => unreachable!(),
            });
            assert_eq!(String::from_utf8(made).unwrap(), expected, "{name}");
        }
    }
}
