//! The rules between fields of a Gateway that its CRD states in CEL.

use std::net::IpAddr;

use super::{Gateway, GatewayAddress, Listener, ListenerTlsConfig, TlsMode};
use crate::codes::Code;
use crate::schema::Cursor;
use crate::schema::formats::is_hostname;

pub(crate) fn listeners_are_consistent(listeners: &[Listener], cursor: &mut Cursor<'_>) {
    cursor.within("listeners", |cursor| {
        for (index, listener) in listeners.iter().enumerate() {
            cursor.within(index, |cursor| protocol_fits(listener, cursor));
            let earlier = listeners.iter().take(index);
            if earlier.clone().any(|other| {
                (other.port, &other.protocol, &other.hostname)
                    == (listener.port, &listener.protocol, &listener.hostname)
            }) {
                cursor.report_at(
                    index,
                    Code::GatewayApiRule,
                    "the combination of port, protocol and hostname must be unique",
                );
            }
        }
    });
}

fn protocol_fits(listener: &Listener, cursor: &mut Cursor<'_>) {
    let protocol = listener.protocol.as_str();
    if matches!(protocol, "HTTP" | "TCP" | "UDP") && listener.tls.is_some() {
        cursor.report_at("tls", Code::GatewayApiRule, format!("`tls` must not be set for protocol {protocol}"));
    }
    if protocol == "HTTPS" && listener.tls.as_ref().is_some_and(|tls| tls.mode != TlsMode::Terminate) {
        cursor.report_at("tls", Code::GatewayApiRule, "the TLS mode must be Terminate for protocol HTTPS");
    }
    if protocol == "TLS" && listener.tls.is_none() {
        cursor.report_at("tls", Code::GatewayApiRule, "the TLS mode must be set for protocol TLS");
    }
    if matches!(protocol, "TCP" | "UDP") && listener.hostname.is_some() {
        cursor.report_at(
            "hostname",
            Code::GatewayApiRule,
            format!("`hostname` must not be set for protocol {protocol}"),
        );
    }
}

pub(super) fn certificates_or_options(tls: &ListenerTlsConfig, cursor: &mut Cursor<'_>) {
    if tls.mode == TlsMode::Terminate && tls.certificate_refs.is_empty() && tls.options.is_empty() {
        cursor.report_at(
            "certificateRefs",
            Code::GatewayApiRule,
            "`certificateRefs` or `options` must be set when the mode is Terminate",
        );
    }
}

pub(super) fn addresses_are_unique(gateway: &Gateway, cursor: &mut Cursor<'_>) {
    cursor.within("addresses", |cursor| {
        for (index, address) in gateway.addresses.iter().enumerate() {
            let is_unique_type = matches!(address.address_type.as_str(), "IPAddress" | "Hostname");
            if is_unique_type
                && address.value.is_some()
                && gateway.addresses.iter().take(index).any(|other| other == address)
            {
                cursor.report_at(
                    index,
                    Code::GatewayApiRule,
                    format!("{} values must be unique", address.address_type),
                );
            }
        }
    });
}

pub(super) fn address_fits_type(address: &GatewayAddress, cursor: &mut Cursor<'_>) {
    let Some(value) = address.value.as_deref() else { return };
    match address.address_type.as_str() {
        "IPAddress" if value.parse::<IpAddr>().is_err() => {
            cursor.report_at("value", Code::InvalidFormat, format!("`{value}` is not an IP address"))
        }
        "Hostname" if !is_hostname(value) => {
            cursor.report_at("value", Code::GatewayApiRule, format!("`{value}` is not a host name"))
        }
        _ => {}
    }
}
