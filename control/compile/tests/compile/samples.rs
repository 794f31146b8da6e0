//! Istio's sample documents compile as they should. Reads the folder that `ISTIO_SAMPLES` names; unset = skipped.

use std::{
    fs,
    path::{Path, PathBuf},
};

use palisade_compile::{Compiled, ProxyRef};
use palisade_model::{
    resource::{Resource, ResourceKind},
    route::RouteAction,
};

use crate::support;

fn samples() -> Option<PathBuf> {
    match std::env::var_os("ISTIO_SAMPLES") {
        None => {
            println!("skipped: ISTIO_SAMPLES is not set");
            None
        }
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(path.is_dir(), "ISTIO_SAMPLES={} is not a folder", path.display());
            Some(path)
        }
    }
}

fn compiled(root: &Path, files: &[&str]) -> Compiled {
    let documents =
        files.iter().flat_map(|file| support::documents(file, &fs::read_to_string(root.join(file)).unwrap())).collect();
    support::compile_all(documents)
}

const APP: &str = "bookinfo/platform/kube/bookinfo.yaml";
const RULES: &str = "bookinfo/networking/destination-rule-all.yaml";

#[test]
fn no_sample_is_rejected() {
    let Some(root) = samples() else { return };
    for folder in ["bookinfo/networking", "bookinfo/gateway-api", "bookinfo/platform/kube", "httpbin", "curl"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let compiled = support::compile_text(&fs::read_to_string(&path).unwrap());
            assert!(!compiled.reports.has_errors(), "{}: {:?}", path.display(), compiled.reports.diagnostics());
        }
    }
}

#[test]
fn ninety_ten_is_ninety_ten() {
    let Some(root) = samples() else { return };
    let compiled = compiled(&root, &[APP, RULES, "bookinfo/networking/virtual-service-reviews-90-10.yaml"]);
    let held = support::snapshot(&compiled, &ProxyRef::sidecar("default", "productpage-v1-0"), &[]);
    let Some(Resource::Route(rule)) =
        support::resource(&held, ResourceKind::Route, "VirtualService/default/reviews/http/0@9080")
    else {
        panic!("{:?}", support::names(&held, ResourceKind::Route));
    };
    let RouteAction::Forward(forward) = &rule.action else { panic!() };
    let backends: Vec<(String, u32)> =
        forward.backends.iter().map(|backend| (backend.cluster.to_string(), backend.weight)).collect();
    assert_eq!(
        backends,
        [
            ("outbound|9080|v1|reviews.default.svc.cluster.local".to_owned(), 90),
            ("outbound|9080|v2|reviews.default.svc.cluster.local".to_owned(), 10)
        ]
    );
    assert!(forward.backends.iter().all(|backend| backend.missing.is_none()));
}

#[test]
fn the_gateway_leads_to_the_product_page() {
    let Some(root) = samples() else { return };
    let istio = compiled(&root, &[APP, "bookinfo/networking/bookinfo-gateway.yaml"]);
    let held = support::snapshot(&istio, &ProxyRef::gateway("istio-system", "ingressgateway"), &[]);
    assert_eq!(support::names(&held, ResourceKind::Listener), ["0.0.0.0:8080"]);
    assert_eq!(support::names(&held, ResourceKind::Cluster), ["outbound|9080||productpage.default.svc.cluster.local"]);
    let api = compiled(&root, &[APP, "bookinfo/gateway-api/bookinfo-gateway.yaml"]);
    let held = support::snapshot(&api, &ProxyRef::gateway("default", "bookinfo-gateway"), &[]);
    assert_eq!(support::names(&held, ResourceKind::Listener), ["0.0.0.0:80"]);
    assert_eq!(support::names(&held, ResourceKind::Cluster), ["outbound|9080||productpage.default.svc.cluster.local"]);
}
