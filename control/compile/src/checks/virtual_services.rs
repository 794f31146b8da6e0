//! Findings about VirtualServices.

use palisade_crds::istio::{Destination, HttpRoute};
use palisade_model::host::HostPattern;

use super::{first_of_each, is_known, name_of};
use crate::{
    hosts,
    object::{self, Head, ObjectKey},
    reports::{Code, Report, Reports},
    resolve::{Resolved, virtual_services::MESH},
};

pub(super) fn check(resolved: &Resolved, reports: &mut Reports) {
    for bound in resolved.virtual_services.iter() {
        for gateway in &bound.gateways {
            let is_there = gateway == MESH
                || gateway.split_once('/').is_some_and(|(namespace, name)| {
                    resolved.inputs.gateways.contains_key(&ObjectKey::new(namespace, name))
                });
            if !is_there {
                let message = format!("there is no Gateway `{gateway}`");
                reports.add(Report::warning(&bound.head, Code::UnknownGateway, "spec.gateways", &message));
            }
        }
        for (index, route) in bound.tls.iter().enumerate() {
            for (position, weighted) in route.route.iter().enumerate() {
                let path = format!("spec.tls[{index}].route[{position}].destination");
                destination(resolved, &bound.head, &weighted.destination, &path, reports);
            }
        }
        for (index, route) in bound.tcp.iter().enumerate() {
            for (position, weighted) in route.route.iter().enumerate() {
                let path = format!("spec.tcp[{index}].route[{position}].destination");
                destination(resolved, &bound.head, &weighted.destination, &path, reports);
            }
        }
    }
    for document in resolved.inputs.virtual_services.values() {
        for (index, route) in document.spec.http.iter().enumerate() {
            http(resolved, &document.head, index, route, reports);
        }
    }
    conflicts(resolved, reports);
}

fn http(resolved: &Resolved, head: &Head, index: usize, route: &HttpRoute, reports: &mut Reports) {
    let place = format!("spec.http[{index}]");
    if let Some(delegate) = &route.delegate {
        let namespace = if delegate.namespace.is_empty() { &*head.key.namespace } else { delegate.namespace.as_str() };
        let key = ObjectKey::new(namespace, delegate.name.as_str());
        let is_there = resolved.inputs.virtual_services.get(&key).is_some_and(|found| found.spec.hosts.is_empty());
        if !is_there {
            let message = format!("there is no VirtualService `{key}` without hosts: the rule is skipped");
            reports.add(Report::warning(head, Code::UnknownDelegate, &format!("{place}.delegate"), &message));
        }
    }
    for (position, weighted) in route.route.iter().enumerate() {
        let mut written = weighted.destination.clone();
        written.host = hosts::full_name(&written.host, &head.key.namespace, &resolved.settings.cluster_domain);
        destination(resolved, head, &written, &format!("{place}.route[{position}].destination"), reports);
    }
}

/// A destination in full.
fn destination(resolved: &Resolved, head: &Head, written: &Destination, path: &str, reports: &mut Reports) {
    let host = resolved.services.alias_target(&written.host).unwrap_or_else(|| written.host.as_str().into());
    let Some(service) = resolved.services.visible(&host, &head.key.namespace) else {
        let message = format!("no service that namespace `{}` may see has host `{}`", head.key.namespace, written.host);
        reports.add(Report::warning(head, Code::UnknownHost, &format!("{path}.host"), &message));
        return;
    };
    if let Some(port) = &written.port
        && !service.ports.iter().any(|own| u32::from(own.number) == port.number)
    {
        let message = format!("service `{host}` has no port {}", port.number);
        reports.add(Report::warning(head, Code::UnknownPort, &format!("{path}.port"), &message));
    }
    if !written.subset.is_empty() {
        let exact = HostPattern::Exact(host);
        let is_defined = resolved
            .destinations
            .iter()
            .filter(|policy| policy.host.covers(&exact))
            .any(|policy| policy.subsets.contains_key(written.subset.as_str()));
        if !is_defined {
            let message = format!("no DestinationRule for `{}` defines subset `{}`", written.host, written.subset);
            reports.add(Report::warning(head, Code::UnknownSubset, &format!("{path}.subset"), &message));
        }
    }
}

/// Sidecars serve a host by one VirtualService only, the oldest.
fn conflicts(resolved: &Resolved, reports: &mut Reports) {
    let for_mesh = resolved.virtual_services.iter().filter(|bound| bound.is_bound_to(MESH));
    let hosts = for_mesh.flat_map(|bound| {
        let namespace =
            bound.visibility.is_private_to(&bound.head.key.namespace).then(|| bound.head.key.namespace.clone());
        bound.hosts.iter().map(move |host| ((namespace.clone(), host.clone()), &bound.head))
    });
    let mut found: Vec<(&Head, &Head)> = Vec::new();
    first_of_each(hosts, |later, older| {
        if later.key != older.key && !found.contains(&(later, older)) {
            found.push((later, older));
        }
    });
    for (later, older) in found {
        debug_assert!(object::cmp_age(older, later).is_le());
        let message = format!("sidecars serve its host by the older VirtualService `{}` alone", name_of(older));
        reports.add(Report::warning(later, Code::HostConflict, "spec.hosts", &message));
    }
    for bound in resolved.virtual_services.iter() {
        for host in &bound.hosts {
            // A host that no service has is fine at gateways, and at sidecars for names of the outside.
            let is_local = host.to_string().ends_with(&format!(".svc.{}", resolved.settings.cluster_domain));
            if is_local && !is_known(resolved, host) {
                let message = format!("no service has host `{host}`");
                reports.add(Report::warning(&bound.head, Code::UnknownHost, "spec.hosts", &message));
            }
        }
    }
}
