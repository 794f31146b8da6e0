//! Random tokens rules and external checks.

use palisade_model::{
    authentication::{Authentication, ClaimHeader, TokenLocation, TokenRule},
    external_authorization::{
        CheckBody, CheckCache, CheckService, ExternalAuthorization, ExternalCheck, ExternalProvider, HttpCheck,
        KeyPart, NamePattern,
    },
};
use proptest::{option, prelude::*};

use super::scalar::{duration, list, name, text};

pub(super) fn authentication() -> impl Strategy<Value = Authentication> {
    let location = || {
        prop_oneof![
            (text(), text()).prop_map(|(name, prefix)| TokenLocation::Header { name, prefix }),
            text().prop_map(TokenLocation::Query),
            text().prop_map(TokenLocation::Cookie)
        ]
    };
    let claim = || (text(), text()).prop_map(|(header, claim)| ClaimHeader { header, claim });
    let token = (option::of(text()), list(text()), text(), list(location()), any::<bool>());
    let output = (option::of(text()), list(claim()), list(text()), any::<bool>());
    let rule = (token, output).prop_map(|(token, output)| {
        let (issuer, audiences, keys, locations, forwards_token) = token;
        let (payload_header, claim_headers, space_delimited, is_required) = output;
        TokenRule {
            issuer,
            audiences,
            keys,
            locations,
            forwards_token,
            payload_header,
            claim_headers,
            space_delimited,
            is_required,
        }
    });
    (name(), list(rule), option::of(text())).prop_map(|(key, rules, refuse_tokens)| Authentication {
        key,
        rules,
        refuse_tokens,
    })
}

pub(super) fn external_authorization() -> impl Strategy<Value = ExternalAuthorization> {
    let body = || {
        (any::<u32>(), any::<bool>(), any::<bool>()).prop_map(|(max_bytes, allows_partial, is_bytes)| CheckBody {
            max_bytes,
            allows_partial,
            is_bytes,
        })
    };
    let service = move || {
        let answer = (any::<bool>(), any::<u16>(), option::of(body()), any::<bool>());
        (name(), text(), duration(), answer).prop_map(|(cluster, host, timeout, answer)| {
            let (fails_open, status_on_error, body, clears_route) = answer;
            CheckService { cluster, host, timeout, fails_open, status_on_error, body, clears_route }
        })
    };
    let pattern = || {
        prop_oneof![
            text().prop_map(NamePattern::Exact),
            text().prop_map(NamePattern::Prefix),
            text().prop_map(NamePattern::Suffix)
        ]
    };
    let lists = (list(pattern()), list((text(), text())), list(pattern()), list(pattern()), list(pattern()));
    let http = (service(), text(), lists).prop_map(|(service, path_prefix, lists)| {
        let (request_headers, added_headers, upstream_headers, denied_headers, allowed_headers) = lists;
        HttpCheck {
            service,
            path_prefix,
            request_headers,
            added_headers,
            upstream_headers,
            denied_headers,
            allowed_headers,
        }
    });
    let asks = prop_oneof![
        text().prop_map(|message| ExternalProvider::Missing { message }),
        service().prop_map(ExternalProvider::Grpc),
        http.prop_map(ExternalProvider::Http)
    ];
    let part = prop_oneof![
        Just(KeyPart::Method),
        Just(KeyPart::Scheme),
        Just(KeyPart::Host),
        Just(KeyPart::Path),
        Just(KeyPart::Query),
        Just(KeyPart::SourceIp),
        text().prop_map(KeyPart::Header)
    ];
    let cache = (duration(), list(part)).prop_map(|(lifetime, key)| CheckCache { lifetime, key });
    let check = (text(), name(), any::<bool>(), asks, option::of(cache)).prop_map(|check| {
        let (provider, policies, is_dry_run, asks, cache) = check;
        ExternalCheck { provider, policies, is_dry_run, asks, cache }
    });
    (name(), list(check)).prop_map(|(key, checks)| ExternalAuthorization { key, checks })
}
