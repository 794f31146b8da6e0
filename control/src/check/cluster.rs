//! The cluster itself: its version, and the definitions that documents need.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, api::ListParams};
use palisade_crds::crd;

use super::{Checkup, Finding, Level};

/// The oldest Kubernetes with all that is used: preStop sleep, native sidecars, ValidatingAdmissionPolicies.
pub(super) const OLDEST: u32 = 30;

/// Releases of the Gateway API whose definitions are understood.
const GATEWAY_API: std::ops::RangeInclusive<u32> = 0..=6;

const BUNDLE: &str = "gateway.networking.k8s.io/bundle-version";
const CHANNEL: &str = "gateway.networking.k8s.io/channel";

impl Checkup {
    /// Version and definitions.
    pub(super) async fn cluster(&self) -> Result<Vec<Finding>, kube::Error> {
        let version = self.client.apiserver_version().await?;
        let minor = minor(&version.minor);
        let mut findings = vec![match minor {
            Some(minor) if minor >= OLDEST => Finding::ok("kubernetes", format!("Kubernetes {}", version.git_version)),
            _ => Finding::new("kubernetes", Level::Error, format!("Kubernetes {} is too old", version.git_version))
                .cure(format!("1.{OLDEST} or later is needed")),
        }];
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        match api.list_metadata(&ListParams::default()).await {
            Ok(list) => {
                let has = |name: &str| list.items.iter().any(|crd| crd.metadata.name.as_deref() == Some(name));
                let gateway = list
                    .items
                    .iter()
                    .find(|crd| crd.metadata.name.as_deref() == Some("gateways.gateway.networking.k8s.io"));
                let annotation = |key: &str| {
                    gateway
                        .and_then(|crd| crd.metadata.annotations.as_ref()?.get(key))
                        .map(String::as_str)
                        .unwrap_or_default()
                };
                findings.push(gateway_api(gateway.is_some(), annotation(BUNDLE), annotation(CHANNEL)));
                findings.push(own(&has));
                findings.push(istio(&has));
            }
            Err(error) => findings.push(Finding::unseen("definitions", &error)),
        }
        Ok(findings)
    }
}

/// `30` or `30+`.
fn minor(text: &str) -> Option<u32> {
    text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

fn gateway_api(is_there: bool, version: &str, channel: &str) -> Finding {
    const CHECK: &str = "gateway-api";
    if !is_there {
        return Finding::new(
            CHECK,
            Level::Warning,
            "the Gateway API is not installed: there are no Gateways and routes",
        )
        .cure("install the standard channel of a release v1.0 to v1.6");
    }
    let is_known = version
        .strip_prefix("v1.")
        .and_then(|rest| rest.split(['.', '-']).next()?.parse().ok())
        .is_some_and(|minor: u32| GATEWAY_API.contains(&minor));
    let what = format!("the Gateway API {version}, channel {channel}");
    if is_known {
        Finding::ok(CHECK, what)
    } else {
        Finding::new(CHECK, Level::Warning, format!("{what}: this release is not known here"))
            .cure("v1.0 to v1.6 are known; what others add is not served")
    }
}

fn own(has: &impl Fn(&str) -> bool) -> Finding {
    const CHECK: &str = "definitions";
    let missing: Vec<String> =
        crd::palisade().into_iter().map(|definition| definition.name).filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return Finding::ok(CHECK, "Palisade's definitions are installed");
    }
    Finding::new(CHECK, Level::Info, format!("not installed: {}", missing.join(", ")))
        .cure("helm install palisade-crds deploy/helm/palisade-crds, or palisade crds apply")
}

fn istio(has: &impl Fn(&str) -> bool) -> Finding {
    const CHECK: &str = "istio-definitions";
    let all: Vec<String> = crd::istio().into_iter().map(|definition| definition.name).collect();
    let missing: Vec<&str> = all.iter().map(String::as_str).filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return Finding::ok(CHECK, "Istio's definitions are installed");
    }
    let what = if missing.len() == all.len() { "all of them".to_owned() } else { missing.join(", ") };
    Finding::new(CHECK, Level::Info, format!("definitions of Istio's kinds are missing: {what}"))
        .cure("palisade crds apply --istio, if documents of those kinds are to be used")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_vendors_write_them() {
        assert_eq!([minor("30"), minor("31+"), minor("")], [Some(30), Some(31), None]);
    }

    #[test]
    fn releases_of_the_gateway_api_are_judged() {
        for (version, level) in [
            ("v1.6.3", Level::Ok),
            ("v1.0.0-rc1", Level::Ok),
            ("v1.7.0", Level::Warning),
            ("v0.8.0", Level::Warning),
            ("", Level::Warning),
        ] {
            assert_eq!(gateway_api(true, version, "standard").level, level, "{version}");
        }
        assert_eq!(gateway_api(false, "", "").level, Level::Warning);
    }
}
