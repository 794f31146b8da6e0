//! Kubernetes' own kinds. Types come from k8s-openapi, except Secret, whose content must never reach a log.

mod defaults;
mod read;
mod secret;

pub use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, StatefulSet, StatefulSetSpec};
pub use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ContainerPort, EnvFromSource, EnvVar, EnvVarSource, Namespace, Node, Pod, PodSpec, PodStatus,
    PodTemplateSpec, Service, ServiceAccount, ServicePort, ServiceSpec,
};
pub use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta, Time};
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
pub use secret::Secret;

pub(crate) use defaults::Defaults;
pub(crate) use read::read;
