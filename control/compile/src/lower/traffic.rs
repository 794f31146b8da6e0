//! Limits, ejection and preferences of a client towards a cluster.

use std::sync::Arc;

use palisade_model::cluster::{
    Closeness, ConnectionPolicy, Failover, LocalityPolicy, LocalityShare, OutlierDetection, TrafficPolicy, Warmup,
    locality_matches,
};

use crate::{
    lower::client::Client,
    resolve::{
        destination_rules::{ConnectionPool, LocalityPreference},
        locality::{self, Locality},
        services::Registered,
    },
};

/// What the blocks of a traffic policy say about limits, ejection and preferences.
#[derive(Debug)]
pub(crate) struct Written<'a> {
    /// `connectionPool`.
    pub(crate) pool: &'a ConnectionPool,
    /// `outlierDetection`.
    pub(crate) outlier: Option<OutlierDetection>,
    /// `warmup`.
    pub(crate) warmup: Option<Warmup>,
    /// `localityLbSetting`.
    pub(crate) locality: Option<&'a LocalityPreference>,
    /// `proxyProtocol`.
    pub(crate) proxy_protocol: Option<palisade_model::cluster::ProxyProtocol>,
    /// `retryBudget`.
    pub(crate) retry_budget: Option<palisade_model::cluster::RetryBudget>,
}

/// The policy of a client towards a service.
pub(crate) fn of(client: Client<'_>, service: &Registered, written: Written<'_>) -> TrafficPolicy {
    let Written { pool, outlier, warmup, locality, proxy_protocol, retry_budget } = written;
    let locality = preference(client, service, locality, outlier.is_some());
    TrafficPolicy {
        limits: pool.limits,
        outlier,
        warmup,
        locality,
        retry_budget,
        connection: ConnectionPolicy { proxy_protocol, ..pool.connection.clone() },
    }
}

/// Which endpoints are preferred: as the DestinationRule says, else the Service, else the mesh (istio-semantics 5). Others take
/// over for failing ones only where failures are detected, or the Service asks for it.
fn preference(
    client: Client<'_>,
    service: &Registered,
    written: Option<&LocalityPreference>,
    detects_outliers: bool,
) -> LocalityPolicy {
    let usual =
        LocalityPreference { is_enabled: true, distribute: Vec::new(), failover: Vec::new(), labels: Vec::new() };
    let of_service = service.traffic_distribution.map(|distribution| LocalityPreference {
        labels: distribution.labels().iter().map(|label| (*label).to_owned()).collect(),
        ..usual.clone()
    });
    let (setting, is_forced) = match (written, &of_service) {
        (Some(written), _) => (written, false),
        (None, Some(of_service)) => (of_service, true),
        (None, None) => (client.resolved.settings.destinations.locality.as_ref().unwrap_or(&usual), false),
    };
    if !setting.is_enabled {
        return LocalityPolicy::Any;
    }
    let own = client.locality();
    if !setting.distribute.is_empty() {
        return distribute(setting, own);
    }
    if !(detects_outliers || is_forced) {
        return LocalityPolicy::Any;
    }
    let own_labels = locality::augmented(client.labels(), own, client.node(), client.network());
    let labels = setting
        .labels
        .iter()
        .map(|label| match label.split_once('=') {
            Some((label, value)) => (Arc::from(label), Arc::from(value)),
            None => (Arc::from(label.as_str()), own_labels.get(label.as_str()).cloned().unwrap_or_default()),
        })
        .collect();
    let is_by_closeness = setting.labels.is_empty() || !setting.failover.is_empty();
    let closeness = is_by_closeness.then(|| Closeness {
        own: own.to_string().into(),
        next_region: setting.failover.iter().find(|(from, _)| **from == *own.region).map(|(_, to)| Arc::clone(to)),
    });
    LocalityPolicy::Failover(Failover { labels, closeness })
}

/// The shares of the first entry that is for the client's locality, the more specific patterns first.
fn distribute(setting: &LocalityPreference, own: &Locality) -> LocalityPolicy {
    let own = own.to_string();
    let Some((_, to)) = setting.distribute.iter().find(|(from, _)| locality_matches(from, &own)) else {
        return LocalityPolicy::Any;
    };
    let mut shares: Vec<LocalityShare> =
        to.iter().map(|(locality, weight)| LocalityShare { locality: Arc::clone(locality), weight: *weight }).collect();
    let generality = |share: &LocalityShare| {
        let mut parts = share.locality.splitn(3, '/');
        [(); 3].map(|()| parts.next().is_none_or(|part| matches!(part, "*" | "")))
    };
    shares.sort_by(|a, b| generality(a).cmp(&generality(b)).then_with(|| a.locality.cmp(&b.locality)));
    LocalityPolicy::Distribute(shares.into())
}
