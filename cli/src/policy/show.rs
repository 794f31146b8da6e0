//! `palisade policy show`: what is in force at a workload, who can reach it, and whom it can reach.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, bail};
use palisade_compile::{Inputs, Mesh, ObjectKey, Plan, ProxyRef, plan};
use palisade_model::{
    identity::SpiffeId,
    listener::{InboundPort, MtlsMode, Protocol},
    policy::{Effect, Policy, PolicyMode},
    resource::{Resource, ResourceKind},
};
use palisade_policy::{ConnectionFacts, Outlook, Peer, PolicyRef, TlsFacts};
use palisade_proxy::index::RuntimeIndex;
use serde_json::{Value, json};

use crate::{
    eval::World,
    inputs::{self, SettingOptions},
    options::{DocumentOptions, OutputFormat},
};

/// Show the effective policy of a workload: every policy that applies, where it comes from and whether it decides; who can reach the
/// workload, and whom it can reach.
///
/// Callers are the service accounts of the documents' pods and gateways, and anybody without a certificate. `depends` means: on the request.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The workload, NAMESPACE/POD, or a gateway, NAMESPACE/GATEWAY; a name alone is looked for in the default namespace.
    #[arg(value_name = "WORKLOAD")]
    workload: String,
    #[command(flatten)]
    documents: DocumentOptions,
    #[command(flatten)]
    settings: SettingOptions,
    /// `text` for people, `json` for programs.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// A caller that is asked about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Caller {
    Account(SpiffeId),
    Anybody,
}

impl Show {
    /// Prints the view.
    ///
    /// # Errors
    /// When documents cannot be read, or name no such workload.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let inputs = inputs::read(&self.documents, &self.settings)?;
        let world = World::new(&inputs, &self.documents.namespace);
        let pods = workloads(&inputs);
        let (namespace, name) =
            self.workload.split_once('/').unwrap_or((&self.documents.namespace, self.workload.as_str()));
        let Some(pod) = pods.iter().find(|pod| pod.is_called(namespace, name)) else {
            let known: Vec<String> =
                pods.iter().take(10).map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
            bail!("there is no pod or gateway `{namespace}/{name}`; there are {}", known.join(", "));
        };
        let domain = &inputs.settings.trust_domain;
        let identity = |pod: &Shown| {
            SpiffeId::new(domain.clone(), &pod.namespace, &pod.service_account).context("service account")
        };
        let own = identity(pod)?;
        let callers: BTreeSet<Caller> = pods
            .iter()
            .filter(|pod| pod.is_injected)
            .map(|pod| identity(pod).map(Caller::Account))
            .chain([Ok(Caller::Anybody)])
            .collect::<anyhow::Result<_>>()?;
        let index = index_of(&world, pod)?;
        let inbound: Vec<Value> = ports(&index).iter().map(|port| port_view(&index, port, &callers)).collect();
        let mut reaches = Vec::new();
        for other in pods.iter().filter(|other| {
            other.is_injected && !other.is_gateway && (&other.namespace, &other.name) != (&pod.namespace, &pod.name)
        }) {
            let index = index_of(&world, other)?;
            let caller = BTreeSet::from([Caller::Account(own.clone())]);
            let ports: Vec<Value> = ports(&index)
                .iter()
                .filter(|port| port.port.is_some())
                .map(|port| port_view(&index, port, &caller))
                .collect();
            reaches.push(json!({ "workload": format!("{}/{}", other.namespace, other.name), "ports": ports }));
        }
        let view = json!({
            "workload": format!("{}/{}", pod.namespace, pod.name),
            "identity": own.to_string(),
            "policies": policies(&index, world.mesh(), inputs.settings.root_namespace.as_ref(), &pod.namespace),
            "reachedBy": inbound,
            "reaches": reaches,
        });
        let mut out = io::BufWriter::new(io::stdout().lock());
        match self.output {
            OutputFormat::Text | OutputFormat::Wide => write_text(&mut out, &view)?,
            OutputFormat::Jsonl => writeln!(out, "{view}")?,
            // JSON is YAML.
            OutputFormat::Json | OutputFormat::Yaml => writeln!(out, "{}", serde_json::to_string_pretty(&view)?)?,
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A pod with a proxy, or without.
#[derive(Debug)]
struct Shown {
    namespace: Arc<str>,
    name: Arc<str>,
    service_account: String,
    is_injected: bool,
    is_gateway: bool,
    /// The Gateway by whose name it is known too.
    gateway: Option<ObjectKey>,
}

impl Shown {
    fn is_called(&self, namespace: &str, name: &str) -> bool {
        let is_gateway = |key: &ObjectKey| &*key.namespace == namespace && &*key.name == name;
        (&*self.namespace == namespace && &*self.name == name) || self.gateway.as_ref().is_some_and(is_gateway)
    }
}

/// Pods of applications, then those of gateways, which documents may only imply.
fn workloads(inputs: &Inputs) -> Vec<Shown> {
    let Plan { pods, gateways } = plan(inputs);
    let pods = pods.into_iter().map(|pod| Shown {
        namespace: pod.namespace,
        name: pod.name,
        service_account: pod.service_account,
        is_injected: pod.is_injected,
        is_gateway: false,
        gateway: None,
    });
    let gateways = gateways.into_iter().map(|gateway| Shown {
        namespace: gateway.namespace,
        name: gateway.name,
        service_account: gateway.service_account,
        is_injected: true,
        is_gateway: true,
        gateway: Some(gateway.key),
    });
    pods.chain(gateways).collect()
}

fn index_of(world: &World, pod: &Shown) -> anyhow::Result<Arc<RuntimeIndex>> {
    let Shown { namespace, name, is_gateway, .. } = pod;
    let proxy = if *is_gateway {
        ProxyRef::gateway(Arc::clone(namespace), Arc::clone(name))
    } else {
        ProxyRef::sidecar(Arc::clone(namespace), Arc::clone(name))
    };
    world.index_of(&proxy).map_err(|error| anyhow::anyhow!("{namespace}/{name}: {error}"))
}

/// The inbound ports, declared ones first.
fn ports(index: &RuntimeIndex) -> Vec<InboundPort> {
    let mut ports: Vec<InboundPort> = index
        .snapshot()
        .of_kind(ResourceKind::Inbound)
        .filter_map(|entry| match entry.resource() {
            Resource::Inbound(port) => Some(port.clone()),
            _ => None,
        })
        .collect();
    ports.sort_by_key(|port| (port.port.is_none(), port.port));
    ports
}

/// What each caller comes to on one port, callers that fare alike together.
fn port_view(index: &RuntimeIndex, port: &InboundPort, callers: &BTreeSet<Caller>) -> Value {
    let engine = index.policies().engine(&port.policies);
    let mut groups: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for caller in callers {
        let is_refused = match caller {
            Caller::Anybody => port.mtls == MtlsMode::Strict,
            Caller::Account(_) => false,
        };
        let facts = facts(caller, port, index.settings().addresses.first().copied());
        let (outlook, policy) = match port.protocol {
            _ if is_refused => ("refused".to_owned(), None),
            Protocol::Tcp | Protocol::Tls => named(engine.outlook_tcp(&facts)),
            Protocol::Http | Protocol::Http2 => named(engine.outlook_http(&facts)),
            Protocol::Auto => {
                let (http, tcp) = (engine.outlook_http(&facts), engine.outlook_tcp(&facts));
                if http.0 == tcp.0 {
                    named(http)
                } else {
                    (format!("{} as HTTP, {} as TCP", word(http.0), word(tcp.0)), None)
                }
            }
        };
        let name = match caller {
            Caller::Account(id) => id.to_string(),
            Caller::Anybody => "anybody without a certificate".to_owned(),
        };
        groups.entry((outlook, policy.unwrap_or_default())).or_default().push(name);
    }
    let outlooks: Vec<Value> = groups
        .into_iter()
        .map(|((outlook, policy), callers)| {
            let policy = Some(policy).filter(|policy| !policy.is_empty());
            json!({ "outlook": outlook, "policy": policy, "callers": callers })
        })
        .collect();
    let protocol = format!("{:?}", port.protocol).to_lowercase();
    let mtls = format!("{:?}", port.mtls).to_lowercase();
    json!({ "port": port.port, "protocol": protocol, "mtls": mtls, "outlooks": outlooks })
}

fn facts(caller: &Caller, port: &InboundPort, own: Option<IpAddr>) -> ConnectionFacts {
    let (peer, tls) = match caller {
        Caller::Account(id) => (Peer::Mesh(id.clone()), Some(TlsFacts::default())),
        Caller::Anybody => (Peer::Anonymous, None),
    };
    ConnectionFacts {
        // An address that no document names: who is allowed by address alone shows as denied.
        source_ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        source_port: 40_000,
        destination_ip: own.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        destination_port: port.port.unwrap_or(0),
        peer,
        tls,
    }
}

fn named((outlook, policy): (Outlook, Option<&PolicyRef>)) -> (String, Option<String>) {
    (word(outlook).to_owned(), policy.map(|policy| policy.id.to_string()))
}

const fn word(outlook: Outlook) -> &'static str {
    match outlook {
        Outlook::Allowed => "allowed",
        Outlook::Denied => "denied",
        Outlook::Depends => "depends",
    }
}

/// Every policy of the workload's sets, with its origin and mode.
fn policies(index: &RuntimeIndex, mesh: &Mesh, root: &str, namespace: &str) -> Vec<Value> {
    let texts: BTreeMap<&str, &Policy> =
        mesh.policies().into_iter().map(|policy| (policy.id.as_str(), policy)).collect();
    let mut views = Vec::new();
    for entry in index.snapshot().of_kind(ResourceKind::PolicySet) {
        let Resource::PolicySet(set) = entry.resource() else { continue };
        let engine = index.policies().engine(&set.key);
        let direction = if set.key.starts_with("egress/") { "egress" } else { "inbound" };
        if let Some((policy, message)) = engine.denies_all() {
            views.push(json!({
                "direction": direction, "policy": policy.id.to_string(), "mode": "enforce", "effect": "denies everything",
                "origin": policy.source.as_ref().map(ToString::to_string), "message": message,
            }));
        }
        for policy in engine.members() {
            let scope = match &policy.source {
                None => "default of the mesh",
                Some(source) if &*source.namespace == root && root != namespace => "root namespace",
                Some(_) => "own namespace",
            };
            let mode = match policy.mode {
                PolicyMode::Enforce => "enforce",
                PolicyMode::Audit => "audit",
                PolicyMode::Shadow => "dry-run",
            };
            let effect = match policy.effect {
                Effect::Permit => "permit",
                Effect::Forbid => "forbid",
            };
            views.push(json!({
                "direction": direction,
                "policy": policy.id.to_string(),
                "origin": policy.source.as_ref().map(ToString::to_string),
                "rule": policy.rule,
                "scope": scope,
                "mode": mode,
                "effect": effect,
                "cedar": texts.get(policy.id.as_str()).map(|policy| policy.cedar.trim()),
            }));
        }
    }
    views
}

fn write_text(out: &mut impl Write, view: &Value) -> io::Result<()> {
    let text = |value: &Value, field: &str| match value.get(field) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let items = |value: &Value, field: &str| value.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    writeln!(out, "{}  {}", text(view, "workload"), text(view, "identity"))?;
    writeln!(out, "\npolicies")?;
    for policy in items(view, "policies") {
        let [direction, mode, effect, id, scope] =
            ["direction", "mode", "effect", "policy", "scope"].map(|field| text(&policy, field));
        let origin = text(&policy, "origin");
        let origin = if origin.is_empty() { scope } else { format!("{origin}, {scope}") };
        writeln!(out, "  {direction:<8} {mode:<8} {effect:<7} {id}  ({})", origin.trim_end_matches(", "))?;
    }
    let ports = |out: &mut dyn Write, ports: Vec<Value>| -> io::Result<()> {
        for port in ports {
            let number = text(&port, "port");
            let number = if number.is_empty() { "any other".to_owned() } else { number };
            for outlook in items(&port, "outlooks") {
                let callers: Vec<String> =
                    items(&outlook, "callers").iter().filter_map(Value::as_str).map(str::to_owned).collect();
                let policy = text(&outlook, "policy");
                let by = if policy.is_empty() { policy } else { format!("  (by {policy})") };
                let (word, protocol) = (text(&outlook, "outlook"), text(&port, "protocol"));
                writeln!(out, "  {number:<9} {protocol:<5} {word:<8} {}{by}", callers.join(", "))?;
            }
        }
        Ok(())
    };
    writeln!(out, "\nwho can reach it")?;
    ports(out, items(view, "reachedBy"))?;
    writeln!(out, "\nwhom it can reach")?;
    for reached in items(view, "reaches") {
        writeln!(out, " {}", text(&reached, "workload"))?;
        ports(out, items(&reached, "ports"))?;
    }
    Ok(())
}
