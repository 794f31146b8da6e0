//! Istio's Gateway, and the TLS settings of servers.

use std::collections::BTreeSet;

use super::host::{gateway_host, is_ip, is_label, is_unix_address};
use super::{Protocol, port};
use crate::codes::Code;
use crate::istio::{Gateway, Server, ServerTlsMode, ServerTlsSettings, TlsVersion};
use crate::object::Meta;
use crate::schema::Cursor;

const CODE: Code = Code::GatewayServer;

pub(super) fn check(meta: &Meta, gateway: &Gateway, cursor: &mut Cursor<'_>) {
    if !is_label(&meta.name) {
        cursor.report(CODE, format!("`{}` is not a gateway name: it must be a single label", meta.name));
    }
    if gateway.servers.is_empty() {
        cursor.report_at("servers", CODE, "a gateway must have a server");
    }
    cursor.within("servers", |cursor| {
        let mut names = BTreeSet::new();
        for (index, server) in gateway.servers.iter().enumerate() {
            cursor.within(index, |cursor| {
                check_server(server, cursor);
                if !names.insert(server.port.name.as_str()) {
                    cursor.report_at("port", CODE, format!("port name `{}` is used twice", server.port.name));
                }
            });
        }
    });
}

fn check_server(server: &Server, cursor: &mut Cursor<'_>) {
    if server.hosts.is_empty() {
        cursor.report_at("hosts", CODE, "a server must have a host");
    }
    cursor.within("hosts", |cursor| {
        for (index, host) in server.hosts.iter().enumerate() {
            if let Err(message) = gateway_host(host) {
                cursor.report_at(index, CODE, message);
            }
        }
    });
    let protocol = Protocol::parse(&server.port.protocol);
    let socket = server.bind.strip_prefix("unix://");
    cursor.within("port", |cursor| {
        if protocol.is_none() {
            let message = format!(
                "protocol `{}` is none of HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, MONGO, REDIS, MYSQL, TCP, TLS",
                server.port.protocol
            );
            cursor.report_at("protocol", CODE, message);
        }
        if server.port.number > 0 || socket.is_none() {
            port("number", server.port.number, CODE, cursor);
        }
        if server.port.target_port > 0 {
            cursor.report_at("targetPort", CODE, "`targetPort` has no effect on gateways");
        }
        if server.port.name.is_empty() {
            cursor.report_at("name", CODE, "a port must have a name");
        }
    });
    match socket {
        Some(path) => {
            if !is_unix_address(path) {
                cursor.report_at("bind", CODE, format!("`{path}` is not the absolute path of a socket"));
            }
            if server.port.number != 0 {
                cursor.report_at("port", CODE, "the port number must be 0 on a unix socket");
            }
        }
        None if !server.bind.is_empty() && !is_ip(&server.bind) => {
            cursor.report_at("bind", CODE, format!("`{}` is not an IP address", server.bind));
        }
        None => {}
    }
    if let Some(tls) = &server.tls {
        cursor.within("tls", |cursor| check_tls(tls, CODE, cursor));
    }
    let Some(protocol) = protocol else { return };
    match &server.tls {
        None if protocol.is_tls() => cursor.report_at("tls", CODE, "a server for HTTPS or TLS must have TLS settings"),
        Some(tls) if !protocol.is_tls() => {
            let is_passthrough = matches!(tls.mode, ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough);
            let has_files =
                !(tls.ca_certificates.is_empty() && tls.private_key.is_empty() && tls.server_certificate.is_empty());
            if protocol != Protocol::Http {
                cursor.report_at("tls", CODE, "TLS settings are for the protocols HTTPS and TLS only");
            } else if !is_passthrough || has_files {
                cursor.report_at("tls", CODE, "a plaintext HTTP server can only have `httpsRedirect`");
            }
        }
        _ => {}
    }
    if protocol != Protocol::Http && server.tls.as_ref().is_some_and(|tls| tls.https_redirect) {
        cursor.report_at("tls", Code::GatewayWarning, "`httpsRedirect` only has an effect on HTTP servers");
    }
}

pub(super) fn check_tls(tls: &ServerTlsSettings, code: Code, cursor: &mut Cursor<'_>) {
    warn_ciphers(tls, cursor);
    let files = tls.tls_certificates.as_deref().unwrap_or_default();
    let names = tls.credential_names.as_deref().unwrap_or_default();
    let sources = [
        ("serverCertificate", !tls.server_certificate.is_empty()),
        ("privateKey", !tls.private_key.is_empty()),
        ("caCertificates", !tls.ca_certificates.is_empty()),
        ("tlsCertificates", !files.is_empty()),
        ("credentialName", !tls.credential_name.is_empty()),
        ("credentialNames", !names.is_empty()),
    ];
    let has_any = sources.iter().any(|(_, is_set)| *is_set);
    match tls.mode {
        ServerTlsMode::IstioMutual => {
            for (field, _) in sources.into_iter().filter(|(_, is_set)| *is_set) {
                cursor.report_at(
                    field,
                    code,
                    format!("ISTIO_MUTUAL uses the mesh's certificates, so `{field}` must not be set"),
                );
            }
            return;
        }
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough if has_any || !tls.ca_crl.is_empty() => {
            cursor
                .report(Code::GatewayWarning, format!("{} uses no certificates; they are ignored", tls.mode.as_str()));
        }
        _ => {}
    }
    let has_pair = !tls.server_certificate.is_empty() && !tls.private_key.is_empty();
    let ways = [has_pair, !tls.credential_name.is_empty(), !names.is_empty(), !files.is_empty()];
    if ways.into_iter().filter(|is_set| *is_set).count() > 1 {
        cursor.report(code, "only one of `credentialName`, `credentialNames`, `tlsCertificates` and `serverCertificate` with `privateKey` may be set");
    }
    let is_mutual = matches!(tls.mode, ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
    let terminates = is_mutual || tls.mode == ServerTlsMode::Simple;
    if terminates && !(tls.credential_name.is_empty() && names.is_empty()) {
        return;
    }
    if is_mutual && tls.ca_certificates.is_empty() {
        cursor.report_at("caCertificates", code, format!("{} needs roots for client certificates", tls.mode.as_str()));
    }
    if terminates {
        let single = [(tls.server_certificate.as_str(), tls.private_key.as_str())];
        let several: Vec<(&str, &str)> =
            files.iter().map(|file| (file.server_certificate.as_str(), file.private_key.as_str())).collect();
        let pairs = if several.is_empty() { &single[..] } else { &several };
        for (certificate, key) in pairs {
            for (field, value) in [("serverCertificate", certificate), ("privateKey", key)] {
                if value.is_empty() {
                    cursor.report_at(
                        field,
                        code,
                        format!("{} needs a certificate with its key, or a `credentialName`", tls.mode.as_str()),
                    );
                }
            }
        }
    }
    if !tls.ca_crl.is_empty() {
        if !tls.credential_name.is_empty() {
            cursor.report_at(
                "caCrl",
                code,
                "`caCrl` is not supported with `credentialName`; it belongs into the Secret",
            );
        }
        if tls.mode == ServerTlsMode::Simple {
            cursor.report_at("caCrl", code, "`caCrl` is not supported with SIMPLE");
        }
    }
}

const CIPHERS: [&str; 15] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

fn warn_ciphers(tls: &ServerTlsSettings, cursor: &mut Cursor<'_>) {
    if matches!(tls.min_protocol_version, TlsVersion::V1_0 | TlsVersion::V1_1) && tls.cipher_suites.is_empty() {
        cursor.report_at(
            "minProtocolVersion",
            Code::GatewayWarning,
            "versions below 1.2 need `cipherSuites` that they can use",
        );
    }
    cursor.within("cipherSuites", |cursor| {
        for (index, name) in tls.cipher_suites.iter().enumerate() {
            // A name that starts with an operator of OpenSSL's list syntax is taken as it is.
            let is_known = name.is_empty()
                || name == "ALL"
                || !name.starts_with(char::is_alphanumeric)
                || CIPHERS.contains(&name.as_str());
            if !is_known {
                cursor.report_at(index, Code::GatewayWarning, format!("unknown cipher suite `{name}` is ignored"));
            } else if tls.cipher_suites.iter().take(index).any(|earlier| earlier == name) {
                cursor.report_at(index, Code::GatewayWarning, format!("cipher suite `{name}` is listed twice"));
            }
        }
    });
}
