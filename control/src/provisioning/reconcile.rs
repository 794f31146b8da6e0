//! One Gateway: what has to be done to its objects, and doing it.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::DynamicObject,
};
use palisade_compile::ObjectKey;
use serde_json::{Value, json};

use super::{
    held::{FIELD_MANAGER, Held, ObjectRef},
    objects::Kind,
};
use crate::leader::Leadership;

/// The API server gets this long for one answer.
const ANSWER: Duration = Duration::from_secs(10);

/// What has to be done to an object.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Make it, unless one of its name is there.
    Make(Kind, Value),
    /// Bring the one with this UID up to date.
    Update(Kind, Value, String),
    /// Remove the one with this UID.
    Remove(ObjectRef, String),
}

/// All steps of a Gateway.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) gateway: ObjectKey,
    /// UID of the Gateway.
    pub(super) uid: String,
    pub(super) steps: Vec<Step>,
}

/// What became of them.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) gateway: ObjectKey,
    /// Objects as they are now; `None` = removed.
    pub(super) seen: Vec<(ObjectRef, Option<Held>)>,
    /// Writes that went through.
    pub(super) writes: Vec<Kind>,
    /// What stopped it.
    pub(super) stopped: Option<Stopped>,
}

/// Why not everything is done.
#[derive(Debug, Clone)]
pub(super) enum Stopped {
    /// An object of that name is somebody else's.
    Foreign(String),
    /// The API server will not have it.
    Refused(String),
    /// It may go well the next time.
    Later(String),
}

/// Does what is to be done, in order, as long as this replica leads.
pub(super) async fn work(client: Client, leadership: Leadership, work: Work) -> Done {
    let Work { gateway, uid, steps } = work;
    let mut done = Done { gateway, seen: Vec::new(), writes: Vec::new(), stopped: None };
    for step in steps {
        if !leadership.holds() {
            done.stopped = Some(Stopped::Later("not leading any more".to_owned()));
            break;
        }
        let result = tokio::time::timeout(ANSWER, one(&client, &step, &uid, &mut done)).await;
        // One object that cannot be does not keep the others from being.
        match result.unwrap_or_else(|_| Err(Stopped::Later(format!("no answer within {ANSWER:?}")))) {
            Ok(()) => {}
            Err(later @ Stopped::Later(_)) => {
                done.stopped.get_or_insert(later);
                break;
            }
            Err(stopped) => drop(done.stopped.get_or_insert(stopped)),
        }
    }
    done
}

async fn one(client: &Client, step: &Step, owner: &str, done: &mut Done) -> Result<(), Stopped> {
    match step {
        Step::Make(kind, object) => {
            let name = name_of(*kind, object);
            let api = api(client, &name);
            let Some(there) = api.get_opt(&name.name).await.map_err(|error| stopped(&name, error))? else {
                // Not forced: whoever makes one at this very moment keeps what he wrote.
                let made = api.patch(&name.name, &PatchParams::apply(FIELD_MANAGER), &Patch::Apply(object)).await;
                return wrote(made, name, done);
            };
            let held = Held::of(there);
            if !held.is_ours || held.owner.as_ref().is_some_and(|uid| uid != owner) {
                return Err(not_ours(&name, &held));
            }
            if held.is_ending {
                return Err(Stopped::Later(format!("{} `{}` is being deleted", kind.resource().kind, name.name)));
            }
            if held.made_from.is_empty() {
                return adopt(&api, name, object, &held, done).await;
            }
            update(&api, name, object, &held.uid, done).await
        }
        Step::Update(kind, object, uid) => {
            let name = name_of(*kind, object);
            update(&api(client, &name), name, object, uid, done).await
        }
        Step::Remove(name, uid) => {
            let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let how = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
            match api(client, name).delete(&name.name, &how).await {
                Ok(_) => done.writes.push(name.kind),
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(stopped(name, error)),
            }
            done.seen.push((name.clone(), None));
            Ok(())
        }
    }
}

/// Brings one up to date that is there; another one of that name is left alone.
async fn update(
    api: &Api<DynamicObject>,
    name: ObjectRef,
    object: &Value,
    uid: &str,
    done: &mut Done,
) -> Result<(), Stopped> {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("uid".to_owned(), json!(uid));
    }
    let written = api.patch(&name.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&object)).await;
    wrote(written, name, done)
}

/// Takes over one that somebody has handed over: what he had said in the same places goes, and is nobody's any more.
async fn adopt(
    api: &Api<DynamicObject>,
    name: ObjectRef,
    object: &Value,
    held: &Held,
    done: &mut Done,
) -> Result<(), Stopped> {
    let mut patch = object.clone();
    // A merge takes lists as a whole, and leaves keys of maps that it does not name.
    if let Some(selector) = patch.pointer_mut("/spec/selector").and_then(Value::as_object_mut) {
        for key in held.selector() {
            selector.entry(key).or_insert(Value::Null);
        }
    }
    if let Some(metadata) = patch.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("uid".to_owned(), json!(held.uid));
    }
    let ours = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    api.patch(&name.name, &ours, &Patch::Merge(&patch)).await.map_err(|error| stopped(&name, error))?;
    let force = PatchParams::apply(FIELD_MANAGER).force();
    let applied = api.patch(&name.name, &force, &Patch::Apply(object)).await.map_err(|error| stopped(&name, error))?;
    // Only what is applied is ours: a field that is applied no more has to go.
    let is_kept = |entry: &&ManagedFieldsEntry| {
        let is_merged = entry.operation.as_deref() == Some("Update") && entry.subresource.is_none();
        !(is_merged && entry.manager.as_deref() == Some(FIELD_MANAGER))
    };
    let kept: Vec<&ManagedFieldsEntry> = applied.managed_fields().iter().filter(is_kept).collect();
    let owned = json!({"metadata": {"managedFields": kept, "resourceVersion": applied.resource_version()}});
    wrote(api.patch(&name.name, &ours, &Patch::Merge(&owned)).await, name, done)
}

fn wrote(result: Result<DynamicObject, kube::Error>, name: ObjectRef, done: &mut Done) -> Result<(), Stopped> {
    let object = result.map_err(|error| stopped(&name, error))?;
    done.writes.push(name.kind);
    done.seen.push((name, Some(Held::of(object))));
    Ok(())
}

fn stopped(name: &ObjectRef, error: kube::Error) -> Stopped {
    let what = format!("{} `{}/{}`", name.kind.resource().kind, name.namespace, name.name);
    match error {
        kube::Error::Api(status) => match status.code {
            // A namespace that ends takes everything with it.
            403 if status.message.contains("being terminated") => Stopped::Later(format!("{what}: {}", status.message)),
            // What has the wrong type comes as an internal error of the API server.
            500 if status.message.contains("failed to create typed patch object") => {
                Stopped::Refused(format!("{what} is refused: {}", status.message))
            }
            400 | 403 | 422 => Stopped::Refused(format!("{what} is refused: {}", status.message)),
            _ => Stopped::Later(format!("{what}: {}", status.message)),
        },
        error => Stopped::Later(format!("{what}: {error}")),
    }
}

/// Somebody else's object; one of a Gateway that is gone goes by itself.
fn not_ours(name: &ObjectRef, held: &Held) -> Stopped {
    let what = format!("{} `{}/{}`", name.kind.resource().kind, name.namespace, name.name);
    if held.is_ours {
        Stopped::Later(format!("{what} is that of an earlier Gateway of this name, and not gone yet"))
    } else {
        Stopped::Foreign(format!(
            "{what} is there already and is not Palisade's: it is left as it is; delete or rename it"
        ))
    }
}

fn api(client: &Client, name: &ObjectRef) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), &name.namespace, &name.kind.resource())
}

/// An object's name, by its own metadata.
pub(super) fn name_of(kind: Kind, object: &Value) -> ObjectRef {
    let text = |field: &str| object.pointer(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    ObjectRef { kind, namespace: text("/metadata/namespace"), name: text("/metadata/name") }
}

/// Objects and what they said once they were as wanted.
pub(super) type Settled = std::collections::HashMap<ObjectRef, (String, String)>;

/// What has to be done so that there are these objects, and none of ours besides.
pub(super) fn steps<'a>(
    wanted: &BTreeMap<Kind, Value>,
    uid: &str,
    held: impl Fn(&ObjectRef) -> Option<&'a Held>,
    all: impl Iterator<Item = (&'a ObjectRef, &'a Held)>,
    settled: &Settled,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for (kind, object) in wanted {
        let name = name_of(*kind, object);
        // One that is new here, an earlier Gateway's, or handed over is looked at again before anything is done.
        let is_plain = |there: &&Held| {
            !there.is_ending && !there.made_from.is_empty() && there.owner.as_ref().is_none_or(|owner| owner == uid)
        };
        let Some(there) = held(&name).filter(is_plain) else {
            steps.push(Step::Make(*kind, object.clone()));
            continue;
        };
        let made_from = object.pointer("/metadata/annotations/palisade.dev~1made-from").and_then(Value::as_str);
        let is_current = made_from == Some(&*there.made_from)
            && (there.says(object)
                || settled
                    .get(&name)
                    .is_some_and(|(from, content)| Some(from.as_str()) == made_from && there.is_as(content)));
        if !is_current {
            steps.push(Step::Update(*kind, object.clone(), there.uid.clone()));
        }
    }
    let is_wanted = |name: &ObjectRef| wanted.get(&name.kind).is_some_and(|object| name_of(name.kind, object) == *name);
    for (name, there) in all {
        let is_own = there.owner.as_deref().is_none_or(|owner| owner == uid);
        if is_own && !there.is_ending && !is_wanted(name) {
            steps.push(Step::Remove(name.clone(), there.uid.clone()));
        }
    }
    steps
}
