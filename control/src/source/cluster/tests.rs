//! A cluster's documents are compiled when all are there, and anew when something changed.

mod cost;

use std::{collections::BTreeMap, sync::Arc};

use palisade_compile::ControlSettings;
use serde_json::{Value, json};

use super::{
    kinds::Kind,
    pending::{Name, Teller, Text, Watched},
    *,
};

/// A source that is told by the test what a cluster has.
struct Cluster {
    source: ClusterDocuments,
    kinds: BTreeMap<Kind, Teller>,
    asked: watch::Receiver<BTreeSet<Reference>>,
    options: SourceOptions,
}

impl Cluster {
    fn new() -> Self {
        let pending = Arc::new(Pending::default());
        let options = SourceOptions { control: ControlSettings::default(), is_files: false };
        let (wanted, asked) = watch::channel(mesh_config(&options));
        let kinds: BTreeMap<Kind, Teller> =
            Kind::built_in().chain(Kind::of_crds()).map(|kind| (kind, pending.begin(Watched::Kind(kind)))).collect();
        let watches = tokio::spawn(std::future::pending());
        let source = ClusterDocuments::new(pending, options.clone(), wanted, watches);
        Self { source, kinds, asked, options }
    }

    /// A cluster with these documents and nothing else, compiled once.
    async fn of(documents: &[Value]) -> Self {
        let mut cluster = Self::new();
        cluster.source.pending.serves(cluster.kinds.keys().copied().collect());
        for (kind, teller) in &cluster.kinds {
            let own = documents.iter().filter(|document| document["kind"] == kind.kind);
            teller.listed(own.map(|document| (name(document), Text::new(document))).collect());
        }
        cluster.answer_references(&[]);
        while cluster.inputs().await.is_none() {
            cluster.answer_references(&[]);
        }
        cluster
    }

    /// Answers every object that is asked for: with one of these, or with nothing.
    fn answer_references(&mut self, objects: &[Value]) {
        for reference in self.asked.borrow_and_update().iter() {
            let found =
                objects.iter().find(|object| name(object) == (reference.namespace.clone(), reference.name.clone()));
            let teller = self.source.pending.begin(Watched::Referenced(reference.clone()));
            teller.listed(found.map(|object| (name(object), Text::new(object))).into_iter().collect());
        }
    }

    fn change(&self, kind: &str, group: &str, document: &Value) {
        let (_, teller) = self.kinds.iter().find(|(known, _)| (known.kind, known.group) == (kind, group)).unwrap();
        teller.changed(name(document), Some(Text::new(document)));
    }

    async fn inputs(&mut self) -> Option<Inputs> {
        let changes = self.source.next().await;
        self.source.take(changes).then(|| self.source.inputs(&self.options))?
    }
}

fn name(document: &Value) -> Name {
    let field = |name: &str| Arc::from(document["metadata"][name].as_str().unwrap_or_default());
    (field("namespace"), field("name"))
}

fn gateway(certificate: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "foo"},
        "spec": {"gatewayClassName": "palisade", "listeners": [{
            "name": "https", "port": 443, "protocol": "HTTPS",
            "tls": {"mode": "Terminate", "certificateRefs": [{"name": certificate}]},
        }]},
    })
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

const GATEWAY_API: &str = "gateway.networking.k8s.io";

#[tokio::test]
async fn nothing_is_compiled_before_every_list_is_there() {
    let mut cluster = Cluster::new();
    cluster.source.pending.serves(cluster.kinds.keys().copied().collect());
    let tellers: Vec<Teller> = cluster.kinds.values().cloned().collect();
    cluster.answer_references(&[]);
    for teller in tellers {
        assert!(cluster.inputs().await.is_none(), "before {teller:?}");
        teller.listed(BTreeMap::new());
    }
    assert!(cluster.inputs().await.is_some());
}

#[tokio::test]
async fn settings_of_the_mesh_come_first_too() {
    let mut cluster = Cluster::new();
    cluster.source.pending.serves(cluster.kinds.keys().copied().collect());
    cluster.kinds.values().for_each(|teller| teller.listed(BTreeMap::new()));
    assert!(cluster.inputs().await.is_none(), "mesh-wide settings may say STRICT");
    let settings = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": "trustDomain: example.org"},
    });
    cluster.answer_references(&[settings]);
    let inputs = cluster.inputs().await.unwrap();
    assert_eq!(inputs.settings.trust_domain.as_str(), "example.org");
}

#[tokio::test(start_paused = true)]
async fn a_change_waits_for_what_it_names_for_the_first_time() {
    let mut cluster = Cluster::of(&[namespace("foo")]).await;
    cluster.change("Gateway", GATEWAY_API, &gateway("tls"));
    assert!(cluster.inputs().await.is_none(), "the Secret is asked for");
    assert!(cluster.asked.borrow().iter().any(|reference| &*reference.name == "tls"));
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls", "namespace": "foo"},
        "data": {"tls.crt": "YQ==", "tls.key": "Yg=="},
    });
    cluster.answer_references(&[secret]);
    let inputs = cluster.inputs().await.unwrap();
    assert_eq!((inputs.secrets.len(), inputs.api_gateways.len()), (1, 1));
    // Another one, and nobody answers: the change is not held up for ever, nor is any later one.
    cluster.change("Gateway", GATEWAY_API, &gateway("other"));
    assert!(cluster.inputs().await.is_none());
    let inputs = cluster.inputs().await.expect("patience has an end");
    assert_eq!(inputs.api_gateways.len(), 1);
    cluster.change("Namespace", "", &namespace("bar"));
    assert!(cluster.inputs().await.is_some(), "given up once, given up for good");
}

#[tokio::test]
async fn a_secret_that_nobody_names_is_not_asked_for() {
    let mut cluster = Cluster::of(&[namespace("foo"), gateway("tls")]).await;
    let names = |cluster: &Cluster| -> Vec<String> {
        cluster.asked.borrow().iter().map(|reference| format!("{}/{}", reference.namespace, reference.name)).collect()
    };
    assert_eq!(names(&cluster), ["foo/tls", "istio-system/istio"]);
    let mut foreign = gateway("tls");
    foreign["spec"]["gatewayClassName"] = json!("nginx");
    cluster.change("Gateway", GATEWAY_API, &foreign);
    assert!(cluster.inputs().await.is_some());
    assert_eq!(names(&cluster), ["istio-system/istio"], "another controller's Gateway");
    let mut across = gateway("tls");
    across["spec"]["listeners"][0]["tls"]["certificateRefs"][0]["namespace"] = json!("bar");
    cluster.change("Gateway", GATEWAY_API, &across);
    assert!(cluster.inputs().await.is_some());
    assert_eq!(names(&cluster), ["istio-system/istio"], "no ReferenceGrant allows it");
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": {"name": "grant", "namespace": "bar"},
        "spec": {"from": [{"group": GATEWAY_API, "kind": "Gateway", "namespace": "foo"}],
                 "to": [{"group": "", "kind": "Secret"}]},
    });
    cluster.change("ReferenceGrant", GATEWAY_API, &grant);
    assert!(cluster.inputs().await.is_none());
    assert_eq!(names(&cluster), ["bar/tls", "istio-system/istio"]);
    let mut odd = gateway("tls,metadata.name!=tls");
    odd["metadata"]["name"] = json!("odd");
    cluster.change("Gateway", GATEWAY_API, &odd);
    cluster.answer_references(&[]);
    assert!(cluster.inputs().await.is_some());
    assert_eq!(names(&cluster), ["bar/tls", "istio-system/istio"], "no object has such a name");
}
