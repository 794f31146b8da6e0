//! Random model values, for property tests here and in other crates.
//!
//! [`snapshot`] makes closed snapshots; [`resource`] makes any resource by itself, references and all.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use palisade_model::{
    cluster::{Cluster, Discovery},
    endpoint::{Address, Endpoint, EndpointHealth, Endpoints, PeerProxy},
    listener::{
        Chain, ChainHandler, ClientValidation, InboundPort, Listener, MtlsMode, Protocol, ServerTls, ServerTlsMode,
        TlsAlgorithms, TlsVersion,
    },
    membership::{Member, Membership},
    origin::Origin,
    policy::{DenyAll, Effect, Policy, PolicyId, PolicyMode, PolicySet},
    resource::{Entries, Entry, Feature, Meta, Resource, ResourceKey, ResourceKind},
    secret::{PrivateKey, Secret},
    service::{DnsName, L4Backend, L4Route, Lookup, Query, Service, ServicePort},
    settings::WorkloadRef,
    snapshot::{Snapshot, references},
};
use proptest::{collection::vec, option, prelude::*, sample::select};

mod access;
mod cluster;
mod route;
mod scalar;
mod settings;

use access::{authentication, external_authorization};
use cluster::cluster;
use route::{route, virtual_host};
use scalar::{identity, ip, labels, list, name, network, pattern, set, socket, text};
use settings::settings;

/// A user's object.
pub fn origin() -> impl Strategy<Value = Origin> {
    (text(), text(), name(), name(), text(), any::<i64>()).prop_map(
        |(group, kind, namespace, name, uid, generation)| Origin { group, kind, namespace, name, uid, generation },
    )
}

/// Provenance, with features drawn from a small set.
pub fn meta() -> impl Strategy<Value = Meta> {
    (list(origin()), set(select(vec!["x", "y"]).prop_map(|feature| Feature(feature.into()))))
        .prop_map(|(origins, requires)| Meta { origins, requires })
}

fn workload() -> impl Strategy<Value = WorkloadRef> {
    (name(), name()).prop_map(|(namespace, name)| WorkloadRef { namespace, name })
}

fn tls_version() -> impl Strategy<Value = TlsVersion> {
    select(vec![TlsVersion::V1_2, TlsVersion::V1_3])
}

fn tls_algorithms() -> impl Strategy<Value = TlsAlgorithms> {
    (list(text()), list(text())).prop_map(|(cipher_suites, curves)| TlsAlgorithms { cipher_suites, curves })
}

fn chain() -> impl Strategy<Value = Chain> {
    let client = (text(), any::<bool>(), list(text()), any::<bool>()).prop_map(
        |(ca, is_required, subject_alt_names, tolerates_invalid)| ClientValidation {
            ca,
            is_required,
            subject_alt_names,
            tolerates_invalid,
        },
    );
    let mode = prop_oneof![
        (list(text()), option::of(client))
            .prop_map(|(certificates, client)| ServerTlsMode::Secrets { certificates, client }),
        Just(ServerTlsMode::Mesh)
    ];
    let tls = (mode, tls_version(), tls_version(), list(text()), tls_algorithms()).prop_map(
        |(mode, min_version, max_version, alpn, algorithms)| ServerTls {
            mode,
            min_version,
            max_version,
            alpn,
            algorithms,
        },
    );
    let handler = prop_oneof![
        list((pattern(), name())).prop_map(|tables| ChainHandler::Http { tables }),
        list(name()).prop_map(|routes| ChainHandler::Tcp { routes }),
        Just(ChainHandler::AutoPassthrough),
        text().prop_map(|message| ChainHandler::Refuse { message })
    ];
    (text(), list(pattern()), option::of(tls), handler).prop_map(|(name, sni, tls, handler)| Chain {
        name,
        sni,
        tls,
        handler,
    })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Http, Protocol::Http2, Protocol::Tcp, Protocol::Tls, Protocol::Auto])
}

fn listener() -> impl Strategy<Value = Listener> {
    let flags = (any::<bool>(), any::<bool>());
    (name(), option::of(ip()), any::<u16>(), any::<u16>(), list(chain()), name(), flags).prop_map(
        |(key, address, port, declared_port, chains, policies, (detects_misdirected, is_udp))| Listener {
            key,
            address,
            port,
            declared_port,
            chains,
            policies,
            detects_misdirected,
            is_udp,
        },
    )
}

fn inbound() -> impl Strategy<Value = InboundPort> {
    let mode = select(vec![MtlsMode::Disable, MtlsMode::Permissive, MtlsMode::Strict]);
    (option::of(0..4u16), protocol(), mode, name(), option::of(text()), name()).prop_map(
        |(port, protocol, mtls, cluster, service, policies)| InboundPort {
            port,
            protocol,
            mtls,
            cluster,
            service,
            policies,
        },
    )
}

fn service() -> impl Strategy<Value = Service> {
    let dns = (text(), list(ip())).prop_map(|(name, addresses)| DnsName { name, addresses });
    let port = (any::<u16>(), protocol(), option::of(text()), list(name()), any::<bool>()).prop_map(
        |(port, protocol, table, l4_routes, takes_any_address)| ServicePort {
            port,
            protocol,
            table,
            l4_routes,
            takes_any_address,
        },
    );
    (name(), name(), list(ip()), any::<bool>(), list(dns), list(port), any::<bool>()).prop_map(
        |(host, namespace, addresses, is_headless, names, ports, is_external)| Service {
            host,
            namespace,
            addresses,
            is_headless,
            names,
            ports,
            is_external,
        },
    )
}

/// Something that a proxy may ask about.
pub fn query() -> impl Strategy<Value = Query> {
    prop_oneof![name().prop_map(Query::Host), ip().prop_map(Query::Address)]
}

fn lookup() -> impl Strategy<Value = Lookup> {
    (query(), list(name())).prop_map(|(query, services)| Lookup { query, services })
}

fn l4_route() -> impl Strategy<Value = L4Route> {
    let backend = (name(), any::<bool>(), any::<u32>()).prop_map(|(cluster, is_missing, weight)| L4Backend {
        cluster,
        is_missing,
        weight,
    });
    (name(), text(), any::<u32>(), any::<u32>(), list(pattern()), list(network()), list(backend)).prop_map(
        |(key, source, rule, alternative, sni, destinations, backends)| L4Route {
            key,
            source,
            rule,
            alternative,
            sni,
            destinations,
            backends,
        },
    )
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    let address = prop_oneof![
        socket().prop_map(Address::Socket),
        text().prop_map(Address::Unix),
        (text(), any::<u16>()).prop_map(|(host, port)| Address::Name(host, port)),
        (text(), any::<u16>()).prop_map(|(host, port)| Address::LogicalName(host, port))
    ];
    let health = select(vec![EndpointHealth::Healthy, EndpointHealth::Unhealthy, EndpointHealth::Draining]);
    let peer = select(vec![PeerProxy::None, PeerProxy::Istio, PeerProxy::Palisade]);
    let endpoint =
        (address, any::<u32>(), any::<u32>(), health, labels(), option::of(text()), peer, option::of(workload()))
            .prop_map(|(address, weight, priority, health, labels, locality, peer, workload)| Endpoint {
                address,
                weight,
                priority,
                health,
                labels,
                locality,
                peer,
                workload,
            });
    (name(), list(endpoint), set(identity())).prop_map(|(key, endpoints, identities)| Endpoints {
        key,
        endpoints,
        identities,
    })
}

fn policy_id() -> impl Strategy<Value = PolicyId> {
    name().prop_map(PolicyId)
}

fn policy_set() -> impl Strategy<Value = PolicySet> {
    let deny =
        (policy_id(), option::of(origin()), text()).prop_map(|(id, source, message)| DenyAll { id, source, message });
    let before = (any::<bool>(), any::<bool>());
    (name(), list(policy_id()), option::of(deny), before).prop_map(|(key, policies, deny_all, before)| PolicySet {
        key,
        policies,
        deny_all,
        has_authentication: before.0,
        has_external_authorization: before.1,
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    (
        policy_id(),
        option::of(origin()),
        option::of(any::<u32>()),
        select(vec![Effect::Permit, Effect::Forbid]),
        select(vec![PolicyMode::Enforce, PolicyMode::Audit, PolicyMode::Shadow]),
        text(),
        any::<u32>(),
        vec(any::<u8>(), 0..8),
    )
        .prop_map(|(id, source, rule, effect, mode, cedar, ir_version, ir)| Policy {
            id,
            source,
            rule,
            effect,
            mode,
            cedar,
            ir_version,
            ir: Bytes::from(ir),
        })
}

fn secret() -> impl Strategy<Value = Secret> {
    let key = text().prop_map(|pem| PrivateKey::new(&pem));
    (name(), option::of(text()), option::of(key), option::of(text()))
        .prop_map(|(key, certificate, private_key, ca)| Secret { key, certificate, private_key, ca })
}

fn membership() -> impl Strategy<Value = Membership> {
    (vec(name(), 0..8), vec(ip(), 0..4), vec(pattern(), 0..3), vec(network(), 0..3)).prop_map(
        |(hosts, addresses, patterns, networks)| {
            let hosts = hosts.iter().map(|host| Member::Host(host));
            let others = addresses.into_iter().map(Member::Address).chain(patterns.into_iter().map(Member::Pattern));
            Membership::of(hosts.chain(others).chain(networks.into_iter().map(Member::Network)))
        },
    )
}

// Strategies are nested values; boxes keep them off the stack.

/// Any resource. What it refers to need not exist.
pub fn resource() -> BoxedStrategy<Resource> {
    prop_oneof![
        settings().prop_map(Resource::Settings).boxed(),
        listener().prop_map(Resource::Listener).boxed(),
        inbound().prop_map(Resource::Inbound).boxed(),
        service().prop_map(Resource::Service).boxed(),
        lookup().prop_map(Resource::Lookup).boxed(),
        virtual_host().prop_map(Resource::VirtualHost).boxed(),
        route().prop_map(Resource::Route).boxed(),
        l4_route().prop_map(Resource::L4Route).boxed(),
        cluster().prop_map(Resource::Cluster).boxed(),
        endpoints().prop_map(Resource::Endpoints).boxed(),
        policy_set().prop_map(Resource::PolicySet).boxed(),
        policy().prop_map(Resource::Policy).boxed(),
        secret().prop_map(Resource::Secret).boxed(),
        authentication().prop_map(Resource::Authentication).boxed(),
        external_authorization().prop_map(Resource::ExternalAuthorization).boxed(),
        membership().prop_map(Resource::Membership).boxed()
    ]
    .boxed()
}

/// Any entry.
pub fn entry() -> BoxedStrategy<Arc<Entry>> {
    (resource(), meta())
        .prop_filter_map("hashable", |(resource, meta)| Entry::new(resource, meta).ok().map(Arc::new))
        .boxed()
}

/// A closed snapshot: random resources, less those that refer to what is not among them.
pub fn snapshot() -> BoxedStrategy<Arc<Snapshot>> {
    // Leaves are drawn more often, so that something is left to refer to.
    let leaf = prop_oneof![
        policy_set()
            .prop_map(|set| PolicySet {
                policies: Arc::from([]),
                has_authentication: false,
                has_external_authorization: false,
                ..set
            })
            .prop_map(Resource::PolicySet)
            .boxed(),
        policy().prop_map(Resource::Policy).boxed(),
        endpoints().prop_map(Resource::Endpoints).boxed(),
        cluster().prop_map(|cluster| Resource::Cluster(Cluster { discovery: Discovery::BlackHole, ..cluster })).boxed(),
        cluster().prop_map(Resource::Cluster).boxed(),
        route().prop_map(Resource::Route).boxed()
    ];
    let any_resource = prop_oneof![leaf.boxed(), resource()].boxed();
    let without_features = any::<bool>();
    (settings(), vec((any_resource, meta(), without_features), 0..24))
        .prop_filter_map("closed", |(settings, resources)| {
            let mut entries = Entries::new();
            for (resource, mut meta, is_plain) in resources {
                if is_plain {
                    meta.requires.clear();
                }
                let entry = Entry::new(resource, meta).ok()?;
                if entry.key().kind != ResourceKind::Settings {
                    entries.insert(entry.key().clone(), Arc::new(entry));
                }
            }
            let settings = Entry::new(Resource::Settings(settings), Meta::default()).ok()?;
            entries.insert(settings.key().clone(), Arc::new(settings));
            Snapshot::new(closed(entries)).ok().map(Arc::new)
        })
        .boxed()
}

/// Leaves out what dangles, and virtual hosts that repeat a pattern of their table.
fn closed(mut entries: Entries) -> Entries {
    let mut domains = BTreeSet::new();
    let repeated: Vec<ResourceKey> = entries
        .iter()
        .filter(|(_, entry)| match entry.resource() {
            Resource::VirtualHost(host) => {
                host.domains.iter().any(|domain| !domains.insert((Arc::clone(&host.table), domain.to_string())))
            }
            _ => false,
        })
        .map(|(key, _)| key.clone())
        .collect();
    repeated.iter().for_each(|key| drop(entries.remove(key)));
    loop {
        let dangling: Vec<ResourceKey> = entries
            .iter()
            .filter(|(_, entry)| references(entry.resource()).iter().any(|to| !entries.contains_key(to)))
            .map(|(key, _)| key.clone())
            .collect();
        if dangling.is_empty() {
            return entries;
        }
        dangling.iter().for_each(|key| drop(entries.remove(key)));
    }
}
