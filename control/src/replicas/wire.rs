//! What replicas tell each other, to messages and back. Nothing is taken that is not whole.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use palisade_model::settings::WorkloadRef;
use palisade_wire::proto::v1::{
    CompiledObject, FleetReport, ObjectParts, ReportedObject, ReportedPart, ReportedProxy as WireProxy, ReportedSum,
    UnboundObject,
};

use crate::fleet::{ObjectId, Part, Report, ReportedProxy, Sum, Told};

/// Entries of one message.
const AT_ONCE: usize = 4_000;

/// A field that must be there is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is missing")]
pub(crate) struct Missing(&'static str);

/// A report as messages, each of moderate size; what is compiled comes last.
pub(crate) fn messages(report: Report, compiled: Vec<(ObjectId, i64)>, removed: Vec<ObjectId>) -> Vec<FleetReport> {
    let Report { proxies, left, parts, is_told: _ } = report;
    let mut messages = vec![FleetReport { left, ..FleetReport::default() }];
    let mut room = AT_ONCE;
    let mut with = |entries: usize, put: &mut dyn FnMut(&mut FleetReport)| {
        if room == 0 {
            messages.push(FleetReport::default());
            room = AT_ONCE;
        }
        room = room.saturating_sub(entries);
        if let Some(message) = messages.last_mut() {
            put(message);
        }
    };
    for (session, proxy) in proxies {
        with(1, &mut |message| message.proxies.push(proxy_message(session, proxy.clone())));
    }
    for (object, parts) in parts {
        for some in parts.chunks(AT_ONCE) {
            let parts: Vec<ReportedPart> = some.iter().map(|(session, part)| part_message(*session, *part)).collect();
            let object = object_message(&object);
            with(some.len(), &mut |message| {
                message.objects.push(ObjectParts { object: Some(object.clone()), parts: parts.clone() });
            });
        }
    }
    for (object, generation) in compiled {
        let object = CompiledObject { object: Some(object_message(&object)), generation };
        with(1, &mut |message| message.compiled.push(object.clone()));
    }
    for object in removed {
        with(1, &mut |message| message.removed.push(object_message(&object)));
    }
    messages
}

/// What a message tells.
pub(crate) fn told(message: FleetReport) -> Result<Told, Missing> {
    let FleetReport { proxies, left, objects, compiled, removed } = message;
    let parts = objects.into_iter().map(|ObjectParts { object, parts }| {
        let parts = parts.into_iter().map(|part| {
            let ReportedPart { session, wanted, acked, is_withheld } = part;
            (session, Part { wanted: sum(wanted), acked: sum(acked), is_withheld })
        });
        Ok((object_of(object)?, parts.collect()))
    });
    let compiled =
        compiled.into_iter().map(|CompiledObject { object, generation }| Ok((object_of(object)?, generation)));
    Ok(Told {
        proxies: proxies.into_iter().map(proxy_of).collect::<Result<_, _>>()?,
        left,
        parts: parts.collect::<Result<_, _>>()?,
        compiled: compiled.collect::<Result<_, _>>()?,
        removed: removed.into_iter().map(|object| object_of(Some(object))).collect::<Result<_, _>>()?,
    })
}

fn proxy_message(session: u64, proxy: ReportedProxy) -> WireProxy {
    let ReportedProxy { pod, connected, unofferable, refused, lacking, is_behind, unbound } = proxy;
    let connected = connected.duration_since(UNIX_EPOCH).unwrap_or_default();
    let unbound = unbound
        .into_iter()
        .map(|(object, message)| UnboundObject { object: Some(object_message(&object)), message: message.to_string() });
    WireProxy {
        session,
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
        connected_ms: u64::try_from(connected.as_millis()).unwrap_or(u64::MAX),
        unofferable: unofferable.map(|reason| reason.to_string()),
        refused: refused.map(|reason| reason.to_string()),
        lacking: lacking.into_iter().collect(),
        is_behind,
        unbound: unbound.collect(),
    }
}

fn proxy_of(message: WireProxy) -> Result<(u64, ReportedProxy), Missing> {
    let WireProxy { session, namespace, name, connected_ms, unofferable, refused, lacking, is_behind, unbound } =
        message;
    if namespace.is_empty() || name.is_empty() {
        return Err(Missing("proxy.name"));
    }
    let connected = UNIX_EPOCH.checked_add(Duration::from_millis(connected_ms)).unwrap_or(SystemTime::now());
    let unbound = unbound
        .into_iter()
        .map(|UnboundObject { object, message }| Ok((object_of(object)?, message.into())))
        .collect::<Result<_, _>>()?;
    let proxy = ReportedProxy {
        pod: WorkloadRef { namespace: namespace.into(), name: name.into() },
        connected,
        unofferable: unofferable.map(Into::into),
        refused: refused.map(Into::into),
        lacking: lacking.into_iter().collect(),
        is_behind,
        unbound,
    };
    Ok((session, proxy))
}

fn object_message(object: &ObjectId) -> ReportedObject {
    let ObjectId { group, kind, namespace, name, uid } = object;
    let [group, kind, namespace, name, uid] = [group, kind, namespace, name, uid].map(|text| text.to_string());
    ReportedObject { group, kind, namespace, name, uid }
}

fn object_of(message: Option<ReportedObject>) -> Result<ObjectId, Missing> {
    let ReportedObject { group, kind, namespace, name, uid } = message.ok_or(Missing("object"))?;
    if kind.is_empty() || name.is_empty() {
        return Err(Missing("object.name"));
    }
    Ok(ObjectId {
        group: group.into(),
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
        uid: uid.into(),
    })
}

fn part_message(session: u64, part: Part) -> ReportedPart {
    let Part { wanted, acked, is_withheld } = part;
    ReportedPart { session, wanted: sum_message(wanted), acked: sum_message(acked), is_withheld }
}

fn sum_message(sum: Sum) -> Option<ReportedSum> {
    let Sum { count, hashes, generation } = sum;
    (count > 0).then_some(ReportedSum { count, hashes, generation })
}

/// Absent is nothing: what is not held may not look like something that is.
fn sum(message: Option<ReportedSum>) -> Sum {
    let ReportedSum { count, hashes, generation } = message.unwrap_or_default();
    Sum { count, hashes, generation }
}
