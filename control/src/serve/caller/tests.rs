//! Tokens without a pod: for certificates of declared machines, for nothing else.

use palisade_compile::{
    SourceDocument,
    status::{Holding, StatusOptions, Statuses},
};
use palisade_model::{identity::TrustDomain, origin::Origin, service::Query, snapshot::Snapshot};

use super::*;
use crate::slices::Workload;

/// A mesh with the pod `foo/a-1` of this uid, and a machine of the service account `foo/vm`.
struct Mesh(TrustDomain, &'static str);

impl Slices for Mesh {
    fn trust_domain(&self) -> &TrustDomain {
        &self.0
    }

    fn workload(&self, pod: &WorkloadRef) -> Option<Workload> {
        let is_there = &*pod.namespace == "foo" && &*pod.name == "a-1";
        is_there.then(|| Workload { uid: self.1.into(), service_account: "a".into(), is_gateway: false })
    }

    fn is_declared(&self, namespace: &str, service_account: &str) -> bool {
        (namespace, service_account) == ("foo", "vm")
    }

    fn slice(&self, _: &WorkloadRef, _: &std::collections::BTreeSet<Query>) -> Result<Snapshot, String> {
        Err("none".to_owned())
    }

    fn reports(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn epoch(&self) -> u64 {
        0
    }

    fn statuses(&self, _: &StatusOptions) -> Arc<Statuses> {
        Arc::default()
    }

    fn holding(&self, _: &SourceDocument) -> Holding {
        Holding::Missing
    }

    fn find(&self, _: &str, _: &str, _: &str, _: &str) -> Option<Origin> {
        None
    }
}

fn token(service_account: &str, pod: Option<(&str, &str)>) -> Proven {
    let pod = pod.map(|(name, uid)| ProvenPod { name: name.into(), uid: uid.into() });
    Proven { namespace: "foo".into(), service_account: service_account.into(), pod }
}

fn mesh(uid: &'static str) -> Mesh {
    Mesh("cluster.local".parse().unwrap(), uid)
}

fn proven(token: Proven, purpose: Purpose) -> Result<Caller, Refused> {
    prove(Some(token), &PeerProof::default(), purpose, &mesh("u1"))
}

#[test]
fn a_token_without_a_pod_gets_a_certificate_where_its_machine_is_declared() {
    let caller = proven(token("vm", None), Purpose::Certificate).unwrap();
    assert_eq!(caller.identity.to_string(), "spiffe://cluster.local/ns/foo/sa/vm");
    assert_eq!(caller.pod, None);
    assert!(matches!(proven(token("a", None), Purpose::Certificate), Err(Refused::Nowhere(_))));
    for account in ["vm", "a"] {
        assert!(matches!(proven(token(account, None), Purpose::Configuration), Err(Refused::Unbound(_))));
    }
}

#[test]
fn a_pod_must_be_the_one_in_the_mesh() {
    for purpose in [Purpose::Configuration, Purpose::Certificate] {
        assert!(proven(token("a", Some(("a-1", "u1"))), purpose).is_ok());
        for (other, name) in [
            (token("a", Some(("a-1", "u2"))), "uid"),
            (token("vm", Some(("a-1", "u1"))), "service account"),
            (token("a", Some(("a-2", "u1"))), "not in the mesh"),
        ] {
            let refused = proven(other, purpose).unwrap_err();
            assert!(!refused.is_unauthenticated());
            assert!(refused.to_string().contains(name), "{refused}");
        }
    }
}

#[test]
fn a_pod_made_anew_under_the_same_name_gets_nothing_by_the_proof_of_the_old_one() {
    let caller = proven(token("a", Some(("a-1", "u1"))), Purpose::Configuration).unwrap();
    let pod = caller.pod.clone().unwrap();
    assert_eq!(pod_of(&caller, pod.clone(), &mesh("u1")), Ok(pod.clone()));
    let refused = pod_of(&caller, pod, &mesh("u2")).unwrap_err();
    assert!(refused.to_string().contains("uid"), "{refused}");
}

#[test]
fn nobody_to_ask_is_no_refusal_for_good() {
    let status = Status::from(Refused::from(TokenError::Unavailable("away".to_owned())));
    assert_eq!(status.code(), tonic::Code::Unavailable);
    let status = Status::from(Refused::from(TokenError::Invalid(crate::token::InvalidToken::Signature)));
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
}
