//! TLSRoute, TCPRoute and UDPRoute: where the API versions of a kind differ.

use std::net::IpAddr;

use crate::codes::Code;
use crate::gateway_api::{L4RouteRule, TlsRoute};
use crate::object::Meta;
use crate::schema::Cursor;

const CODE: Code = Code::GatewayApiRule;
/// The oldest version is the laxest.
const OLDEST: &str = "v1alpha2";

pub(super) fn check_tls(meta: &Meta, route: &TlsRoute, cursor: &mut Cursor<'_>) {
    if meta.version == OLDEST {
        return;
    }
    if route.hostnames.is_empty() {
        cursor.report_at("hostnames", Code::MissingField, "at least one host name is required");
    }
    cursor.within("hostnames", |cursor| {
        for (index, host) in route.hostnames.iter().enumerate().filter(|(_, host)| host.parse::<IpAddr>().is_ok()) {
            cursor.report_at(index, CODE, format!("`{host}` is an address; only names are sent as server names"));
        }
    });
}

/// The rules of a TCPRoute or UDPRoute.
pub(super) fn check_rules(meta: &Meta, rules: &[L4RouteRule], cursor: &mut Cursor<'_>) {
    if meta.version != OLDEST && rules.len() > 1 {
        cursor.report_at("rules", Code::OutOfRange, format!("{} rules; exactly one is allowed", rules.len()));
    }
    cursor.within("rules", |cursor| {
        for (index, rule) in rules.iter().enumerate() {
            if rule.name.is_some() && rules.iter().take(index).any(|other| other.name == rule.name) {
                cursor.within(index, |cursor| {
                    cursor.report_at("name", CODE, "rule names must be unique within the route");
                });
            }
        }
    });
}
