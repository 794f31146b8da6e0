//! How the mesh's identity stands, put together for people and programs.

use std::{collections::BTreeMap, time::SystemTime};

use jiff::Timestamp;
use palisade_model::trust::Fingerprint;

use super::{
    HeldBack, IdentityStatus, Place, RevocationStatus, RootStatus, Rotation,
    view::{Census, census},
};
use crate::{
    ca::{CertificateAuthority, Phase},
    identity::root::{OWN, PLUGGED_IN},
};

impl Rotation {
    /// How it stands, of all replicas.
    pub async fn status(&self) -> IdentityStatus {
        let authority = self.live.current();
        let mut problem = None;
        let mut counts = census(&self.shared.fleet);
        let mut replicas = BTreeMap::new();
        if let Some(others) = &self.replicas {
            match others.records().await {
                Ok(records) => {
                    counts = Census::default();
                    for (name, record) in records {
                        counts.add(&record.census);
                        replicas.insert(name, said(record.phase, record.held_back.as_deref()));
                    }
                }
                Err(error) => problem = Some(format!("only this replica is counted: {error}")),
            }
        }
        let held_back: Option<HeldBack> = self.held_back.lock().clone();
        IdentityStatus {
            kept_in: match &self.place {
                Place::Folder(folder) => folder.display().to_string(),
                Place::Cluster { namespace, .. } if authority.is_own_root() => format!("Secret {namespace}/{OWN}"),
                Place::Cluster { namespace, .. } => format!("Secret {namespace}/{PLUGGED_IN}"),
            },
            phase: authority.phase(),
            is_own_root: authority.is_own_root(),
            roots: roots(&authority, &counts),
            proxies: counts.proxies,
            unknown: counts.unknown,
            replicas,
            held_back,
            revocation: revocation(&authority, SystemTime::now()),
            problem,
        }
    }
}

fn said(phase: Option<Phase>, held_back: Option<&str>) -> String {
    let phase = phase.map_or_else(|| "stable".to_owned(), |phase| phase.to_string());
    match held_back {
        Some(held_back) => format!("{phase}; holds back what is plugged in: {held_back}"),
        None => phase,
    }
}

fn roots(authority: &CertificateAuthority, counts: &Census) -> Vec<RootStatus> {
    let status = |(fingerprint, root): (&Fingerprint, &crate::ca::RootSummary)| RootStatus {
        fingerprint: *fingerprint,
        subject: root.subject.clone(),
        not_after: Timestamp::try_from(root.not_after).ok(),
        is_signing: authority.trust().signing == Some(*fingerprint),
        leaves: counts.leaves.get(fingerprint).copied().unwrap_or(0),
        trusted_by: counts.trusting.get(fingerprint).copied().unwrap_or(0),
    };
    authority.trusted().iter().map(status).collect()
}

fn revocation(authority: &CertificateAuthority, now: SystemTime) -> RevocationStatus {
    let summary = authority.revocation();
    RevocationStatus {
        lists: summary.lists,
        revoked: summary.revoked,
        next_update: summary.next_update.and_then(|time| Timestamp::try_from(time).ok()),
        is_out_of_date: summary.next_update.is_some_and(|next| next <= now),
        refusal: authority.trust().refusal.as_deref().map(str::to_owned),
    }
}
