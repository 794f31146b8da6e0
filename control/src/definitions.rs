//! CustomResourceDefinitions in a cluster: Palisade's own are brought up to date, Istio's are added only where absent.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use palisade_crds::crd::{self, Definition};

/// The name that the control plane's writes carry.
const FIELD_MANAGER: &str = "palisade";

/// What was done with a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// It is Palisade's, and now as this version has it.
    Applied,
    /// It was absent.
    Created,
    /// It is there already, whoever made it, and was left alone.
    Kept,
}

/// Why a definition is not installed.
#[derive(Debug, thiserror::Error)]
#[error("`{name}`: {source}")]
pub struct InstallError {
    name: String,
    #[source]
    source: Box<InstallCause>,
}

#[derive(Debug, thiserror::Error)]
enum InstallCause {
    #[error("the definition is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error(transparent)]
    Refused(#[from] kube::Error),
}

/// Installs Palisade's definitions, and Istio's where the cluster has none. The Gateway API's are the cluster's own.
///
/// # Errors
/// When the API server refuses one, which it names; those before it are installed.
pub async fn install(client: &Client, with_istio: bool) -> Result<Vec<(String, Installed)>, InstallError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut installed = Vec::new();
    for definition in crd::palisade() {
        let done = apply(&api, &definition).await;
        installed.push(named(definition, done)?);
    }
    if with_istio {
        for definition in crd::istio() {
            let done = create(&api, &definition).await;
            installed.push(named(definition, done)?);
        }
    }
    Ok(installed)
}

fn named(definition: Definition, done: Result<Installed, InstallCause>) -> Result<(String, Installed), InstallError> {
    match done {
        Ok(installed) => Ok((definition.name, installed)),
        Err(source) => Err(InstallError { name: definition.name, source: Box::new(source) }),
    }
}

async fn apply(api: &Api<CustomResourceDefinition>, definition: &Definition) -> Result<Installed, InstallCause> {
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&definition.name, &parameters, &Patch::Apply(&definition.object)).await?;
    Ok(Installed::Applied)
}

/// Whoever created it first wins, also in a race.
async fn create(api: &Api<CustomResourceDefinition>, definition: &Definition) -> Result<Installed, InstallCause> {
    let object: CustomResourceDefinition = serde_json::from_value(definition.object.clone())?;
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(Installed::Created),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Installed::Kept),
        Err(error) => Err(error.into()),
    }
}
