//! CustomResourceDefinitions: the API server takes them, and refuses what `palisade analyze` calls an error.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use futures::{StreamExt, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, api::ListParams};
use palisade_control::definitions::{Installed, install};
use palisade_crds::{
    Code, Document,
    crd::{self, Definition},
    parse,
};
use palisade_tests::kubernetes::Cluster;
use serde_json::{Value, json};

use crate::documents::{specs, specs_with_unknown_fields};

/// Requests at a time.
const AT_ONCE: usize = 16;
/// One document in this many is sent, unless `PALISADE_LONG` is set.
const ONE_IN: usize = 7;

async fn installed(cluster: &Cluster) -> anyhow::Result<Client> {
    let client = cluster.client().await?;
    install(&client, true).await?;
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]).await?;
    Ok(client)
}

#[tokio::test]
async fn all_definitions_are_established_and_structural() -> anyhow::Result<()> {
    let cluster = Cluster::shared().await?;
    let client = installed(&cluster).await?;
    let held: Api<CustomResourceDefinition> = Api::all(client);
    let all = held.list(&ListParams::default()).await?;
    let names: Vec<&str> = all.iter().filter_map(|held| held.metadata.name.as_deref()).collect();
    for definition in crd::palisade().iter().chain(&crd::istio()) {
        ensure!(names.contains(&definition.name.as_str()), "{} is not there", definition.name);
    }
    for held in &all {
        let conditions = held.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let wrong: Vec<_> = conditions
            .filter(|condition| {
                !(["Established", "NamesAccepted"].contains(&&*condition.type_) && condition.status == "True")
            })
            .collect();
        ensure!(wrong.is_empty(), "{:?}: {wrong:?}", held.metadata.name);
    }
    let categories = cluster.kubectl(&["api-resources", "--categories=palisade", "-o", "name"]).await?;
    ensure!(categories.trim() == "cedarpolicies.palisade.dev", "{categories}");
    let explained = cluster.kubectl(&["explain", "cedarpolicy.spec.policies"]).await?;
    ensure!(explained.contains("Cedar's syntax"), "{explained}");
    Ok(())
}

#[tokio::test]
async fn definitions_of_istio_that_are_there_are_kept() -> anyhow::Result<()> {
    let cluster = Cluster::exclusive().await?;
    let client = installed(&cluster).await?;
    let name = "sidecars.networking.istio.io";
    cluster.kubectl(&["annotate", "crd", name, "owner=somebody", "--overwrite"]).await?;
    cluster.kubectl(&["label", "crd", name, "app.kubernetes.io/part-of=istio", "--overwrite"]).await?;
    let again = install(&client, true).await?;
    for (of, done) in &again {
        let expected = if of.ends_with(".palisade.dev") { Installed::Applied } else { Installed::Kept };
        ensure!(*done == expected, "{of}: {done:?}");
    }
    let label = "jsonpath={.metadata.labels.app\\.kubernetes\\.io/part-of}{.metadata.annotations.owner}";
    let kept = cluster.kubectl(&["get", "crd", name, "-o", label]).await?;
    ensure!(kept == "istiosomebody", "{kept}");
    Ok(())
}

#[tokio::test]
async fn samples_of_istio_apply() -> anyhow::Result<()> {
    let Ok(samples) = std::env::var("ISTIO_SAMPLES") else {
        eprintln!("skipped: ISTIO_SAMPLES is not set");
        return Ok(());
    };
    let cluster = Cluster::shared().await?;
    installed(&cluster).await?;
    cluster.install_gateway_api("experimental").await?;
    for namespace in ["foo", "bar", "istio-system", "sample"] {
        // Another test may have made it.
        drop(cluster.kubectl(&["create", "namespace", namespace]).await);
    }
    let mut files = Vec::new();
    collect(Path::new(&samples), &mut files)?;
    ensure!(files.len() > 10, "{} files", files.len());
    for file in files {
        cluster
            .kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", &file])
            .await
            .with_context(|| file.clone())?;
    }
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<String>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml") {
            files.push(path.display().to_string());
        }
    }
    Ok(())
}

/// The schema of `spec` and the version that is stored.
fn stored(definition: &Definition) -> (&str, &Value) {
    let versions = definition.object["spec"]["versions"].as_array().unwrap();
    let version = versions.iter().find(|version| version["storage"] == true).unwrap();
    (version["name"].as_str().unwrap(), &version["schema"]["openAPIV3Schema"]["properties"]["spec"])
}

fn object(definition: &Definition, spec: Value) -> Value {
    let of = &definition.object["spec"];
    let (version, _) = stored(definition);
    json!({
        "apiVersion": format!("{}/{version}", of["group"].as_str().unwrap()),
        "kind": of["names"]["kind"],
        "metadata": {"name": "a", "namespace": "default"},
        "spec": spec,
    })
}

/// What would be stored; `Err` with what the API server says.
async fn dry_run(client: &Client, definition: &Definition, object: &Value) -> anyhow::Result<Result<Value, String>> {
    let of = &definition.object["spec"];
    let (version, _) = stored(definition);
    let url = format!(
        "/apis/{}/{version}/namespaces/default/{}?dryRun=All&fieldValidation=Ignore",
        of["group"].as_str().unwrap(),
        of["names"]["plural"].as_str().unwrap()
    );
    let body = serde_json::to_vec(object)?;
    let request = http::Request::post(url).header("content-type", "application/json").body(body)?;
    match client.request_text(request).await {
        Ok(text) => Ok(Ok(serde_json::from_str(&text)?)),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => Ok(Err(status.message.clone())),
        Err(error) => Err(error.into()),
    }
}

/// What a schema can say; the webhook has the rest.
const OF_SCHEMAS: [Code; 6] = [
    Code::WrongType,
    Code::MissingField,
    Code::UnknownValue,
    Code::OutOfRange,
    Code::ConflictingFields,
    Code::DuplicateItem,
];

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_refuses_what_analyze_calls_an_error_of_the_schema() -> anyhow::Result<()> {
    let cluster = Cluster::shared().await?;
    let client = installed(&cluster).await?;
    let one_in = if std::env::var_os("PALISADE_LONG").is_some() { 1 } else { ONE_IN };
    let (mut sent, mut refused, mut wrong) = (0, 0, Vec::new());
    for definition in crd::palisade().iter().chain(&crd::istio()) {
        let (_, schema) = stored(definition);
        let objects = specs(schema).into_iter().step_by(one_in).map(|spec| object(definition, spec));
        let answers: Vec<(Value, anyhow::Result<Result<Value, String>>)> = stream::iter(objects)
            .map(|object| {
                let client = client.clone();
                async move {
                    let answer = dry_run(&client, definition, &object).await;
                    (object, answer)
                }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (object, answer) in answers {
            let answer = answer?;
            let issues = parse(&Document::from_value(object.clone()), "default").issues;
            let is_of_schema = |issue: &&palisade_crds::Issue| {
                // A spec that is null is no spec; the API server decodes a list as bytes.
                OF_SCHEMAS.contains(&issue.code)
                    && !object["spec"].is_null()
                    && !issue.path.to_string().ends_with("body.bytes")
            };
            let by_schema = issues.iter().find(is_of_schema);
            let is_error = issues.iter().any(palisade_crds::Issue::is_error);
            sent += 1;
            refused += usize::from(answer.is_err());
            match (&answer, by_schema) {
                (Ok(_), Some(issue)) => wrong.push(format!("taken, but {}: {}: {object}", issue.path, issue.message)),
                (Err(message), _) if !is_error => {
                    wrong.push(format!("refused, but not by analyze: {message}: {object}"))
                }
                _ => {}
            }
        }
    }
    println!("{sent} documents, {refused} refused by the API server");
    ensure!(sent > 3000 && refused > 2000, "{sent} documents, {refused} refused");
    ensure!(
        wrong.is_empty(),
        "{} of {sent}:\n{}",
        wrong.len(),
        wrong.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_prunes_what_analyze_calls_unknown() -> anyhow::Result<()> {
    let cluster = Cluster::shared().await?;
    let client = installed(&cluster).await?;
    let (mut taken, mut wrong) = (0, Vec::new());
    for definition in crd::palisade().iter().chain(&crd::istio()) {
        let (_, schema) = stored(definition);
        for spec in specs_with_unknown_fields(schema) {
            let object = object(definition, spec);
            // Where something else is wrong as well there is nothing to be seen.
            let Ok(stored) = dry_run(&client, definition, &object).await? else { continue };
            let issues = parse(&Document::from_value(object.clone()), "default").issues;
            let is_warned = issues
                .iter()
                .any(|issue| issue.code == Code::UnknownField && issue.path.to_string().ends_with("unknown"));
            let is_kept = stored["spec"].to_string().contains("\"unknown\"");
            taken += 1;
            if is_kept == is_warned {
                wrong.push(format!("kept: {is_kept}, warned: {is_warned}: {object}"));
            }
        }
    }
    ensure!(taken > 150, "{taken}");
    ensure!(wrong.is_empty(), "{} of {taken}:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}
