//! Which kinds the API serves, and at which version: CRDs come and go, watched by their names alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::watcher::{self, Event, watcher},
};

use super::{kinds::Kind, watching::Pauses};

/// A CRD is served some time after it was written: its kind is looked for this often while it is not.
const UNSERVED: Duration = Duration::from_millis(200);

/// Kinds by the version at which they are read.
pub(super) type Served = BTreeMap<Kind, &'static str>;

/// The CRDs that there are, of those that matter.
#[derive(Debug, Default)]
pub(super) struct Crds {
    present: BTreeSet<Kind>,
    listing: BTreeSet<Kind>,
    /// Names of CRDs that matter.
    names: BTreeMap<String, Kind>,
}

/// Versions by kind name, as one API group serves them.
type Versions = BTreeMap<String, BTreeSet<String>>;

impl Crds {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { names: Kind::of_crds().map(|kind| (kind.crd(), kind)).collect(), ..Self::default() }
    }

    /// Takes an event in; whether the set is another one, or may be served otherwise.
    pub(super) fn take(&mut self, event: Event<PartialObjectMeta<CustomResourceDefinition>>) -> bool {
        let known = |crd: &PartialObjectMeta<CustomResourceDefinition>| self.names.get(&crd.name_any()).copied();
        match event {
            Event::Init => {
                self.listing.clear();
                false
            }
            Event::InitApply(crd) => {
                self.listing.extend(known(&crd));
                false
            }
            Event::InitDone => {
                self.present = std::mem::take(&mut self.listing);
                true
            }
            // Another version of it may be served from now on.
            Event::Apply(crd) => known(&crd).map(|kind| self.present.insert(kind)).is_some(),
            Event::Delete(crd) => known(&crd).is_some_and(|kind| self.present.remove(&kind)),
        }
    }

    /// Of the kinds whose CRD is there, those that are served, each at the best of its versions. One that is not served just
    /// now stays where it was: only without its CRD is it gone.
    fn served(&self, before: &Served, groups: &BTreeMap<&'static str, Versions>) -> Served {
        let served = self.present.iter().filter_map(|kind| {
            let versions = groups.get(kind.group).and_then(|kinds| kinds.get(kind.kind));
            let best = versions.and_then(|served| kind.versions().iter().find(|version| served.contains(**version)));
            best.or_else(|| before.get(kind)).map(|version| (*kind, *version))
        });
        served.collect()
    }

    /// Kinds whose CRD is there, and that are not served at a version that is known.
    fn unserved<'a>(&'a self, groups: &'a BTreeMap<&'static str, Versions>) -> impl Iterator<Item = &'a Kind> {
        self.present.iter().filter(|kind| {
            let versions = groups.get(kind.group).and_then(|kinds| kinds.get(kind.kind));
            !versions.is_some_and(|served| kind.versions().iter().any(|version| served.contains(*version)))
        })
    }
}

/// Calls `tell` with what is served, whenever that is something else; until it is dropped.
pub(super) async fn follow(client: Client, mut tell: impl FnMut(&Served)) {
    let mut crds = Crds::new();
    let mut served = Served::new();
    let mut is_first = true;
    let mut events = pin!(events(client.clone()));
    let mut pauses = Pauses::new();
    // When the API is asked what it serves; `None` = when a CRD changes.
    let mut due = None;
    loop {
        let asking = async {
            match due {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = events.next() => {
                let Some(event) = event else { return };
                if crds.take(event) {
                    due = Some(Duration::ZERO);
                }
                continue;
            }
            () = asking => {}
        }
        match versions(&client, &crds.present).await {
            Ok(groups) => {
                let new = crds.served(&served, &groups);
                if is_first || new != served {
                    served = new;
                    is_first = false;
                    tell(&served);
                }
                due = crds.unserved(&groups).next().map(|kind| {
                    tracing::debug!(group = kind.group, kind = kind.kind, "there is a CRD, and nothing is served yet");
                    pauses.next().max(UNSERVED)
                });
                if due.is_none() {
                    pauses = Pauses::new();
                }
            }
            Err(error) => {
                tracing::info!(%error, "the API does not say what it serves; it is asked again");
                due = Some(pauses.next());
            }
        }
    }
}

/// Changes of CRDs, by name alone; failures are waited out.
fn events(client: Client) -> impl futures::Stream<Item = Event<PartialObjectMeta<CustomResourceDefinition>>> {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client);
    futures::stream::unfold(
        (Box::pin(watcher(api.clone(), watcher::Config::default())), Pauses::new(), api),
        |(mut events, mut pauses, api)| async move {
            loop {
                match events.next().await? {
                    Ok(event) => return Some((event, (events, pauses, api))),
                    Err(error) => {
                        tracing::info!(%error, "the watch of CRDs failed and is tried again");
                        tokio::time::sleep(pauses.next()).await;
                        if super::watching::begins_anew(&error) {
                            events = Box::pin(watcher(api.clone(), watcher::Config::default()));
                        }
                    }
                }
            }
        },
    )
}

/// What the API serves of the groups of some kinds.
async fn versions(client: &Client, kinds: &BTreeSet<Kind>) -> kube::Result<BTreeMap<&'static str, Versions>> {
    let mut served: BTreeMap<&'static str, Versions> = BTreeMap::new();
    let wanted: BTreeSet<&'static str> = kinds.iter().map(|kind| kind.group).collect();
    if wanted.is_empty() {
        return Ok(served);
    }
    let groups = client.list_api_groups().await?.groups;
    for name in wanted {
        let Some(group) = groups.iter().find(|group| group.name == name) else { continue };
        let kinds = served.entry(name).or_default();
        for version in &group.versions {
            let resources = match client.list_api_group_resources(&version.group_version).await {
                Ok(resources) => resources.resources,
                // Gone since the list was made.
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                Err(error) => return Err(error),
            };
            // `gateways/status` and the like are no kinds of their own.
            for resource in resources.into_iter().filter(|resource| !resource.name.contains('/')) {
                kinds.entry(resource.kind).or_default().insert(version.version.clone());
            }
        }
    }
    Ok(served)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Kind = Kind { group: "networking.istio.io", kind: "Gateway" };
    const SIDECAR: Kind = Kind { group: "networking.istio.io", kind: "Sidecar" };

    fn crd(name: &str) -> PartialObjectMeta<CustomResourceDefinition> {
        let mut crd = PartialObjectMeta::default();
        crd.metadata.name = Some(name.to_owned());
        crd
    }

    fn groups(kinds: &[(&str, &[&str])]) -> BTreeMap<&'static str, Versions> {
        let owned = |versions: &[&str]| versions.iter().map(|version| (*version).to_owned()).collect();
        let kinds = kinds.iter().map(|(kind, versions)| ((*kind).to_owned(), owned(versions))).collect();
        [("networking.istio.io", kinds)].into()
    }

    #[test]
    fn a_crd_is_there_from_its_list_or_its_event_until_it_is_deleted() {
        let mut crds = Crds::new();
        assert!(!crds.take(Event::Init));
        assert!(!crds.take(Event::InitApply(crd("gateways.networking.istio.io"))));
        assert!(!crds.take(Event::InitApply(crd("certificates.cert-manager.io"))));
        assert!(crds.present.is_empty(), "the list is not whole yet");
        assert!(crds.take(Event::InitDone));
        assert_eq!(crds.present, [GATEWAY].into());
        assert!(!crds.take(Event::Apply(crd("certificates.cert-manager.io"))), "not ours");
        assert!(crds.take(Event::Apply(crd("sidecars.networking.istio.io"))));
        assert!(crds.take(Event::Delete(crd("gateways.networking.istio.io"))));
        assert_eq!(crds.present, [SIDECAR].into());
        crds.take(Event::Init);
        assert!(crds.take(Event::InitDone), "a list anew, and all are gone");
        assert!(crds.present.is_empty());
    }

    #[test]
    fn the_best_version_that_is_served_is_read() {
        let mut crds = Crds::new();
        crds.take(Event::Apply(crd("gateways.networking.istio.io")));
        let none = Served::new();
        let serve =
            |crds: &Crds, before: &Served, versions: &[&str]| crds.served(before, &groups(&[("Gateway", versions)]));
        assert_eq!(serve(&crds, &none, &["v1alpha3", "v1"]), [(GATEWAY, "v1")].into());
        let older = serve(&crds, &none, &["v1alpha3", "v1beta1"]);
        assert_eq!(older, [(GATEWAY, "v1beta1")].into());
        assert_eq!(serve(&crds, &none, &["v9"]), none, "a version that nobody here knows");
        assert_eq!(serve(&crds, &older, &["v1beta1", "v1"]), [(GATEWAY, "v1")].into());
    }

    #[test]
    fn a_kind_that_is_not_served_for_a_moment_stays_and_one_without_crd_goes() {
        let mut crds = Crds::new();
        crds.take(Event::Apply(crd("gateways.networking.istio.io")));
        let before = crds.served(&Served::new(), &groups(&[("Gateway", &["v1"])]));
        let nothing = BTreeMap::new();
        assert_eq!(crds.served(&before, &nothing), before);
        assert_eq!(crds.unserved(&nothing).collect::<Vec<_>>(), [&GATEWAY]);
        crds.take(Event::Delete(crd("gateways.networking.istio.io")));
        assert_eq!(crds.served(&before, &groups(&[("Gateway", &["v1"])])), Served::new());
    }
}
