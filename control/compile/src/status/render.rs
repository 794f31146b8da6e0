//! Statuses as JSON, without times.

use std::{net::IpAddr, sync::Arc};

use serde_json::{Map, Value, json};

use super::{
    Acks, Attachment, Body, CONTROLLER_NAME, Concern, Condition, GatewayStatus, ListenerSetStatus, ListenerStatus,
    ObjectStatus, Reference, SUPPORTED_FEATURES, WholeStatus,
};
use crate::resolve::gateway_api::GROUP;

/// Longest text of a condition or finding: a proxy's refusal can be any.
const LONGEST: usize = 1024;

/// Findings that a status lists.
const LISTED: usize = 20;

/// The condition of ours in statuses of the Gateway API, whose plain names are its own.
const ENFORCED: &str = "palisade.dev/Enforced";

impl ObjectStatus {
    /// The status as JSON: our part of it, without `lastTransitionTime`.
    pub fn render(&self, acks: &dyn Acks) -> Value {
        let generation = self.origin.generation;
        match &self.body {
            Body::Class { conditions } => {
                let features: Vec<Value> = SUPPORTED_FEATURES.iter().map(|name| json!({"name": name})).collect();
                json!({"conditions": list(conditions, generation), "supportedFeatures": features})
            }
            Body::Gateway(gateway) => self.gateway(gateway, acks),
            Body::ListenerSet(set) => self.listener_set(set, acks),
            Body::Route { parents, concern } => {
                json!({"parents": self.attachments("parentRef", parents, concern, acks)})
            }
            Body::Ancestors { ancestors, concern } => {
                json!({"ancestors": self.attachments("ancestorRef", ancestors, concern, acks)})
            }
            Body::Object(whole) => self.whole(whole, acks),
        }
    }

    /// Which proxies it concerns; `None` = nobody can say who enforces it.
    pub fn concern(&self) -> Option<Concern> {
        match &self.body {
            Body::Class { conditions: _ } => None,
            Body::Gateway(gateway) => Some(Concern::Gateways(vec![gateway.key.clone()])),
            Body::ListenerSet(set) => Some(Concern::Gateways(vec![set.gateway.clone()])),
            Body::Route { parents: _, concern } | Body::Ancestors { ancestors: _, concern } => Some(concern.clone()),
            Body::Object(whole) => whole.concern.clone(),
        }
    }

    /// Conditions that speak against the object, whatever proxies say; empty = it is accepted everywhere.
    pub fn refusals(&self) -> Vec<&Condition> {
        let of_attachments = |attachments: &'_ [Attachment]| -> Vec<usize> {
            attachments.iter().enumerate().filter(|(_, entry)| !entry.is_accepted).map(|(index, _)| index).collect()
        };
        let failing = |conditions: &'_ [Condition]| conditions.iter().position(|condition| !condition.is_true());
        match &self.body {
            Body::Class { conditions } => conditions.iter().filter(|condition| !condition.is_true()).collect(),
            Body::Gateway(gateway) => {
                let own = gateway.conditions.iter().filter(|condition| !condition.is_true());
                let listeners = gateway.listeners.iter().flat_map(|listener| &listener.conditions);
                own.chain(listeners.filter(|c| matches!(c.kind, "Accepted") && !c.is_true())).collect()
            }
            Body::ListenerSet(set) => {
                let listeners = set.listeners.iter().flat_map(|listener| &listener.conditions);
                let listeners = listeners.filter(|own| own.kind == "Accepted");
                std::iter::once(&set.accepted).chain(listeners).filter(|condition| !condition.is_true()).collect()
            }
            Body::Route { parents: entries, concern: _ } | Body::Ancestors { ancestors: entries, concern: _ } => {
                of_attachments(entries)
                    .into_iter()
                    .filter_map(|index| {
                        let conditions = &entries.get(index)?.conditions;
                        conditions.get(failing(conditions)?)
                    })
                    .collect()
            }
            Body::Object(whole) => Some(&whole.accepted).filter(|accepted| !accepted.is_true()).into_iter().collect(),
        }
    }

    fn gateway(&self, gateway: &GatewayStatus, acks: &dyn Acks) -> Value {
        let generation = self.origin.generation;
        let acked = acks.programmed(&self.origin, &Concern::Gateways(vec![gateway.key.clone()])).programmed();
        let programmed = gateway.obstacle.clone().unwrap_or_else(|| acked.clone());
        let conditions: Vec<Condition> = gateway.conditions.iter().cloned().chain([programmed]).collect();
        let addresses: Vec<Value> =
            gateway.addresses.iter().map(|(kind, value)| json!({"type": kind, "value": value})).collect();
        let listeners = gateway.listeners.iter().map(|own| listener(own, &acked, "Invalid", generation));
        let mut status = json!({
            "addresses": addresses,
            "conditions": list(&conditions, generation),
            "listeners": listeners.collect::<Vec<_>>(),
        });
        // Older releases of the Gateway API know neither ListenerSets nor this field.
        if let (Some(attached), Some(fields)) = (gateway.attached_sets, status.as_object_mut()) {
            fields.insert("attachedListenerSets".to_owned(), attached.into());
        }
        status
    }

    fn listener_set(&self, set: &ListenerSetStatus, acks: &dyn Acks) -> Value {
        let generation = self.origin.generation;
        let acked = acks.programmed(&self.origin, &Concern::Gateways(vec![set.gateway.clone()])).programmed();
        let programmed = set.obstacle.clone().unwrap_or_else(|| acked.clone());
        let listeners = set.listeners.iter().map(|own| {
            let conflict =
                own.conditions.iter().find(|condition| condition.kind == "Conflicted" && condition.is_true());
            listener(own, &acked, conflict.map_or("Invalid", |conflict| conflict.reason), generation)
        });
        json!({
            "conditions": list(&[set.accepted.clone(), programmed], generation),
            "listeners": listeners.collect::<Vec<_>>(),
        })
    }

    fn attachments(&self, field: &str, entries: &[Attachment], concern: &Concern, acks: &dyn Acks) -> Vec<Value> {
        let enforced = acks.enforced(&self.origin, concern).enforced(ENFORCED, false);
        entries
            .iter()
            .map(|entry| {
                let Attachment { reference, conditions, is_accepted } = entry;
                let enforced = is_accepted.then(|| enforced.clone());
                let conditions: Vec<Condition> = conditions.iter().cloned().chain(enforced).collect();
                json!({
                    field: reference.render(),
                    "controllerName": CONTROLLER_NAME,
                    "conditions": list(&conditions, self.origin.generation),
                })
            })
            .collect()
    }

    fn whole(&self, whole: &WholeStatus, acks: &dyn Acks) -> Value {
        let WholeStatus { accepted, messages, ancestors, addresses, is_dry_run, concern } = whole;
        let generation = self.origin.generation;
        let enforced =
            concern.as_ref().map(|concern| acks.enforced(&self.origin, concern).enforced("Enforced", *is_dry_run));
        let conditions: Vec<Condition> = std::iter::once(accepted.clone()).chain(enforced).collect();
        let conditions = list(&conditions, generation);
        let mut status = Map::new();
        if let Some(ancestors) = ancestors.as_ref().filter(|ancestors| !ancestors.is_empty()) {
            let entry = |reference: &Reference| {
                json!({
                    "ancestorRef": reference.render(),
                    "controllerName": CONTROLLER_NAME,
                    "conditions": conditions,
                })
            };
            status.insert("ancestors".to_owned(), ancestors.iter().map(entry).collect());
        }
        status.insert("conditions".to_owned(), conditions.into());
        status.insert("observedGeneration".to_owned(), generation.into());
        if !addresses.is_empty() {
            let entry = |(host, address): &(Arc<str>, IpAddr)| json!({"host": host, "value": address});
            status.insert("addresses".to_owned(), addresses.iter().map(entry).collect());
        }
        if let Some(messages) = messages.as_ref().filter(|messages| !messages.is_empty()) {
            let message = |finding: &super::Finding| {
                let kind = json!({"code": finding.code, "name": short(&finding.message)});
                json!({"level": finding.level, "type": kind})
            };
            status.insert("validationMessages".to_owned(), messages.iter().take(LISTED).map(message).collect());
        }
        Value::Object(status)
    }
}

impl Reference {
    fn render(&self) -> Value {
        let Self { group, kind, namespace, name, section_name, port } = self;
        let mut fields = Map::new();
        fields.insert("group".to_owned(), json!(group));
        fields.insert("kind".to_owned(), json!(kind));
        if let Some(namespace) = namespace {
            fields.insert("namespace".to_owned(), json!(namespace));
        }
        fields.insert("name".to_owned(), json!(name));
        if let Some(section_name) = section_name {
            fields.insert("sectionName".to_owned(), json!(section_name));
        }
        if let Some(port) = port {
            fields.insert("port".to_owned(), json!(port));
        }
        Value::Object(fields)
    }
}

/// A listener; `refusal` is the reason of one that is not served.
fn listener(listener: &ListenerStatus, acked: &Condition, refusal: &'static str, generation: i64) -> Value {
    let ListenerStatus { name, kinds, attached_routes, conditions, is_valid } = listener;
    let programmed = match is_valid {
        true => acked.clone(),
        false => Condition::fails("Programmed", refusal, "the listener is not served as written"),
    };
    let conditions: Vec<Condition> = conditions.iter().cloned().chain([programmed]).collect();
    let kinds: Vec<Value> = kinds.iter().map(|kind| json!({"group": GROUP, "kind": kind})).collect();
    json!({
        "name": name,
        "supportedKinds": kinds,
        "attachedRoutes": attached_routes,
        "conditions": list(&conditions, generation),
    })
}

fn short(text: &str) -> &str {
    let end = text.char_indices().nth(LONGEST).map_or(text.len(), |(index, _)| index);
    text.get(..end).unwrap_or(text)
}

fn list(conditions: &[Condition], generation: i64) -> Vec<Value> {
    let one = |condition: &Condition| {
        let Condition { kind, truth, reason, message } = condition;
        json!({
            "type": kind,
            "status": truth.as_str(),
            "reason": reason,
            "message": short(message),
            "observedGeneration": generation,
        })
    };
    conditions.iter().map(one).collect()
}
