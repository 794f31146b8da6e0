//! The admin pages' view of a running proxy.

use std::sync::Arc;

use palisade_model::reason::Reason;
use palisade_policy::{Explanation, FailedClause, NearMiss, Peer, PolicyRef, RecordedExplanation};
use serde_json::{Value, json};

use super::{Runtime, recent::Denied};
use crate::{admin::AdminSource, telemetry::shadow::word};

/// Changes the log filter of the process.
pub trait LogFilter: Send + Sync + 'static {
    /// The filter in force.
    fn current(&self) -> String;

    /// Replaces it.
    ///
    /// # Errors
    /// When the directives cannot be read.
    fn replace(&self, directives: &str) -> Result<(), String>;
}

/// The admin pages' source.
pub struct RuntimeSource {
    runtime: Arc<Runtime>,
    filter: Arc<dyn LogFilter>,
}

impl RuntimeSource {
    /// Over a runtime and the process's log filter.
    pub fn new(runtime: Arc<Runtime>, filter: Arc<dyn LogFilter>) -> Arc<Self> {
        Arc::new(Self { runtime, filter })
    }
}

impl AdminSource for RuntimeSource {
    fn config(&self) -> Value {
        let Some(index) = self.runtime.index() else { return json!({ "version": null, "resources": [] }) };
        let snapshot = index.snapshot();
        // A private key serialises as `redacted` in every human-readable form.
        let resources: Vec<Value> = snapshot
            .entries()
            .iter()
            .map(|(key, entry)| json!({ "kind": key.kind.as_str(), "name": key.name, "entry": entry }))
            .collect();
        json!({
            "version": snapshot.version().to_string(),
            "proxy": self.runtime.settings().proxy,
            "identity": self.runtime.identities.current().map(|identity| json!({
                "uri": identity.uri(),
                "generation": identity.generation(),
                "not_after": identity.period().1,
            })),
            "resources": resources,
        })
    }

    fn why(&self, decision: &str) -> Option<Value> {
        explain_decision(&self.runtime, decision)
    }

    fn log_filter(&self) -> String {
        self.filter.current()
    }

    fn set_log_filter(&self, directives: &str) -> Result<(), String> {
        self.filter.replace(directives)
    }

    fn drain(&self) {
        self.runtime.drain.begin();
    }

    fn readiness(&self) -> Result<(), String> {
        if self.runtime.drain.is_draining() {
            return Err("draining".to_owned());
        }
        match self.runtime.index() {
            Some(_) => Ok(()),
            None => Err("no configuration yet".to_owned()),
        }
    }
}

/// The explanation of a recent decision; `None` = not known any more.
pub(crate) fn explain_decision(runtime: &Runtime, decision: &str) -> Option<Value> {
    runtime.decisions.recent.find(decision).map(|denied| story(&denied))
}

/// The whole story of a denial, as `palisade policy why` reads it.
fn story(denied: &Denied) -> Value {
    let Denied { id, time, reason, captured, engine } = denied;
    let Explanation { allowed, policies, nearest, message, recorded } = engine.explain(captured);
    let connection = &captured.connection;
    let source = match &connection.peer {
        Peer::Mesh(id) => id.to_string(),
        Peer::Certificate(names) => names.uris.first().unwrap_or(&names.subject).clone(),
        Peer::Anonymous => connection.source_ip.to_string(),
    };
    let request = captured.http.as_ref().map(|http| {
        // The query is left out: queries carry secrets.
        let path = http.path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
        json!({
            "method": http.method,
            "authority": String::from_utf8_lossy(&http.authority),
            "path": String::from_utf8_lossy(path),
        })
    });
    let text = match (&message, policies.first(), nearest.first()) {
        (Some(message), _, _) if matches!(reason, Reason::JwtInvalid | Reason::JwtAudience) => {
            format!("The token is refused: {message}.")
        }
        (Some(message), _, _) => format!("The whole target is denied: {message}."),
        (None, Some(policy), _) => format!("{} by {}.", if allowed { "Allowed" } else { "Denied" }, policy.id),
        (None, None, Some(miss)) => format!("No policy allows it; {} came nearest.", miss.policy.id),
        (None, None, None) => "No policy allows it.".to_owned(),
    };
    json!({
        "decision": id,
        "verdict": word(allowed),
        "reason": reason.as_str(),
        "time": time.to_string(),
        "source": source,
        "destination": format!("{}:{}", connection.destination_ip, connection.destination_port),
        "request": request,
        "policies": policies.iter().filter_map(policy).collect::<Vec<_>>(),
        "nearest": nearest.iter().filter_map(near_miss).collect::<Vec<_>>(),
        "shadow": recorded.iter().filter_map(shadow).collect::<Vec<_>>(),
        "text": text,
    })
}

/// A policy by its document; `None` for the mesh's own defaults.
fn policy(policy: &PolicyRef) -> Option<Value> {
    let origin = policy.source.as_ref()?;
    Some(json!({ "kind": origin.kind, "namespace": origin.namespace, "name": origin.name, "rule": policy.rule }))
}

/// What an audited or dry-run document says.
fn shadow(said: &RecordedExplanation) -> Option<Value> {
    let RecordedExplanation { policy, matched, allowed, nearest } = said;
    let origin = policy.source.as_ref()?;
    Some(json!({
        "kind": origin.kind,
        "namespace": origin.namespace,
        "name": origin.name,
        "rule": policy.rule.filter(|_| *matched),
        "matched": matched,
        "decision": allowed.map(word),
        "nearest": nearest.as_ref().and_then(near_miss),
    }))
}

/// A near miss with its failed clauses.
fn near_miss(miss: &NearMiss) -> Option<Value> {
    let NearMiss { policy: of, failed } = miss;
    let origin = of.source.as_ref()?;
    let failed: Vec<Value> = failed
        .iter()
        .map(|FailedClause { field, expected, actual }| json!({ "field": field, "expected": expected, "actual": actual }))
        .collect();
    Some(json!({ "namespace": origin.namespace, "name": origin.name, "rule": of.rule, "failed": failed }))
}
