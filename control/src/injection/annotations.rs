//! Istio's annotations of a pod: what the sidecar does by them, and which have no effect here.

use std::collections::BTreeMap;

use palisade_crds::document;
use serde_json::{Map, Value};

/// What a pod's annotations change about its sidecar.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Overrides {
    /// Arguments of the redirection step; `None` = nothing is redirected.
    pub(super) redirect: Option<Vec<String>>,
    pub(super) image: Option<String>,
    pub(super) cpu: Option<String>,
    pub(super) memory: Option<String>,
    pub(super) cpu_limit: Option<String>,
    pub(super) memory_limit: Option<String>,
    pub(super) log: Option<String>,
    /// Port of `/healthz/ready`; `None` = no readiness probe.
    pub(super) health_port: Option<u16>,
    pub(super) keeps_probes: bool,
    pub(super) volumes: Vec<Value>,
    pub(super) volume_mounts: Vec<Value>,
    pub(super) workers: Option<u64>,
    pub(super) drain_seconds: Option<u64>,
}

/// An annotation by which part of the pod's traffic would go past its sidecar, or which cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("metadata.annotations[{annotation}]: `{value}` is not {expected}")]
pub struct InvalidAnnotation {
    annotation: String,
    value: String,
    expected: &'static str,
}

const TRAFFIC: &str = "traffic.sidecar.istio.io/";
const SIDECAR: &str = "sidecar.istio.io/";
/// Port of readiness where nothing else is said.
pub(super) const HEALTH_PORT: u16 = 15021;

/// Annotations of Istio's that are known and change nothing, with the reason.
const WITHOUT_EFFECT: [(&str, &str); 13] = [
    ("sidecar.istio.io/componentLogLevel", "there are no such components; `sidecar.istio.io/logLevel` takes filters"),
    ("sidecar.istio.io/agentLogLevel", "there is no agent beside the sidecar"),
    ("sidecar.istio.io/statsInclusionPrefixes", "metrics are one fixed set"),
    ("sidecar.istio.io/statsInclusionSuffixes", "metrics are one fixed set"),
    ("sidecar.istio.io/statsInclusionRegexps", "metrics are one fixed set"),
    ("sidecar.istio.io/statsHistogramBuckets", "metrics are one fixed set"),
    ("sidecar.istio.io/extraStatTags", "metrics are one fixed set"),
    ("sidecar.istio.io/statsCompression", "metrics are one fixed set"),
    ("sidecar.istio.io/bootstrapOverride", "there is no Envoy to configure"),
    ("sidecar.istio.io/controlPlaneAuthPolicy", "the control plane is always spoken to over mTLS"),
    ("sidecar.istio.io/discoveryAddress", "the control plane that injects is the one that serves"),
    ("prometheus.istio.io/merge-metrics", "metrics of the application are not merged; scrape both ports"),
    ("istio.io/reroute-virtual-interfaces", "interfaces of virtual machines are not redirected"),
];

impl Overrides {
    /// Reads a pod's annotations. What has no effect is a warning.
    ///
    /// # Errors
    /// When one that decides about the pod's traffic or its sidecar cannot be read.
    pub(super) fn read(
        annotations: &BTreeMap<String, String>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, InvalidAnnotation> {
        let get = |name: &str| annotations.get(&format!("{SIDECAR}{name}")).filter(|text| !text.is_empty()).cloned();
        for (annotation, why) in WITHOUT_EFFECT {
            if annotations.contains_key(annotation) {
                warnings.push(format!("annotation `{annotation}` has no effect: {why}"));
            }
        }
        if get("nativeSidecar").as_deref() == Some("false") {
            warnings.push(
                "annotation `sidecar.istio.io/nativeSidecar` has no effect: the sidecar always is a native one"
                    .to_owned(),
            );
        }
        let mut overrides = Self {
            redirect: redirect(annotations)?,
            image: get("proxyImage"),
            cpu: quantity(get("proxyCPU"), "sidecar.istio.io/proxyCPU")?,
            memory: quantity(get("proxyMemory"), "sidecar.istio.io/proxyMemory")?,
            cpu_limit: quantity(get("proxyCPULimit"), "sidecar.istio.io/proxyCPULimit")?,
            memory_limit: quantity(get("proxyMemoryLimit"), "sidecar.istio.io/proxyMemoryLimit")?,
            log: get("logLevel").map(|level| log_level(&level)),
            health_port: health_port(annotations)?,
            keeps_probes: get("rewriteAppHTTPProbers").is_some_and(|value| value == "false"),
            volumes: user_items(get("userVolume"), "sidecar.istio.io/userVolume")?,
            volume_mounts: user_items(get("userVolumeMount"), "sidecar.istio.io/userVolumeMount")?,
            workers: None,
            drain_seconds: None,
        };
        if let Some(text) = annotations.get("proxy.istio.io/config") {
            overrides.proxy_config(text, warnings)?;
        }
        Ok(overrides)
    }

    fn proxy_config(&mut self, text: &str, warnings: &mut Vec<String>) -> Result<(), InvalidAnnotation> {
        const ANNOTATION: &str = "proxy.istio.io/config";
        let invalid =
            |expected| InvalidAnnotation { annotation: ANNOTATION.to_owned(), value: shorten(text), expected };
        let read = document::read(ANNOTATION, text.as_bytes());
        if !read.unreadable.is_empty() || read.documents.len() > 1 {
            return Err(invalid("YAML of one proxy configuration"));
        }
        let Some(value) = read.documents.first().map(|document| &document.value) else { return Ok(()) };
        let fields = value.as_object().ok_or_else(|| invalid("a mapping"))?;
        for (key, value) in fields {
            match key.as_str() {
                "concurrency" => {
                    let workers =
                        value.as_u64().ok_or_else(|| invalid("a proxy configuration: `concurrency` is a number"))?;
                    // 0 is as many as there are cores, which is what the sidecar does unasked.
                    self.workers = Some(workers).filter(|workers| *workers > 0);
                }
                "terminationDrainDuration" => {
                    let duration = value.as_str().and_then(|text| palisade_crds::Duration::parse(text).ok());
                    // Whole seconds, rounded up.
                    let seconds = duration.and_then(|duration| {
                        u64::try_from((duration.as_nanos().saturating_add(999_999_999)) / 1_000_000_000).ok()
                    });
                    let expected = "a proxy configuration: `terminationDrainDuration` is a duration";
                    self.drain_seconds = Some(seconds.ok_or_else(|| invalid(expected))?);
                }
                // Read by the control plane from the pod itself.
                "gatewayTopology" => {}
                // What they ask for is always so.
                "holdApplicationUntilProxyStarts" => {}
                other => warnings.push(format!("`{other}` in annotation `{ANNOTATION}` has no effect")),
            }
        }
        Ok(())
    }
}

/// The annotations that the redirection step reads, as its arguments.
fn redirect(annotations: &BTreeMap<String, String>) -> Result<Option<Vec<String>>, InvalidAnnotation> {
    const MODE: &str = "sidecar.istio.io/interceptionMode";
    const REROUTE: &str = "istio.io/reroute-virtual-interfaces";
    const INTERFACES: &str = "a list of network interfaces";
    let invalid = |annotation: &str, expected| {
        let value = annotations.get(annotation).map(|value| shorten(value)).unwrap_or_default();
        InvalidAnnotation { annotation: annotation.to_owned(), value, expected }
    };
    match annotations.get(MODE).map(String::as_str) {
        None | Some("" | "REDIRECT") => {}
        Some("NONE") => return Ok(None),
        Some(_) => return Err(invalid(MODE, "served: `REDIRECT` and `NONE` are")),
    }
    let mut arguments = Vec::new();
    for (key, value) in annotations {
        let Some(name) = key.strip_prefix(TRAFFIC) else { continue };
        let is_fine = match name {
            "includeInboundPorts" => value.trim() == "*" || value.split(',').all(is_port),
            "excludeInboundPorts" | "includeOutboundPorts" | "excludeOutboundPorts" => value.split(',').all(is_port),
            "includeOutboundIPRanges" => value.trim() == "*" || value.split(',').all(is_range),
            "excludeOutboundIPRanges" => value.split(',').all(is_range),
            "excludeInterfaces" | "kubevirtInterfaces" => value.split(',').all(is_interface),
            _ => return Err(invalid(key, "known: it would change which traffic the sidecar sees")),
        };
        if !is_fine {
            let expected = match name {
                _ if name.ends_with("Ports") => "a list of ports",
                _ if name.ends_with("Interfaces") => INTERFACES,
                _ => "a list of address ranges",
            };
            return Err(invalid(key, expected));
        }
        arguments.push(format!("--annotation={key}={value}"));
    }
    if let Some(value) = annotations.get(REROUTE) {
        if !value.split(',').all(is_interface) {
            return Err(invalid(REROUTE, INTERFACES));
        }
        arguments.push(format!("--annotation={REROUTE}={value}"));
    }
    Ok(Some(arguments))
}

fn is_port(text: &str) -> bool {
    let text = text.trim();
    text.is_empty() || text.parse::<u16>().is_ok()
}

/// A name that the kernel takes and that means nothing in a rule's syntax, as the redirection step checks once more.
fn is_interface(text: &str) -> bool {
    let text = text.trim();
    text.len() <= 15 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte))
}

fn is_range(text: &str) -> bool {
    let text = text.trim();
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    text.is_empty()
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            length.is_none_or(|length| length.parse::<u8>().is_ok_and(|length| length <= most))
        })
}

fn health_port(annotations: &BTreeMap<String, String>) -> Result<Option<u16>, InvalidAnnotation> {
    const PORT: &str = "status.sidecar.istio.io/port";
    match annotations.get(PORT).map(String::as_str) {
        None | Some("") => Ok(Some(HEALTH_PORT)),
        Some("0") => Ok(None),
        // Istio's agent answers on its own port there; ours has one port for readiness, which users rarely move.
        Some("15020") => Ok(Some(HEALTH_PORT)),
        Some(text) => match text.parse() {
            Ok(port) => Ok(Some(port)),
            Err(_) => Err(InvalidAnnotation {
                annotation: PORT.to_owned(),
                value: shorten(text),
                expected: "a port, or 0 for none",
            }),
        },
    }
}

/// A Kubernetes quantity, as far as it can be told without arithmetic.
fn quantity(text: Option<String>, annotation: &str) -> Result<Option<String>, InvalidAnnotation> {
    let is_quantity = |text: &String| {
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        number.parse::<f64>().is_ok() && ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"].contains(&unit)
    };
    match text {
        Some(text) if !is_quantity(&text) => Err(InvalidAnnotation {
            annotation: annotation.to_owned(),
            value: shorten(&text),
            expected: "a quantity such as `100m` or `128Mi`",
        }),
        other => Ok(other),
    }
}

/// Istio's levels in the words of the sidecar's filter.
fn log_level(level: &str) -> String {
    match level {
        "warning" => "warn",
        "critical" => "error",
        other => other,
    }
    .to_owned()
}

/// Volumes or mounts by name, or a list of them.
fn user_items(text: Option<String>, annotation: &str) -> Result<Vec<Value>, InvalidAnnotation> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let invalid = || InvalidAnnotation {
        annotation: annotation.to_owned(),
        value: shorten(&text),
        expected: "a JSON list, or a JSON object by name",
    };
    match serde_json::from_str(&text).map_err(|_| invalid())? {
        Value::Array(items) => Ok(items),
        Value::Object(items) => items
            .into_iter()
            .map(|(name, item)| match item {
                Value::Object(item) => {
                    let mut named = Map::from_iter([("name".to_owned(), Value::String(name))]);
                    named.extend(item);
                    Ok(Value::Object(named))
                }
                _ => Err(invalid()),
            })
            .collect(),
        _ => Err(invalid()),
    }
}

/// For a message: annotations may hold 256 kB.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
