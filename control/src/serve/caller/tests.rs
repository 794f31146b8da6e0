//! Tokens without a pod: for certificates of declared machines, for nothing else.

use palisade_model::{identity::TrustDomain, service::Query, snapshot::Snapshot};

use super::*;
use crate::slices::Workload;

/// A mesh with the pod `foo/a-1` and a machine of the service account `foo/vm`.
struct Mesh(TrustDomain);

impl Slices for Mesh {
    fn trust_domain(&self) -> &TrustDomain {
        &self.0
    }

    fn workload(&self, pod: &WorkloadRef) -> Option<Workload> {
        let is_there = &*pod.namespace == "foo" && &*pod.name == "a-1";
        is_there.then(|| Workload { uid: "u1".into(), service_account: "a".into(), is_gateway: false })
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
}

fn token(service_account: &str, pod: Option<(&str, &str)>) -> Proven {
    let pod = pod.map(|(name, uid)| ProvenPod { name: name.into(), uid: uid.into() });
    Proven { namespace: "foo".into(), service_account: service_account.into(), pod }
}

fn proven(token: Proven, purpose: Purpose) -> Result<Caller, Refused> {
    prove(Some(token), &PeerProof::default(), purpose, &Mesh("cluster.local".parse().unwrap()))
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
fn nobody_to_ask_is_no_refusal_for_good() {
    let status = Status::from(Refused::from(TokenError::Unavailable("away".to_owned())));
    assert_eq!(status.code(), tonic::Code::Unavailable);
    let status = Status::from(Refused::from(TokenError::Invalid(crate::token::InvalidToken::Signature)));
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
}
