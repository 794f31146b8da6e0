//! Pages about the proxies of all replicas, or with the word which of them are missing.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use http::StatusCode;
use palisade_model::settings::WorkloadRef;
use palisade_wire::proto::v1::PageAnswer;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Question, Replicas};
use crate::{
    admin::{Answer, OwnStatus, Page, here, of_own_proxies},
    serve::Shared,
};

/// How long another replica may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The page about the proxies of all replicas.
pub(crate) async fn whole(shared: &Shared, page: Page) -> Answer {
    let Some(place) = shared.replicas.place() else { return gathered(shared, &page, Vec::new(), Vec::new()).await };
    if place.leadership.holds() {
        let connected = shared.fleet.connected();
        let mesh = shared.mesh.borrow().clone();
        let is_missing = |pod: &WorkloadRef| {
            !connected.contains(pod) && mesh.as_ref().is_some_and(|mesh| mesh.workload(pod).is_some())
        };
        let mut missing = shared.replicas.silent(is_missing);
        let mut answers = Vec::new();
        for (name, answer) in shared.replicas.ask_all(&page).await {
            match answer {
                Some(answer) => answers.push((name, answer)),
                None => missing.push(format!("replica {name} does not answer")),
            }
        }
        return gathered(shared, &page, answers, missing).await;
    }
    let leader = shared.replicas.links.lock().leader.clone();
    let problem = match leader {
        None => "the leader is not known here".to_owned(),
        Some((name, mut client)) => match tokio::time::timeout(PATIENCE * 2, client.ask(page.question())).await {
            Ok(Ok(answer)) => return Answer::of(answer.into_inner()),
            Ok(Err(status)) => format!("replica {name}, which leads: {}", status.message()),
            Err(_) => format!("replica {name}, which leads, does not answer"),
        },
    };
    gathered(shared, &page, Vec::new(), vec![format!("{problem}: only proxies of {} are looked at", place.name)]).await
}

impl Replicas {
    /// What each replica that tells has to say; `None` = nothing in time.
    async fn ask_all(&self, page: &Page) -> Vec<(Arc<str>, Option<Answer>)> {
        let links: Vec<_> =
            self.links.lock().peers.iter().map(|(name, link)| (Arc::clone(name), link.questions.clone())).collect();
        let asked = links.into_iter().map(|(name, questions)| async move {
            let (answer, answered) = oneshot::channel::<PageAnswer>();
            let asking = async {
                questions.send(Question { question: page.question(), answer }).await.ok()?;
                answered.await.ok()
            };
            let answer = tokio::time::timeout(PATIENCE, asking).await.unwrap_or(None);
            (name, answer.map(Answer::of))
        });
        join_all(asked).await
    }
}

/// One page out of this replica's and the others'.
async fn gathered(shared: &Shared, page: &Page, others: Vec<(Arc<str>, Answer)>, missing: Vec<String>) -> Answer {
    let mut answer = match page {
        Page::Status(question) => match of_own_proxies(shared, question.clone(), true).await {
            Ok(own) => status(own, others, &missing),
            Err(answer) => answer,
        },
        Page::Proxies => {
            let own = shared.replicas.place().map(|place| Arc::clone(&place.name));
            let all = [(own, here(shared, page).await)];
            proxies(all.into_iter().chain(others.into_iter().map(|(name, answer)| (Some(name), answer))))
        }
        Page::Proxy(_) => {
            let all = std::iter::once(here(shared, page).await).chain(others.into_iter().map(|(_, answer)| answer));
            newest(all)
        }
        Page::Why(_) => {
            let own = here(shared, page).await;
            let is_good = |answer: &Answer| answer.code == StatusCode::OK;
            if is_good(&own) { own } else { others.into_iter().map(|(_, answer)| answer).find(is_good).unwrap_or(own) }
        }
    };
    answer.missing.extend(missing);
    answer
}

fn status(mut own: OwnStatus, others: Vec<(Arc<str>, Answer)>, missing: &[String]) -> Answer {
    let mut problems = missing.to_vec();
    for (name, answer) in others {
        match serde_json::from_slice(&answer.body) {
            Ok(other) if answer.code == StatusCode::OK => own.add(&name, other),
            Ok(_) | Err(_) => problems.push(format!("replica {name} answered {}", answer.code)),
        }
    }
    Answer::json(StatusCode::OK, &own.finish(&problems))
}

fn proxies(answers: impl Iterator<Item = (Option<Arc<str>>, Answer)>) -> Answer {
    let mut all: Vec<Value> = Vec::new();
    let mut missing = Vec::new();
    for (name, answer) in answers {
        match serde_json::from_slice::<Vec<Value>>(&answer.body) {
            Ok(list) => all.extend(list.into_iter().map(|mut proxy| {
                if let (Some(name), Some(fields)) = (&name, proxy.as_object_mut()) {
                    fields.insert("replica".to_owned(), json!(name));
                }
                proxy
            })),
            Err(error) => missing.push(format!("replica {}: {error}", name.unwrap_or_default())),
        }
    }
    let text = |proxy: &Value, field: &str| proxy.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    all.sort_by_key(|proxy| (text(proxy, "namespace"), text(proxy, "name"), since(proxy)));
    Answer { missing, ..Answer::json(StatusCode::OK, &all) }
}

/// Of a proxy that several replicas know, what the one says to which it came last.
fn newest(answers: impl Iterator<Item = Answer>) -> Answer {
    let mut best: Option<(Option<jiff::Timestamp>, Answer)> = None;
    for answer in answers {
        let page: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let since = page.get("proxy").filter(|_| answer.code == StatusCode::OK).and_then(since);
        if best.as_ref().is_none_or(|(newest, _)| since > *newest) {
            best = Some((since, answer));
        }
    }
    best.map_or_else(|| Answer::line(StatusCode::NOT_FOUND, "nobody answers"), |(_, answer)| answer)
}

fn since(proxy: &Value) -> Option<jiff::Timestamp> {
    proxy.get("connected").and_then(Value::as_str).and_then(|text| text.parse().ok())
}
