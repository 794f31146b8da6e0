//! Copies of requests: where they go and how many.

use palisade_crds::{
    gateway_api::HttpRequestMirrorFilter,
    istio::{HttpMirrorPolicy, HttpRoute},
};
use palisade_model::route::{Mirror, Percent};

use crate::lower::{
    client::Client,
    clusters::Destination,
    fault,
    http::{self, Place},
};

/// Mirrors of a rule with their destinations; those with a share of zero are none.
pub(crate) fn of_virtual_service(
    client: Client<'_>,
    route: &HttpRoute,
    place: Place<'_>,
) -> Vec<(Mirror, Destination)> {
    let mut mirrors = Vec::new();
    let mut add = |destination, share: Percent| {
        if share > Percent(0) {
            let destination = http::destination(client, destination, place);
            mirrors.push((Mirror { cluster: destination.cluster_name(), share }, destination));
        }
    };
    if let Some(destination) = &route.mirror {
        let whole = route.mirror_percent.or(route.mirror_percent_proto);
        let share = match (&route.mirror_percentage, whole) {
            (Some(percentage), _) => fault::share(percentage.value),
            (None, Some(percent)) => Percent(percent.min(100).saturating_mul(10_000)),
            (None, None) => Percent::ALWAYS,
        };
        add(destination, share);
    }
    for HttpMirrorPolicy { destination, percentage } in &route.mirrors {
        add(destination, percentage.as_ref().map_or(Percent::ALWAYS, |percentage| fault::share(percentage.value)));
    }
    mirrors
}

/// The share of an HTTPRoute's mirror; absent is all.
pub(crate) fn share(written: &HttpRequestMirrorFilter) -> Percent {
    let HttpRequestMirrorFilter { backend_ref: _, percent, fraction } = written;
    match (percent, fraction) {
        (Some(percent), _) => Percent((*percent).min(100).saturating_mul(10_000)),
        (None, Some(fraction)) => {
            let millionths = u64::from(fraction.numerator) * u64::from(Percent::ALWAYS.0);
            let share = millionths.checked_div(u64::from(fraction.denominator)).unwrap_or(0);
            Percent(u32::try_from(share).unwrap_or(Percent::ALWAYS.0).min(Percent::ALWAYS.0))
        }
        (None, None) => Percent::ALWAYS,
    }
}
