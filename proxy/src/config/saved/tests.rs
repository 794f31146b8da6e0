//! What is kept is known again, is nobody else's to read, and is ignored when it is not ours.

use std::os::unix::fs::PermissionsExt;

use palisade_model::{service::Query, settings::ProxyKind, snapshot::Snapshot};
use palisade_wire::delta::Offer;

use super::*;
use crate::request::testing::{settings, snapshot};

const POD: (&str, &str) = ("foo", "a");

/// A folder for one test, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("palisade-saved-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn held() -> Arc<Snapshot> {
    snapshot(vec![palisade_model::resource::Resource::Settings(settings(ProxyKind::Sidecar))])
}

fn saved(name: &str) -> Saved {
    Saved {
        namespace: "foo".into(),
        name: name.into(),
        subscriptions: [Query::Host("b.bar".into())].into(),
        held: Some((Offer::whole(held()), held())),
    }
}

#[test]
fn what_is_kept_is_known_again_and_only_to_its_user() {
    let scratch = Scratch::new("kept");
    let folder = StateFolder::open(&scratch.0).unwrap();
    assert_eq!(folder.configuration(POD, &BTreeSet::new()).held, None);
    folder.keep_configuration(&saved("a")).unwrap();
    folder.keep_configuration(&saved("a")).unwrap();
    let again = StateFolder::open(&scratch.0).unwrap().configuration(POD, &BTreeSet::new());
    assert_eq!(again, saved("a"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&scratch.0), 0o700);
    assert_eq!(mode(&scratch.0.join(CONFIGURATION)), 0o600);
    let names: Vec<_> = fs::read_dir(&scratch.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [CONFIGURATION], "nothing half-written stays");
}

#[test]
fn what_is_damaged_foreign_or_readable_by_others_is_ignored() {
    let scratch = Scratch::new("ignored");
    let folder = StateFolder::open(&scratch.0).unwrap();
    let path = scratch.0.join(CONFIGURATION);
    let is_ignored = || folder.configuration(POD, &BTreeSet::new()).subscriptions.is_empty();
    folder.keep_configuration(&saved("another")).unwrap();
    assert!(is_ignored());
    folder.keep_configuration(&saved("a")).unwrap();
    assert!(!is_ignored());
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        assert!(is_ignored(), "byte {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(is_ignored(), "cut at {at}");
    }
    fs::write(&path, &whole).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(is_ignored());
}

#[test]
fn a_folder_that_others_can_use_is_refused() {
    let scratch = Scratch::new("open");
    fs::create_dir(&scratch.0).unwrap();
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(StateFolder::open(&scratch.0), Err(StateFolderError::NotPrivate { .. })));
    fs::remove_dir(&scratch.0).unwrap();
    fs::write(&scratch.0, "").unwrap();
    assert!(matches!(StateFolder::open(&scratch.0), Err(StateFolderError::NotPrivate { .. })));
    fs::remove_file(&scratch.0).unwrap();
}

#[tokio::test]
async fn what_changed_last_is_written_before_the_end() {
    let scratch = Scratch::new("last");
    let folder = StateFolder::open(&scratch.0).unwrap();
    let (newest, receiver) = watch::channel(None);
    let stop = CancellationToken::new();
    let keeping = tokio::spawn(folder.clone().keep(receiver, stop.clone()));
    for _ in 0..3 {
        newest.send_replace(Some(Arc::new(saved("a"))));
        tokio::task::yield_now().await;
    }
    newest.send_replace(Some(Arc::new(Saved { held: None, ..saved("a") })));
    stop.cancel();
    keeping.await.unwrap();
    let kept = folder.configuration(POD, &BTreeSet::new());
    assert_eq!(kept.held, None);
    assert!(!kept.subscriptions.is_empty());
}
