//! Sidecar.

use std::collections::{BTreeMap, BTreeSet};

use super::destination_rule::check_connection_pool;
use super::gateway::check_tls;
use super::{Protocol, host, port, virtual_service};
use crate::codes::Code;
use crate::istio::{
    CaptureMode, IstioEgressListener, IstioIngressListener, OutboundTrafficPolicy, OutboundTrafficPolicyMode,
    ServerTlsMode, Sidecar, SidecarPort,
};
use crate::object::Meta;
use crate::schema::Cursor;

const CODE: Code = Code::SidecarRule;

pub(super) fn check(meta: &Meta, sidecar: &Sidecar, cursor: &mut Cursor<'_>) {
    let Sidecar { workload_selector, ingress, egress, inbound_connection_pool, outbound_traffic_policy } = sidecar;
    if workload_selector.as_ref().is_some_and(|selector| selector.labels.is_empty()) {
        cursor.report_at(
            "workloadSelector",
            Code::PolicyAttachment,
            "a selector without labels selects every workload of the namespace",
        );
    }
    let ingress = ingress.as_deref().unwrap_or_default();
    let egress = egress.as_deref().unwrap_or_default();
    if ingress.is_empty() && egress.is_empty() && outbound_traffic_policy.is_none() && inbound_connection_pool.is_none()
    {
        cursor.report(CODE, "a Sidecar must not be empty");
    }
    cursor.within("ingress", |cursor| {
        let mut ports = BTreeSet::new();
        for (index, listener) in ingress.iter().enumerate() {
            cursor.within(index, |cursor| {
                check_ingress(listener, cursor);
                if !ports.insert(listener.port.number) {
                    cursor.report_at(
                        "port",
                        CODE,
                        format!("port {} is used by another listener", listener.port.number),
                    );
                }
            });
        }
    });
    if let Some(pool) = inbound_connection_pool {
        cursor.within("inboundConnectionPool", |cursor| check_connection_pool(pool, CODE, cursor));
    }
    cursor.within("egress", |cursor| check_egress(meta, egress, cursor));
    if let Some(policy) = outbound_traffic_policy {
        cursor.within("outboundTrafficPolicy", |cursor| check_outbound(policy, cursor));
    }
}

fn check_port(listener: &SidecarPort, bind: &str, cursor: &mut Cursor<'_>) {
    cursor.within("port", |cursor| {
        if listener.target_port > 0 {
            cursor.report_at("targetPort", CODE, "`targetPort` has no effect on Sidecars");
        }
        if !listener.name.is_empty() && !host::is_label(&listener.name) {
            cursor.report_at("name", CODE, format!("`{}` is not a port name", listener.name));
        }
        if !listener.protocol.is_empty() && Protocol::parse(&listener.protocol).is_none() {
            cursor.report_at("protocol", CODE, format!("`{}` is not a known protocol", listener.protocol));
        }
    });
    if listener.number != 0 && !bind.is_empty() && !host::is_ip(bind) {
        cursor.report_at("bind", CODE, format!("`{bind}` is not an IP address"));
    }
}

fn check_ingress(listener: &IstioIngressListener, cursor: &mut Cursor<'_>) {
    let IstioIngressListener { port: own, bind, capture_mode: _, default_endpoint, tls, connection_pool } = listener;
    check_port(own, bind, cursor);
    cursor.within("port", |cursor| port("number", own.number, CODE, cursor));
    if own.number == 0 && !bind.is_empty() && !host::is_ip(bind) {
        cursor.report_at("bind", CODE, format!("`{bind}` is not an IP address"));
    }
    if !default_endpoint.is_empty() && !is_endpoint(default_endpoint) {
        let form = "127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT or unix://PATH";
        cursor.report_at("defaultEndpoint", CODE, format!("`{default_endpoint}` is none of {form}"));
    }
    let protocol = Protocol::parse(&own.protocol);
    if let Some(tls) = tls {
        cursor.within("tls", |cursor| {
            let unsupported = [
                ("subjectAltNames", !tls.subject_alt_names.is_empty()),
                ("httpsRedirect", tls.https_redirect),
                ("credentialName", !tls.credential_name.is_empty()),
                ("credentialNames", tls.credential_names.is_some()),
                ("tlsCertificates", tls.tls_certificates.is_some()),
                ("mode", matches!(tls.mode, ServerTlsMode::IstioMutual | ServerTlsMode::AutoPassthrough)),
            ];
            for (field, _) in unsupported.into_iter().filter(|(_, is_written)| *is_written) {
                cursor.report_at(field, CODE, format!("this `{field}` is not supported in a Sidecar"));
            }
            if !protocol.is_some_and(Protocol::is_tls) {
                cursor.report(CODE, "TLS settings are for the protocols HTTPS and TLS only");
            }
            check_tls(tls, CODE, cursor);
        });
    }
    if let Some(pool) = connection_pool {
        cursor.within("connectionPool", |cursor| {
            check_connection_pool(pool, CODE, cursor);
            if pool.http.is_some() && protocol != Some(Protocol::Http) {
                cursor.report_at(
                    "http",
                    Code::DestinationRuleWarning,
                    "HTTP settings have no effect on a port that is not HTTP",
                );
            }
        });
    }
}

fn is_endpoint(text: &str) -> bool {
    if let Some(path) = text.strip_prefix("unix://") {
        return host::is_unix_address(path);
    }
    let Some((address, port)) = text.rsplit_once(':') else { return false };
    matches!(address, "" | "127.0.0.1" | "0.0.0.0" | "[::1]" | "[::]") && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn check_egress(meta: &Meta, listeners: &[IstioEgressListener], cursor: &mut Cursor<'_>) {
    let mut ports = BTreeSet::new();
    let mut sockets = BTreeSet::new();
    for (index, listener) in listeners.iter().enumerate() {
        let IstioEgressListener { port, bind, capture_mode, hosts } = listener;
        cursor.within(index, |cursor| {
            match port {
                None if index + 1 != listeners.len() => {
                    cursor.report(CODE, "the listener without port must be the last one")
                }
                None => {}
                Some(port) => {
                    check_port(port, bind, cursor);
                    if port.number == 0 {
                        if !bind.strip_prefix("unix://").is_some_and(host::is_unix_address) {
                            cursor.report_at("bind", CODE, "a listener without port number must bind a unix socket");
                        }
                        if *capture_mode == CaptureMode::Iptables {
                            cursor.report_at("captureMode", CODE, "a unix socket cannot be captured");
                        }
                        if !sockets.insert(bind.as_str()) {
                            cursor.report_at("bind", CODE, "the socket is used by another listener");
                        }
                    } else {
                        cursor.within("port", |cursor| super::port("number", port.number, CODE, cursor));
                        if !ports.insert(port.number) {
                            cursor.report_at("port", CODE, format!("port {} is used by another listener", port.number));
                        }
                    }
                }
            }
            check_hosts(meta, hosts, cursor);
        });
    }
}

fn check_hosts(meta: &Meta, hosts: &[String], cursor: &mut Cursor<'_>) {
    if hosts.is_empty() {
        cursor.report_at("hosts", CODE, "a listener must have a host");
    }
    cursor.within("hosts", |cursor| {
        let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (index, entry) in hosts.iter().enumerate() {
            if let Err(message) = host::sidecar_host(entry) {
                cursor.report_at(index, CODE, message);
            }
            let Some((namespace, name)) = entry.split_once('/').filter(|(namespace, _)| !namespace.starts_with('~'))
            else {
                continue;
            };
            let namespace = if namespace == "." { meta.namespace.as_str() } else { namespace };
            let names = seen.entry(namespace).or_default();
            let is_repeated = if name == "*" { !names.is_empty() } else { names.contains(name) || names.contains("*") };
            if is_repeated {
                cursor.report_at(index, Code::PolicyAttachment, format!("`{entry}` is covered by another entry"));
            }
            names.insert(name);
        }
        if seen.len() > 1 && seen.get("*").is_some_and(|names| names.contains("*")) {
            cursor.report(Code::PolicyAttachment, "`*/*` covers all other entries");
        }
    });
}

fn check_outbound(policy: &OutboundTrafficPolicy, cursor: &mut Cursor<'_>) {
    let Some(proxy) = &policy.egress_proxy else { return };
    if policy.mode != OutboundTrafficPolicyMode::AllowAny {
        cursor.report_at("egressProxy", CODE, "`egressProxy` needs mode ALLOW_ANY");
        return;
    }
    cursor.within("egressProxy", |cursor| {
        if let Err(message) = host::fqdn(&proxy.host) {
            cursor.report_at("host", CODE, message);
        }
        if proxy.port.is_none() {
            cursor.report_at("port", CODE, "a port is required");
        } else {
            virtual_service::destination(proxy, CODE, cursor);
        }
    });
}
