//! What configuration puts into answers: faults and response headers.

use http::HeaderValue;
use palisade_model::route::{Fault, FaultAbort};

use super::{
    changes::{CompiledChanges, HeaderChange},
    facts::Chance,
    status,
    verdict::Injected,
};

/// The faults that happen, and the gRPC status of an abort where the answer is gRPC's.
pub(super) fn inject(fault: &Fault, is_grpc: bool, chance: &mut Chance) -> (Injected, Option<u32>) {
    let Fault { delay, abort } = fault;
    let delay = delay.filter(|(_, share)| share.happens(chance.draw())).map(|(time, _)| time);
    let abort = abort.filter(|(_, share)| share.happens(chance.draw())).map(|(abort, _)| abort);
    let (status, grpc) = match abort {
        Some(FaultAbort::Http(http)) => (Some(http), is_grpc.then(|| status::grpc_of_http(http))),
        Some(FaultAbort::Grpc(grpc)) => (Some(status::http_of_grpc(grpc)), is_grpc.then_some(grpc)),
        None => (None, None),
    };
    (Injected { delay, abort: status }, grpc)
}

/// Response headers that a configured answer gets; there is nothing to remove from it.
pub(super) fn added(changes: &CompiledChanges) -> Vec<(http::HeaderName, HeaderValue)> {
    lines_of(&changes.changes)
}

pub(super) fn lines_of(changes: &[HeaderChange]) -> Vec<(http::HeaderName, HeaderValue)> {
    changes
        .iter()
        .filter_map(|change| match change {
            HeaderChange::Set(name, value) | HeaderChange::Append(name, value) => Some((name.clone(), value.clone())),
            HeaderChange::Remove(_) => None,
        })
        .collect()
}
