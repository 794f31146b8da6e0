//! `/status`: what is true of objects now, for whoever waits for it.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use palisade_compile::{
    ObjectName, SourceDocument,
    status::{Acked, Acks, Body, Concern, Holding, ObjectStatus, StatusOptions, Statuses},
};
use palisade_crds::{Documents, document};
use palisade_model::origin::Origin;
use serde::{Deserialize, Serialize};

use crate::{serve::Shared, slices::Slices, status::FleetAcks};

/// Longest question: documents and all.
pub(super) const MAX_QUESTION_BYTES: usize = 32 << 20;

/// Which objects are asked about: documents, each as it was applied, and names.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StatusQuestion {
    /// YAML or JSON.
    #[serde(default)]
    pub documents: String,
    /// Namespace of documents and names without one.
    pub namespace: String,
    /// Objects by name, as they are.
    #[serde(default)]
    pub names: Vec<AskedName>,
}

/// An object by name.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AskedName {
    /// API group; empty stands for any.
    #[serde(default)]
    pub group: String,
    /// Kind, in any case.
    pub kind: String,
    /// Namespace; empty for kinds without.
    #[serde(default)]
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// What is true of one object.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct StatusAnswer {
    /// `KIND NAMESPACE/NAME`.
    pub object: String,
    /// `held`, `differs` or `missing`: whether what was asked about is what is compiled.
    pub holding: String,
    /// The compiled generation.
    pub generation: i64,
    /// Why it is not accepted; empty = it is.
    pub refusals: Vec<String>,
    /// Who enforces it.
    pub enforced: Count,
    /// Who serves it; of Gateways of the Gateway API alone.
    pub programmed: Option<Count>,
}

/// How many proxies do what an object says.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub struct Count {
    /// Proxies that do.
    pub by: usize,
    /// Connected proxies that it concerns.
    pub of: usize,
    /// It is true everywhere.
    pub is_everywhere: bool,
    /// Those that do not, and why.
    pub laggards: Vec<String>,
}

pub(super) async fn answer(State(shared): State<Arc<Shared>>, Json(question): Json<StatusQuestion>) -> Response {
    let Some(mesh) = shared.mesh.borrow().clone() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no configuration is compiled yet\n").into_response();
    };
    let fleet = Arc::clone(&shared.fleet);
    // Parsing and comparing take their time: off the async threads.
    let answered = tokio::task::spawn_blocking(move || {
        let statuses = mesh.statuses(&StatusOptions::default());
        let acks = FleetAcks::new(&fleet, &statuses.expected).since(mesh.epoch());
        answers(&question, &*mesh, &statuses, &acks)
    });
    match answered.await {
        Ok(Ok(answers)) => Json(answers).into_response(),
        Ok(Err(message)) => (StatusCode::BAD_REQUEST, message).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn answers(
    question: &StatusQuestion,
    mesh: &dyn Slices,
    statuses: &Statuses,
    acks: &FleetAcks<'_>,
) -> Result<Vec<StatusAnswer>, String> {
    let StatusQuestion { documents, namespace, names } = question;
    let Documents { documents, unreadable } = document::read("documents", documents.as_bytes());
    if let Some(text) = unreadable.first() {
        return Err(format!("line {}: {}", text.line, text.message));
    }
    let mut answers = Vec::new();
    for document in documents {
        let wanted = SourceDocument::parse(document, namespace);
        let meta = &wanted.parsed.meta;
        let display = if meta.namespace.is_empty() {
            format!("{} {}", meta.kind, meta.name)
        } else {
            format!("{} {}/{}", meta.kind, meta.namespace, meta.name)
        };
        answers.push(match mesh.holding(&wanted) {
            Holding::Missing => absent(display, "missing"),
            Holding::Differs(origin) => StatusAnswer { generation: origin.generation, ..absent(display, "differs") },
            Holding::Held(origin) => told(&origin, statuses, acks),
        });
    }
    for AskedName { group, kind, namespace, name } in names {
        answers.push(match mesh.find(group, kind, namespace, name) {
            Some(origin) => told(&origin, statuses, acks),
            None => absent(format!("{kind} {namespace}/{name}"), "missing"),
        });
    }
    Ok(answers)
}

fn absent(object: String, holding: &str) -> StatusAnswer {
    StatusAnswer {
        object,
        holding: holding.to_owned(),
        generation: 0,
        refusals: Vec::new(),
        enforced: Count::default(),
        programmed: None,
    }
}

fn told(origin: &Origin, statuses: &Statuses, acks: &FleetAcks<'_>) -> StatusAnswer {
    let Origin { group, kind, namespace, name, uid: _, generation } = origin.clone();
    let status = statuses.objects.get(&ObjectName { group, kind, namespace, name }).map(|status| &**status);
    let concern = status.and_then(ObjectStatus::concern);
    let enforced = match &concern {
        Some(concern) => acks.enforced(origin, concern),
        // It becomes nothing of its own: what proxies do of it they do when they do all that they should.
        None => acks.in_step(),
    };
    let refusals = status.map(ObjectStatus::refusals).unwrap_or_default();
    StatusAnswer {
        object: origin.to_string(),
        holding: "held".to_owned(),
        generation,
        refusals: refusals.iter().map(|c| format!("{} ({}): {}", c.kind, c.reason, c.message)).collect(),
        enforced: count(enforced),
        programmed: status.and_then(|status| programmed(status, acks)),
    }
}

fn programmed(status: &ObjectStatus, acks: &FleetAcks<'_>) -> Option<Count> {
    let Body::Gateway(gateway) = &status.body else { return None };
    if let Some(obstacle) = &gateway.obstacle {
        let laggards = vec![format!("{}: {}", obstacle.reason, obstacle.message)];
        return Some(Count { laggards, ..Count::default() });
    }
    let mut count = count(acks.programmed(&status.origin, &Concern::Gateways(vec![gateway.key.clone()])));
    if count.of == 0 {
        count.is_everywhere = false;
        count.laggards.push("no proxy of this Gateway is connected".to_owned());
    }
    Some(count)
}

fn count(acked: Acked) -> Count {
    let is_everywhere = acked.is_everywhere();
    let Acked { by, of, missing, absent } = acked;
    let absent = absent.into_iter().map(|proxy| format!("{proxy}: not connected"));
    let laggards = missing.into_iter().map(|(proxy, reason)| format!("{proxy}: {reason}")).chain(absent).collect();
    Count { by, of, is_everywhere, laggards }
}
