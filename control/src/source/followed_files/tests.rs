//! Edits are taken at once and whole; accidents take nothing away.

use std::fs;

use tokio_util::sync::CancellationToken;

use super::*;

const GOOD: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";
const OTHER: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n";

fn live(path: &Path) -> (Live<FollowedFiles>, MeshWatch) {
    let options = SourceOptions { is_files: true, ..Default::default() };
    follow_files(vec![path.to_owned()], "default", options, Metrics::new(), None).unwrap()
}

fn files(path: &Path) -> FollowedFiles {
    live(path).0.source
}

fn names(live: &FollowedFiles) -> Vec<String> {
    let documents = live.files.values().flat_map(|state| &state.documents);
    documents.map(|source| name_of(&source.document, "default").3).collect()
}

fn anything() -> Changed {
    Changed { paths: BTreeSet::new(), is_anything: true }
}

#[test]
fn a_file_that_became_unreadable_keeps_what_was_good() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, format!("{GOOD}---\n{OTHER}")).unwrap();
    let mut live = files(folder.path());
    fs::write(&file, format!("{GOOD}---\nkind: [\n")).unwrap();
    assert!(live.take(anything()));
    assert_eq!(names(&live), ["a", "b"]);
    assert_eq!(live.files.values().map(|state| state.unreadable.len()).sum::<usize>(), 1);
    fs::write(&file, GOOD).unwrap();
    assert!(live.take(anything()));
    assert_eq!(names(&live), ["a"], "a readable text is all there is");
}

#[test]
fn a_file_between_two_renames_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, GOOD).unwrap();
    let mut live = files(folder.path());
    fs::remove_file(&file).unwrap();
    assert!(!live.take(anything()));
    assert_eq!(names(&live), ["a"]);
    *live.missing.get_mut(&file).unwrap() -= GRACE;
    assert!(live.take(anything()));
    assert!(names(&live).is_empty());
}

#[test]
fn the_same_text_again_is_no_change() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, GOOD).unwrap();
    let mut live = files(folder.path());
    fs::write(&file, GOOD).unwrap();
    assert!(!live.take(Changed { paths: BTreeSet::from([file]), is_anything: false }));
}

#[tokio::test]
async fn an_edit_a_replacement_and_a_new_file_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, GOOD).unwrap();
    let (live, mut mesh) = live(folder.path());
    mesh.mark_unchanged();
    let stop = CancellationToken::new();
    let task = tokio::spawn(live.follow(stop.clone()));
    let mut changed = async || tokio::time::timeout(Duration::from_secs(5), mesh.changed()).await.unwrap().unwrap();
    fs::write(&file, OTHER).unwrap();
    changed().await;
    let staged = folder.path().join(".a.yaml.swp");
    fs::write(&staged, GOOD).unwrap();
    fs::rename(&staged, &file).unwrap();
    changed().await;
    fs::write(folder.path().join("b.yaml"), OTHER).unwrap();
    changed().await;
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_storm_of_edits_is_compiled_together_and_the_last_one_counts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, GOOD).unwrap();
    let (live, mut mesh) = live(folder.path());
    mesh.mark_unchanged();
    let domain = |edit: usize| {
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n".to_owned()
            + &format!("data: {{mesh: \"trustDomain: edit-{edit}.example\"}}\n")
    };
    // What is told of all edits waits as one set of paths.
    for edit in 1..=1000 {
        fs::write(&file, domain(edit)).unwrap();
    }
    let stop = CancellationToken::new();
    let task = tokio::spawn(live.follow(stop.clone()));
    tokio::time::timeout(Duration::from_secs(10), mesh.changed()).await.unwrap().unwrap();
    let newest = mesh.borrow().clone().unwrap();
    assert_eq!(newest.trust_domain().as_str(), "edit-1000.example");
    stop.cancel();
    task.await.unwrap();
}
