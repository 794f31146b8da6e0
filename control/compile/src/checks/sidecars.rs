//! Sidecars and ServiceEntries: fields that are not served, documents that another one makes void.

use palisade_crds::istio::{CaptureMode, IstioEgressListener, IstioIngressListener, Sidecar, WorkloadEntry};

use super::{first_of_each, not_served};
use crate::{
    object::{self, Head},
    reports::{Code, Report, Reports},
    resolve::Resolved,
};

/// Adds all findings about them.
pub(super) fn check(resolved: &Resolved, reports: &mut Reports) {
    for document in resolved.inputs.sidecars.values() {
        let Sidecar { workload_selector: _, ingress, egress, inbound_connection_pool, outbound_traffic_policy } =
            &document.spec;
        let head = &document.head;
        not_served(head, inbound_connection_pool.is_some(), "spec.inboundConnectionPool", reports);
        for (index, listener) in ingress.iter().flatten().enumerate() {
            let IstioIngressListener { port: _, bind, capture_mode, default_endpoint, tls, connection_pool } = listener;
            let place = format!("spec.ingress[{index}]");
            if default_endpoint.starts_with("unix://") {
                let message = "unix sockets are not served: connections to this port are refused";
                reports.add(Report::warning(head, Code::Refused, &format!("{place}.defaultEndpoint"), message));
            }
            not_served(head, !bind.is_empty(), &format!("{place}.bind"), reports);
            not_served(head, *capture_mode == CaptureMode::None, &format!("{place}.captureMode"), reports);
            not_served(head, tls.is_some(), &format!("{place}.tls"), reports);
            not_served(head, connection_pool.is_some(), &format!("{place}.connectionPool"), reports);
        }
        for (index, listener) in egress.iter().flatten().enumerate() {
            let IstioEgressListener { port: _, bind, capture_mode, hosts: _ } = listener;
            let place = format!("spec.egress[{index}]");
            not_served(head, !bind.is_empty(), &format!("{place}.bind"), reports);
            not_served(head, *capture_mode == CaptureMode::None, &format!("{place}.captureMode"), reports);
        }
        if outbound_traffic_policy.as_ref().is_some_and(|policy| policy.egress_proxy.is_some()) {
            let message = "`egressProxy` is not served: calls to unknown hosts are refused";
            let path = "spec.outboundTrafficPolicy.egressProxy";
            reports.add(Report::warning(head, Code::Refused, path, message));
        }
    }
    defaults(resolved, reports);
    for document in resolved.inputs.service_entries.values() {
        for (index, endpoint) in document.spec.endpoints.iter().flatten().enumerate() {
            networked(&document.head, endpoint, &format!("spec.endpoints[{index}]"), reports);
        }
    }
    for document in resolved.inputs.workload_entries.values() {
        networked(&document.head, &document.spec, "spec", reports);
    }
}

/// One Sidecar without selector counts in a namespace.
fn defaults(resolved: &Resolved, reports: &mut Reports) {
    let documents = object::by_age(resolved.inputs.sidecars.values());
    let without_selector = documents
        .into_iter()
        .filter(|document| document.spec.workload_selector.as_ref().is_none_or(|selector| selector.labels.is_empty()))
        .map(|document| (document.head.key.namespace.clone(), &document.head));
    first_of_each(without_selector, |head, older| {
        let message = format!("`{}` is older and counts for the namespace", older.key);
        reports.add(Report::warning(head, Code::PolicyVoid, "spec", &message));
    });
}

/// Endpoints of other networks are dialled like those of this one; unix sockets are not dialled at all.
fn networked(head: &Head, endpoint: &WorkloadEntry, place: &str, reports: &mut Reports) {
    if endpoint.address.as_deref().is_some_and(|address| address.starts_with("unix://")) {
        let message = "unix sockets are not served: connections to this endpoint are refused";
        reports.add(Report::warning(head, Code::Refused, &format!("{place}.address"), message));
    }
    not_served(head, endpoint.network.is_some(), &format!("{place}.network"), reports);
}
