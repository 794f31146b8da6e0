//! Settings of the control plane that are not in documents.

use std::{collections::BTreeSet, sync::Arc};

use super::Revisions;

/// Settings that are not in documents (`--set KEY=VALUE`); names as in the documentation, or Istio's environment names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlSettings {
    /// Root namespace, as given by flag; wins over the mesh configuration.
    pub root_namespace: Option<Arc<str>>,
    /// Namespace of the control plane: the root namespace if nothing else says.
    pub control_namespace: Arc<str>,
    /// DNS domain of the cluster.
    pub cluster_domain: Arc<str>,
    /// `rejectPathParameters`: paths with `;` parameters are refused.
    pub reject_path_parameters: bool,
    /// `multipleCustomProviders` (`PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS`).
    pub multiple_custom_providers: bool,
    /// `ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY`: Istio's policies without `targetRefs` apply to gateways of the Gateway API too.
    pub selects_gateways: bool,
    /// `istioClasses`: Gateways of class `istio` are served.
    pub istio_classes: bool,
    /// `PILOT_SCOPE_GATEWAY_TO_NAMESPACE`: a gateway's workload serves the Gateways of its own namespace only.
    pub gateways_in_own_namespace: bool,
    /// Of an API server's objects only those for these revisions are read; `None` = all, as from files.
    pub revisions: Option<Revisions>,
    /// Names that were given with a value that has no effect here: whoever gave them is told.
    pub ineffective: BTreeSet<String>,
}

/// Why a `KEY=VALUE` is not a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSetting {
    /// No `=`.
    #[error("`{0}` is not of the form KEY=VALUE")]
    Shape(String),
    /// No such setting.
    #[error("there is no setting `{0}`")]
    UnknownKey(String),
    /// The value does not fit.
    #[error("setting `{key}`: `{value}` is not {expected}")]
    Value {
        /// The setting.
        key: String,
        /// What was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
}

/// Istio's environment names that change nothing here, each with the value whose behaviour is served.
const FIXED: [(&str, &str); 10] = [
    ("ENABLE_TLS_ON_SIDECAR_INGRESS", "false"),
    ("ENABLE_ENHANCED_DESTINATIONRULE_MERGE", "true"),
    ("PILOT_ENABLE_IP_AUTOALLOCATE", "true"),
    ("PILOT_AUTO_SEND_UNHEALTHY_ENDPOINTS", "true"),
    // Peers of foreign trust domains stay refused, whatever is asked for.
    ("PILOT_SKIP_VALIDATE_TRUST_DOMAIN", "false"),
    ("PILOT_JWT_ENABLE_REMOTE_JWKS", "false"),
    ("PILOT_ENABLE_QUIC_LISTENERS", "false"),
    ("ENABLE_AUTO_MTLS_CHECK_POLICIES", "true"),
    ("PILOT_ENABLE_SENDING_INTERNAL_METADATA", "false"),
    ("ENABLE_NATIVE_SIDECARS", "auto"),
];

impl Default for ControlSettings {
    fn default() -> Self {
        Self {
            root_namespace: None,
            control_namespace: "istio-system".into(),
            cluster_domain: "cluster.local".into(),
            reject_path_parameters: false,
            multiple_custom_providers: false,
            selects_gateways: true,
            istio_classes: true,
            gateways_in_own_namespace: false,
            revisions: None,
            ineffective: BTreeSet::new(),
        }
    }
}

impl ControlSettings {
    /// Applies one `KEY=VALUE`.
    ///
    /// # Errors
    /// When the key is unknown or the value does not fit.
    pub fn set(&mut self, text: &str) -> Result<(), InvalidSetting> {
        let (key, value) = text.split_once('=').ok_or_else(|| InvalidSetting::Shape(text.to_owned()))?;
        let flag = || match value {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(InvalidSetting::Value {
                key: key.to_owned(),
                value: value.to_owned(),
                expected: "`true` or `false`",
            }),
        };
        match key {
            "rootNamespace" => self.root_namespace = Some(value.into()),
            "clusterDomain" => self.cluster_domain = value.into(),
            "rejectPathParameters" => self.reject_path_parameters = flag()?,
            "multipleCustomProviders" | "PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS" => {
                self.multiple_custom_providers = flag()?;
            }
            "ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY" => self.selects_gateways = flag()?,
            "istioClasses" => self.istio_classes = flag()?,
            "PILOT_SCOPE_GATEWAY_TO_NAMESPACE" => self.gateways_in_own_namespace = flag()?,
            other => match FIXED.iter().find(|(name, _)| *name == other) {
                Some((name, served)) => {
                    self.ineffective.remove(*name);
                    if value != *served && (value, *served) != ("1", "true") && (value, *served) != ("0", "false") {
                        self.ineffective.insert((*name).to_owned());
                    }
                }
                None => return Err(InvalidSetting::UnknownKey(other.to_owned())),
            },
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_settings_are_errors() {
        let mut control = ControlSettings::default();
        assert!(control.set("rejectPathParameters=true").is_ok());
        assert!(control.ineffective.is_empty());
        assert!(control.set("nothing=1").is_err());
        assert!(control.set("rejectPathParameters=maybe").is_err());
        assert!(control.set("PILOT_SCOPE_GATEWAY_TO_NAMESPACE=maybe").is_err());
    }

    #[test]
    fn a_value_without_effect_is_told_and_the_served_one_is_not() {
        let mut control = ControlSettings::default();
        for (name, served) in FIXED {
            control.set(&format!("{name}={served}")).unwrap();
        }
        assert_eq!(control, ControlSettings::default());
        control.set("PILOT_SKIP_VALIDATE_TRUST_DOMAIN=true").unwrap();
        assert_eq!(
            control.ineffective.iter().map(String::as_str).collect::<Vec<_>>(),
            ["PILOT_SKIP_VALIDATE_TRUST_DOMAIN"]
        );
        control.set("PILOT_SKIP_VALIDATE_TRUST_DOMAIN=0").unwrap();
        assert!(control.ineffective.is_empty());
    }
}
