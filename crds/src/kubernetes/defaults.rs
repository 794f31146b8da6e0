//! Defaults that the API server fills in, and the few rules that it checks and that matter here.

use std::collections::BTreeSet;

use super::{
    ConfigMap, Deployment, EndpointSlice, IntOrString, Namespace, Node, Pod, PodSpec, Service, ServiceAccount,
    StatefulSet,
};
use crate::codes::Code;
use crate::issue::Issue;
use crate::path::Path;

/// Kinds whose absent fields mean something.
pub(crate) trait Defaults {
    /// Fills in what is absent and reports what the API server refuses.
    fn fill_in(&mut self, issues: &mut Vec<Issue>);
}

impl Defaults for Namespace {
    fn fill_in(&mut self, _issues: &mut Vec<Issue>) {}
}

impl Defaults for Node {
    fn fill_in(&mut self, _issues: &mut Vec<Issue>) {}
}

impl Defaults for ServiceAccount {
    fn fill_in(&mut self, _issues: &mut Vec<Issue>) {}
}

impl Defaults for ConfigMap {
    fn fill_in(&mut self, _issues: &mut Vec<Issue>) {}
}

impl Defaults for Service {
    fn fill_in(&mut self, issues: &mut Vec<Issue>) {
        let spec = self.spec.get_or_insert_default();
        spec.type_.get_or_insert_with(|| "ClusterIP".to_owned());
        spec.session_affinity.get_or_insert_with(|| "None".to_owned());
        let is_headless = spec.cluster_ip.as_deref() == Some("None");
        let is_external_name = spec.type_.as_deref() == Some("ExternalName");
        let place = Path::root().join("spec").join("ports");
        if spec.ports.as_ref().is_none_or(Vec::is_empty) && !is_headless && !is_external_name {
            issues.push(Issue::new(Code::KubernetesRule, place.clone(), "a Service must have a port"));
        }
        let ports = spec.ports.as_deref_mut().unwrap_or_default();
        let several = ports.len() > 1;
        let mut names = BTreeSet::new();
        let mut numbers = BTreeSet::new();
        for (index, port) in ports.iter_mut().enumerate() {
            let mut refuse = |field: &str, message: String| {
                issues.push(Issue::new(Code::KubernetesRule, place.join(index).join(field), message))
            };
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
            port.target_port.get_or_insert(IntOrString::Int(port.port));
            if !(1..=65535).contains(&port.port) {
                refuse("port", format!("`{}` is not a port between 1 and 65535", port.port));
            }
            if let Some(IntOrString::Int(target)) = &port.target_port
                && (1..=65535).contains(&port.port)
                && !(1..=65535).contains(target)
            {
                refuse("targetPort", format!("`{target}` is not a port between 1 and 65535"));
            }
            match port.name.as_deref().filter(|name| !name.is_empty()) {
                None if several => refuse("name", "a port must have a name when there are several".to_owned()),
                Some(name) if !names.insert(name.to_owned()) => {
                    refuse("name", format!("port name `{name}` is used twice"))
                }
                _ => {}
            }
            if !numbers.insert((port.protocol.clone(), port.port)) {
                refuse("port", format!("port {} is listed twice", port.port));
            }
        }
    }
}

impl Defaults for EndpointSlice {
    fn fill_in(&mut self, issues: &mut Vec<Issue>) {
        for port in self.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
            port.name.get_or_insert_default();
        }
        if !matches!(self.address_type.as_str(), "IPv4" | "IPv6" | "FQDN") {
            issues.push(Issue::new(
                Code::KubernetesRule,
                Path::root().join("addressType"),
                "the address type must be IPv4, IPv6 or FQDN",
            ));
        }
    }
}

impl Defaults for Pod {
    fn fill_in(&mut self, issues: &mut Vec<Issue>) {
        let place = Path::root().join("spec");
        match &mut self.spec {
            Some(spec) => fill_in_pod(spec, &place, issues),
            None => issues.push(Issue::new(Code::MissingField, place, "`spec` is required")),
        }
    }
}

impl Defaults for Deployment {
    fn fill_in(&mut self, issues: &mut Vec<Issue>) {
        let Some(spec) = &mut self.spec else {
            issues.push(Issue::new(Code::MissingField, Path::root().join("spec"), "`spec` is required"));
            return;
        };
        spec.replicas.get_or_insert(1);
        template(spec.template.spec.as_mut(), issues);
        selects_own_pods(
            spec.selector.match_labels.as_ref(),
            spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref()),
            issues,
        );
    }
}

impl Defaults for StatefulSet {
    fn fill_in(&mut self, issues: &mut Vec<Issue>) {
        let Some(spec) = &mut self.spec else {
            issues.push(Issue::new(Code::MissingField, Path::root().join("spec"), "`spec` is required"));
            return;
        };
        spec.replicas.get_or_insert(1);
        template(spec.template.spec.as_mut(), issues);
        selects_own_pods(
            spec.selector.match_labels.as_ref(),
            spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref()),
            issues,
        );
    }
}

fn template(spec: Option<&mut PodSpec>, issues: &mut Vec<Issue>) {
    let place = Path::parse("spec.template.spec");
    match spec {
        Some(spec) => fill_in_pod(spec, &place, issues),
        None => issues.push(Issue::new(Code::MissingField, place, "`spec` is required")),
    }
}

type Labels = std::collections::BTreeMap<String, String>;

fn selects_own_pods(selector: Option<&Labels>, labels: Option<&Labels>, issues: &mut Vec<Issue>) {
    let missing =
        selector.into_iter().flatten().find(|(key, value)| labels.and_then(|labels| labels.get(*key)) != Some(*value));
    if let Some((key, _)) = missing {
        let place = Path::parse("spec.template.metadata.labels");
        issues.push(Issue::new(
            Code::KubernetesRule,
            place,
            format!("`selector` does not match the template's labels: `{key}`"),
        ));
    }
}

fn fill_in_pod(spec: &mut PodSpec, place: &Path, issues: &mut Vec<Issue>) {
    // The older name of the field counts where the newer one says nothing.
    let account = spec.service_account_name.take().filter(|name| !name.is_empty());
    let account = account.or_else(|| spec.service_account.clone().filter(|name| !name.is_empty()));
    spec.service_account_name = Some(account.unwrap_or_else(|| "default".to_owned()));
    if spec.containers.is_empty() {
        issues.push(Issue::new(Code::KubernetesRule, place.join("containers"), "a pod must have a container"));
    }
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        for port in container.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }
}
