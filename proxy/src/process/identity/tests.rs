//! A root is replaced under a proxy step by step, and what is revoked follows.

use super::*;
use crate::tls::testing::TestCa;

const A: &str = "spiffe://cluster.local/ns/foo/sa/a";

fn keeper() -> IdentityKeeper {
    IdentityKeeper::new(Arc::new(IdentityStore::new()), None)
}

fn issued(ca: &TestCa, bundle: &str) -> Arc<IssuedIdentity> {
    let own = ca.mesh(A);
    Arc::new(IssuedIdentity::new(own.chain, own.key, bundle.to_owned()).unwrap())
}

fn print(ca: &TestCa) -> Fingerprint {
    *fingerprints(&ca.pem()).first().unwrap()
}

fn trust(roots: &[&TestCa], signing: &TestCa) -> Trust {
    let roots = roots.iter().map(|root| root.pem()).collect::<String>();
    Trust { roots: roots.into(), signing: Some(print(signing)), ..Trust::default() }
}

#[test]
fn a_root_is_replaced_step_by_step() {
    let (old, new) = (TestCa::new("old"), TestCa::new("new"));
    let keeper = keeper();
    let due = keeper.renewal_due();
    let first = keeper.trust(trust(&[&old], &old));
    assert_eq!((first.roots, first.leaf_roots), ([print(&old)].into(), BTreeSet::new()), "before a certificate");
    keeper.install(issued(&old, &old.pem())).unwrap();
    let both = keeper.trust(trust(&[&old, &new], &old));
    assert_eq!((both.roots, both.leaf_roots), ([print(&old), print(&new)].into(), [print(&old)].into()));
    assert!(!*due.borrow() && both.not_after > 0);
    let signing = trust(&[&old, &new], &new);
    assert_eq!(keeper.trust(signing.clone()).trust, Some(signing.version().unwrap()));
    assert!(*due.borrow(), "a certificate of the new root is to be asked for");
    // What comes with a certificate does not take back what was told.
    keeper.install(issued(&new, &new.pem())).unwrap();
    assert!(!*due.borrow());
    let standing = keeper.standing().borrow().clone();
    assert_eq!((standing.roots.len(), standing.leaf_roots), (2, [print(&new)].into()));
    let last = keeper.trust(trust(&[&new], &new));
    assert_eq!((last.roots, last.problem), ([print(&new)].into(), None));
    assert_eq!(keeper.store.current().unwrap().bundle().len(), 1);
}

#[test]
fn a_root_that_is_torn_away_is_followed_with_the_next_certificate() {
    let (old, new) = (TestCa::new("old"), TestCa::new("new"));
    let keeper = keeper();
    keeper.install(issued(&old, &old.pem())).unwrap();
    let torn = keeper.trust(trust(&[&new], &new));
    assert!(torn.problem.is_some() && torn.roots == [print(&old)].into(), "{torn:?}");
    assert!(*keeper.renewal_due().borrow());
    keeper.install(issued(&new, &new.pem())).unwrap();
    let standing = keeper.standing().borrow().clone();
    assert_eq!((standing.roots, standing.problem), ([print(&new)].into(), None));
    // From a replica that is behind: the certificate does not hold, and all stays.
    keeper.install(issued(&old, &old.pem())).unwrap_err();
    assert_eq!(keeper.standing().borrow().leaf_roots, [print(&new)].into());
}

#[test]
fn what_is_revoked_is_in_force_at_once_and_kept_across_a_restart() {
    let ca = TestCa::new("mesh");
    let first = keeper();
    let own = issued(&ca, &ca.pem());
    first.install(Arc::clone(&own)).unwrap();
    let revoked = Trust { revoked: ca.revoking(&[own.chain_pem()]).into(), ..trust(&[&ca], &ca) };
    assert_eq!(first.trust(revoked).problem, None);
    assert!(*first.renewal_due().borrow(), "its own certificate is taken back");
    assert_eq!(first.store.current().unwrap().revoked().lists().len(), 1);

    let refusing = Trust { refusal: Some("torn".into()), ..trust(&[&ca], &ca) };
    let standing = first.trust(refusing);
    assert!(standing.problem.as_ref().is_some_and(|problem| problem.contains("torn")), "{standing:?}");
    let (own, kept) = first.to_keep().unwrap();
    let again = keeper();
    again.restore(own, kept).unwrap();
    assert!(again.standing().borrow().problem.as_ref().is_some_and(|problem| problem.contains("torn")));
    // An older control plane tells nothing: roots come with certificates as before.
    let renewed = TestCa::new("other");
    again.install(issued(&renewed, &renewed.pem())).unwrap();
    assert_eq!(again.standing().borrow().roots, [print(&renewed)].into());

    let unreadable = Trust { revoked: "garbage".into(), ..trust(&[&ca], &ca) };
    assert!(first.trust(unreadable).problem.is_some());
}
