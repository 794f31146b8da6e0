//! What runs Gateways on a real API server: made, kept, customised, never taken from others, and removed.

use anyhow::{Context, ensure};
use palisade_tests::{kubernetes::Cluster, wait::until};
use serde_json::{Value, json};

use crate::control::{GATEWAY_API, Replica, SOON, Stand, condition, told};

const NAMESPACE: &str = "provisioned";

/// The kinds that are made: path of the API, plural.
const KINDS: [(&str, &str); 5] = [
    ("api/v1", "serviceaccounts"),
    ("api/v1", "services"),
    ("apis/apps/v1", "deployments"),
    ("apis/autoscaling/v2", "horizontalpodautoscalers"),
    ("apis/policy/v1", "poddisruptionbudgets"),
];

async fn object(stand: &Stand<'_>, plural: &str, name: &str) -> anyhow::Result<Option<Value>> {
    let (api, _) = KINDS.iter().find(|(_, known)| *known == plural).context("unknown kind")?;
    let path = format!("/{api}/namespaces/{NAMESPACE}/{plural}/{name}");
    let request = http::Request::get(path).body(Vec::new())?;
    match stand.client.request(request).await {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn there(stand: &Stand<'_>, plural: &str, name: &str) -> anyhow::Result<Value> {
    object(stand, plural, name).await?.with_context(|| format!("no {plural} {name}"))
}

async fn conditions(stand: &Stand<'_>, name: &str) -> anyhow::Result<Value> {
    Ok(stand.get(GATEWAY_API, "gateways", NAMESPACE, name).await?["status"]["conditions"].clone())
}

fn gateway(name: &str, class: &str, rest: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  gatewayClassName: {class}
  listeners: [{{name: http, port: 80, protocol: HTTP}}, {{name: alt, port: 8080, protocol: HTTP}}]
{rest}
"
    )
}

async fn patch(stand: &Stand<'_>, kind: &str, name: &str, what: &str) -> anyhow::Result<()> {
    let arguments = ["patch", kind, name, "-n", NAMESPACE, "--type=merge", "-p", what];
    stand.cluster.kubectl(&arguments).await.map(drop)
}

#[tokio::test]
async fn gateways_get_what_runs_them_and_nobody_loses_anything() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    let stand = Stand::new(&cluster, NAMESPACE).await?;
    // Only what the profile `restricted` admits may run here.
    let label = "pod-security.kubernetes.io/enforce=restricted";
    cluster.kubectl(&["label", "namespace", NAMESPACE, label]).await?;
    let control =
        stand.control_with("one", &["--gateway-provisioning=on", "--gateway-image=example.com/edge:1"]).await?;
    made_and_programmed(&stand).await.with_context(|| control.said())?;
    kept(&stand, &control).await.with_context(|| control.said())?;
    customised(&stand).await.with_context(|| control.said())?;
    foreign(&stand).await.with_context(|| control.said())?;
    named_service(&stand).await.with_context(|| control.said())?;
    moved_and_removed(&stand).await.with_context(|| control.said())?;
    classes(&stand).await.with_context(|| control.said())?;
    control.stop().await?;
    // Whoever comes next would miss the proxies of its pods.
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=90s"]).await.map(drop)
}

/// Five objects, pods under `restricted`, an address when the cluster gives one.
async fn made_and_programmed(stand: &Stand<'_>) -> anyhow::Result<()> {
    stand.cluster.apply(&gateway("edge", "palisade", "")).await?;
    until("the objects", SOON, async || {
        for (_, plural) in KINDS {
            let object = there(stand, plural, "edge-palisade").await?;
            ensure!(object["metadata"]["ownerReferences"][0]["name"] == "edge", "{object}");
        }
        Ok(())
    })
    .await?;
    until("pods that the namespace admits", SOON, async || {
        let deployment = there(stand, "deployments", "edge-palisade").await?;
        ensure!(deployment["status"]["readyReplicas"] == 2, "{}", deployment["status"]);
        Ok(())
    })
    .await?;
    until("a Gateway without address", SOON, async || {
        let told = told(&conditions(stand, "edge").await?, "Programmed")?;
        ensure!(told == "False AddressNotAssigned", "{told}");
        Ok(())
    })
    .await?;
    let ingress = r#"{"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.example.com"}]}}}"#;
    let arguments =
        ["patch", "service", "edge-palisade", "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", ingress];
    stand.cluster.kubectl(&arguments).await?;
    until("addresses", SOON, async || {
        let status = stand.get(GATEWAY_API, "gateways", NAMESPACE, "edge").await?["status"].clone();
        let expected = json!([
            {"type": "IPAddress", "value": "192.0.2.1"}, {"type": "Hostname", "value": "lb.example.com"},
        ]);
        ensure!(status["addresses"] == expected, "{status}");
        // Simulated pods run no proxy, and that is what is said now.
        ensure!(told(&status["conditions"], "Programmed")? == "False Pending", "{status}");
        Ok(())
    })
    .await
}

/// Versions of all objects: a write changes one.
async fn versions(stand: &Stand<'_>) -> anyhow::Result<Vec<String>> {
    let mut versions = Vec::new();
    for plural in ["serviceaccounts", "services", "deployments", "horizontalpodautoscalers", "poddisruptionbudgets"] {
        let mut object = there(stand, plural, "edge-palisade").await?;
        let fields = object.as_object_mut().context("no object")?;
        // Controllers write their status, and the Deployment's what they have rolled out.
        fields.remove("status");
        for (_, value) in fields.iter_mut().filter(|(key, _)| *key == "metadata") {
            if let Some(metadata) = value.as_object_mut() {
                metadata.remove("resourceVersion");
                metadata.remove("managedFields");
                metadata.remove("annotations");
            }
        }
        versions.push(object.to_string());
    }
    Ok(versions)
}

/// What others change is undone, listeners change the Service alone, and a second leader writes nothing.
async fn kept(stand: &Stand<'_>, control: &Replica) -> anyhow::Result<()> {
    patch(
        stand,
        "service",
        "edge-palisade",
        r#"{"spec": {"selector": {"gateway.networking.k8s.io/gateway-name": "x"}}}"#,
    )
    .await?;
    stand.cluster.kubectl(&["delete", "poddisruptionbudget", "edge-palisade", "-n", NAMESPACE]).await?;
    until("what was changed and deleted", SOON, async || {
        let service = there(stand, "services", "edge-palisade").await?;
        ensure!(service["spec"]["selector"]["gateway.networking.k8s.io/gateway-name"] == "edge", "{service}");
        there(stand, "poddisruptionbudgets", "edge-palisade").await.map(drop)
    })
    .await?;
    let before = there(stand, "deployments", "edge-palisade").await?["metadata"]["generation"].clone();
    let more = r#"[{"op": "add", "path": "/spec/listeners/-", "value": {"name": "more", "port": 9090, "protocol": "TCP"}},
                   {"op": "remove", "path": "/spec/listeners/1"}]"#;
    let arguments = ["patch", "gateway", "edge", "-n", NAMESPACE, "--type=json", "-p", more];
    stand.cluster.kubectl(&arguments).await?;
    until("ports of the Service", SOON, async || {
        let service = there(stand, "services", "edge-palisade").await?;
        let ports: Vec<i64> = service["spec"]["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|port| port["port"].as_i64())
            .collect();
        ensure!(ports == [80, 9090], "{ports:?}");
        Ok(())
    })
    .await?;
    let after = there(stand, "deployments", "edge-palisade").await?["metadata"]["generation"].clone();
    ensure!(before == after, "a change of listeners restarts nothing: {before} {after}");
    let before = versions(stand).await?;
    let told = stand.gateway_writes(control).await?;
    // A leader that comes anew looks at everything and has nothing to write.
    let second =
        stand.control_with("two", &["--gateway-provisioning=on", "--gateway-image=example.com/edge:1"]).await?;
    stand.cluster.kubectl(&["delete", "lease", "palisade-control-leader", "-n", "palisade-system"]).await?;
    until("some status by whoever leads", SOON, async || {
        stand.cluster.apply(&gateway("probe", "palisade", "")).await?;
        there(stand, "services", "probe-palisade").await.map(drop)
    })
    .await?;
    stand.cluster.kubectl(&["delete", "gateway", "probe", "-n", NAMESPACE]).await?;
    ensure!(versions(stand).await? == before, "something was written");
    let more = stand.gateway_writes(control).await? - told + stand.gateway_writes(&second).await?;
    ensure!(more <= 5, "{more} writes for five new objects");
    second.stop().await
}

/// What owners say goes in; what cannot be said is named in status, and leaves what is there.
async fn customised(stand: &Stand<'_>) -> anyhow::Result<()> {
    let map = |data: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: own, namespace: {NAMESPACE}}}\ndata:\n{data}\n")
    };
    let own = "  infrastructure: {labels: {team: a}, parametersRef: {group: \"\", kind: ConfigMap, name: own}}";
    stand.cluster.apply(&gateway("edge", "palisade", own)).await?;
    until("a ConfigMap that is missing", SOON, async || {
        let (truth, reason, _, message) = condition(&conditions(stand, "edge").await?, "Accepted")?;
        ensure!(
            truth == "False" && reason == "InvalidParameters" && message.contains("own` does not exist"),
            "{message}"
        );
        Ok(())
    })
    .await?;
    stand
        .cluster
        .apply(&map("  deployment: |\n    spec: {replicas: 3}\n  service: |\n    spec: {externalTrafficPolicy: Local}"))
        .await?;
    until("what its owner says", SOON, async || {
        let deployment = there(stand, "deployments", "edge-palisade").await?;
        ensure!(deployment["spec"]["replicas"] == 3, "{}", deployment["spec"]["replicas"]);
        ensure!(deployment["metadata"]["labels"]["team"] == "a", "{}", deployment["metadata"]);
        let service = there(stand, "services", "edge-palisade").await?;
        ensure!(service["spec"]["externalTrafficPolicy"] == "Local", "{}", service["spec"]);
        ensure!(object(stand, "horizontalpodautoscalers", "edge-palisade").await?.is_none(), "it is still scaled");
        ensure!(told(&conditions(stand, "edge").await?, "Accepted")? == "True Accepted", "not accepted");
        Ok(())
    })
    .await?;
    stand
        .cluster
        .apply(&map(
            "  deployment: |\n    spec: {replicas: many}\n  service: |\n    spec: {externalTrafficPolicy: Local}",
        ))
        .await?;
    until("what the API server refuses", SOON, async || {
        let (truth, reason, _, message) = condition(&conditions(stand, "edge").await?, "Accepted")?;
        ensure!(truth == "False" && reason == "InvalidParameters" && message.contains("edge-palisade"), "{message}");
        Ok(())
    })
    .await?;
    ensure!(there(stand, "deployments", "edge-palisade").await?["spec"]["replicas"] == 3);
    stand.cluster.apply(&map("  deployment: |\n    spec: {replicas: 1}")).await?;
    until("what is right again", SOON, async || {
        ensure!(there(stand, "deployments", "edge-palisade").await?["spec"]["replicas"] == 1);
        let service = there(stand, "services", "edge-palisade").await?;
        ensure!(service["spec"]["externalTrafficPolicy"] == "Cluster", "{}", service["spec"]);
        ensure!(told(&conditions(stand, "edge").await?, "Accepted")? == "True Accepted", "not accepted");
        Ok(())
    })
    .await
}

/// Somebody else's Service of the same name is left as it is, and status says so; without it all is made.
async fn foreign(stand: &Stand<'_>) -> anyhow::Result<()> {
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: taken-palisade, namespace: {NAMESPACE}}}\n\
         spec: {{selector: {{app: theirs}}, ports: [{{port: 5432}}]}}\n"
    );
    stand.cluster.apply(&service).await?;
    stand.cluster.apply(&gateway("taken", "palisade", "")).await?;
    until("a name that is taken", SOON, async || {
        let (truth, reason, _, message) = condition(&conditions(stand, "taken").await?, "Programmed")?;
        let is_said = message.contains("Service `provisioned/taken-palisade` is there already");
        ensure!(truth == "False" && reason == "NoResources" && is_said, "{reason}: {message}");
        Ok(())
    })
    .await?;
    let theirs = there(stand, "services", "taken-palisade").await?;
    ensure!(theirs["spec"]["selector"] == json!({"app": "theirs"}), "{theirs}");
    ensure!(theirs["metadata"].get("ownerReferences").is_none(), "{theirs}");
    // Its owner hands it over.
    let label = [
        "label",
        "service",
        "taken-palisade",
        "-n",
        NAMESPACE,
        "app.kubernetes.io/managed-by=palisade",
        "gateway.networking.k8s.io/gateway-name=taken",
    ];
    stand.cluster.kubectl(&label).await?;
    until("a Service that was handed over", SOON, async || {
        let ours = there(stand, "services", "taken-palisade").await?;
        ensure!(ours["spec"]["selector"]["gateway.networking.k8s.io/gateway-name"] == "taken", "{ours}");
        ensure!(ours["metadata"]["uid"] == theirs["metadata"]["uid"], "it was made anew");
        let told = told(&conditions(stand, "taken").await?, "Programmed")?;
        ensure!(told == "False AddressNotAssigned", "{told}");
        Ok(())
    })
    .await
}

/// A Gateway that names a Service is run by that Service's pods.
async fn named_service(stand: &Stand<'_>) -> anyhow::Result<()> {
    let rest = "  addresses: [{type: Hostname, value: taken-palisade.provisioned.svc.cluster.local}]";
    // The ports of the other Gateway of these pods are taken.
    let beside = gateway("manual", "palisade", rest).replace("port: 80,", "port: 81,").replace("8080", "8081");
    stand.cluster.apply(&beside).await?;
    until("the address of the Service", SOON, async || {
        let told = told(&conditions(stand, "manual").await?, "Programmed")?;
        ensure!(told == "False AddressNotAssigned", "{told}");
        Ok(())
    })
    .await?;
    ensure!(object(stand, "deployments", "manual-palisade").await?.is_none(), "something runs it besides");
    let nowhere = "  addresses: [{type: Hostname, value: nowhere}]";
    stand.cluster.apply(&gateway("manual", "palisade", nowhere)).await?;
    until("a Service that is not there", SOON, async || {
        let told = told(&conditions(stand, "manual").await?, "Programmed")?;
        ensure!(told == "False AddressNotUsable", "{told}");
        Ok(())
    })
    .await
}

/// Another class is other objects; names at their limit; a Gateway that goes takes its objects along.
async fn moved_and_removed(stand: &Stand<'_>) -> anyhow::Result<()> {
    stand.cluster.apply(&gateway("taken", "palisade-egress", "")).await?;
    until("the objects of the other class", SOON, async || {
        let service = there(stand, "services", "taken-palisade-egress").await?;
        ensure!(service["spec"]["type"] == "ClusterIP", "{service}");
        for (_, plural) in KINDS {
            ensure!(object(stand, plural, "taken-palisade").await?.is_none(), "{plural} of the old class");
        }
        Ok(())
    })
    .await?;
    let long = format!("{}.{}", "a".repeat(63), "b".repeat(60));
    stand.cluster.apply(&gateway(&long, "palisade", "")).await?;
    until("a Gateway with a long name", SOON, async || {
        let all = stand.cluster.kubectl(&["get", "deployment", "-n", NAMESPACE, "-o", "json"]).await?;
        let all: Value = serde_json::from_str(&all)?;
        let items = all["items"].as_array().context("no list")?;
        let own = items.iter().find(|own| own["metadata"]["ownerReferences"][0]["name"] == long.as_str());
        let name = own.context("no Deployment")?["metadata"]["name"].as_str().unwrap_or_default();
        ensure!(name.len() == 63, "{name}");
        there(stand, "services", name).await.map(drop)
    })
    .await?;
    stand.cluster.kubectl(&["delete", "gateway", "edge", &long, "-n", NAMESPACE]).await?;
    until("what is gone with its Gateway", SOON, async || {
        for (_, plural) in KINDS {
            ensure!(object(stand, plural, "edge-palisade").await?.is_none(), "{plural} is left");
        }
        Ok(())
    })
    .await?;
    // The same name under another UID.
    stand.cluster.apply(&gateway("edge", "palisade", "")).await?;
    until("the objects of the new one", SOON, async || {
        let own = stand.get(GATEWAY_API, "gateways", NAMESPACE, "edge").await?;
        for (_, plural) in KINDS {
            let object = there(stand, plural, "edge-palisade").await?;
            ensure!(object["metadata"]["ownerReferences"][0]["uid"] == own["metadata"]["uid"], "{object}");
        }
        Ok(())
    })
    .await
}

/// The classes of this controller are there without anybody making them.
async fn classes(stand: &Stand<'_>) -> anyhow::Result<()> {
    let found = stand.cluster.kubectl(&["get", "gatewayclass", "-o", "name"]).await?;
    ensure!(found.contains("/palisade\n") && found.contains("/palisade-egress"), "{found}");
    ensure!(!found.contains("/istio"), "an istiod may be there: {found}");
    Ok(())
}
