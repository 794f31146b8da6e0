//! `/status`: what is true of objects now, for whoever waits for it.

use std::sync::Arc;

use axum::http::StatusCode;
use bytes::Bytes;
use palisade_compile::{
    ObjectName, SourceDocument,
    status::{Acked, Acks, Body, Concern, Holding, ObjectStatus, StatusOptions, Statuses},
};
use palisade_crds::{Documents, document};
use palisade_model::origin::Origin;
use serde::{Deserialize, Serialize};

use super::Answer;
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

/// What is true of objects as far as the proxies of one replica go.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct OwnStatus {
    /// Proxies that are connected to it.
    proxies: usize,
    answers: Vec<StatusAnswer>,
}

/// The answer of this replica's own proxies to a question in JSON. `is_all` also names those that are connected to no replica.
pub(crate) async fn of_own_proxies(shared: &Shared, question: Bytes, is_all: bool) -> Result<OwnStatus, Answer> {
    let unready = || Answer::line(StatusCode::SERVICE_UNAVAILABLE, "no configuration is compiled yet");
    let mesh = shared.mesh.borrow().clone().ok_or_else(unready)?;
    let (fleet, revisions) = (Arc::clone(&shared.fleet), shared.replicas.revisions().cloned());
    // Parsing and comparing take their time: off the async threads.
    let answered = tokio::task::spawn_blocking(move || {
        let question: StatusQuestion = serde_json::from_slice(&question).map_err(|error| error.to_string())?;
        let statuses = mesh.statuses(&StatusOptions::default());
        let expected = if is_all { statuses.expected.as_slice() } else { &[] };
        let acks = FleetAcks::new(&fleet, expected, revisions.as_ref()).here().since(mesh.epoch());
        let answers = answers(&question, &*mesh, &statuses, &acks)?;
        Ok(OwnStatus { proxies: fleet.len(), answers })
    });
    match answered.await {
        Ok(Ok(own)) => Ok(own),
        Ok(Err(message)) => {
            let message: String = message;
            Err(Answer::line(StatusCode::BAD_REQUEST, &message))
        }
        Err(error) => Err(Answer::line(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
    }
}

impl OwnStatus {
    /// With what another replica says of the same objects.
    pub(crate) fn add(&mut self, replica: &str, other: Self) {
        let Self { proxies, answers } = other;
        // What a replica without proxies has compiled concerns nobody.
        if proxies == 0 {
            return;
        }
        self.proxies += proxies;
        let mut others = answers.into_iter();
        for own in self.answers.iter_mut().filter(|own| own.holding == "held") {
            // Both list the same objects in the same order, being asked the same.
            let other = others.by_ref().find(|other| other.object == own.object);
            match other {
                Some(other) if other.holding == "held" && other.generation == own.generation => {
                    own.enforced.add(other.enforced);
                    if let (Some(own), Some(other)) = (&mut own.programmed, other.programmed) {
                        own.add(other);
                    }
                }
                Some(_) | None => own.lacks(&format!("replica {replica} has not compiled it as it is here")),
            }
        }
    }

    /// The answer to who asked; what replicas do nobody knows stands against it.
    pub(crate) fn finish(self, unknown: &[String]) -> Vec<StatusAnswer> {
        let mut answers = self.answers;
        for answer in answers.iter_mut().filter(|answer| answer.holding == "held") {
            for problem in unknown {
                answer.lacks(problem);
            }
            if let Some(programmed) = answer.programmed.as_mut().filter(|count| count.of == 0) {
                programmed.is_everywhere = false;
                if programmed.laggards.is_empty() {
                    programmed.laggards.push("no proxy of this Gateway is connected".to_owned());
                }
            }
        }
        answers
    }
}

impl StatusAnswer {
    fn lacks(&mut self, problem: &str) {
        for count in std::iter::once(&mut self.enforced).chain(&mut self.programmed) {
            count.is_everywhere = false;
            count.laggards.push(problem.to_owned());
        }
    }
}

impl Count {
    fn add(&mut self, other: Self) {
        let Self { by, of, is_everywhere, laggards } = other;
        self.by += by;
        self.of += of;
        self.is_everywhere &= is_everywhere;
        let fresh: Vec<String> = laggards.into_iter().filter(|laggard| !self.laggards.contains(laggard)).collect();
        self.laggards.extend(fresh);
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
    Some(count(acks.programmed(&status.origin, &Concern::Gateways(vec![gateway.key.clone()]))))
}

fn count(acked: Acked) -> Count {
    let is_everywhere = acked.is_everywhere();
    let Acked { by, of, missing, absent } = acked;
    let absent = absent.into_iter().map(|proxy| format!("{proxy}: not connected"));
    let laggards = missing.into_iter().map(|(proxy, reason)| format!("{proxy}: {reason}")).chain(absent).collect();
    Count { by, of, is_everywhere, laggards }
}
