//! Fetching over real sockets on loopback, and what becomes of keys when an issuer fails.

use axum::{Router, http::StatusCode, response::Redirect, routing::get};
use tokio::net::TcpListener;

use super::*;

mod https;

const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","d":"secret"}]}"#;
const PUBLIC: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"}]}"#;

fn fetcher() -> Fetcher {
    Fetcher::trusting(rustls::RootCertStore::empty())
}

async fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let discovery = format!(r#"{{"issuer": "x", "jwks_uri": "http://{address}/keys"}}"#);
    let app = Router::new()
        .route("/keys", get(async || KEYS))
        .route("/here", get(async || Redirect::temporary("/keys")))
        .route("/loop", get(async || Redirect::temporary("/loop")))
        .route("/metadata", get(async || Redirect::temporary("http://169.254.169.254/latest/meta-data")))
        .route("/mapped", get(async || Redirect::temporary("http://[::ffff:169.254.169.254]/")))
        .route("/broken", get(async || StatusCode::INTERNAL_SERVER_ERROR))
        .route("/garbage", get(async || "<html>"))
        .route("/huge", get(async || "x".repeat((1 << 20) + 1)))
        .route("/hangs", get(std::future::pending::<()>))
        .route("/issuer/.well-known/openid-configuration", get(move || std::future::ready(discovery.clone())));
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

fn uri(base: &str, path: &str) -> KeySource {
    KeySource::Uri(format!("{base}{path}").into())
}

#[tokio::test]
async fn keys_come_from_an_uri_or_from_an_issuers_configuration() {
    let base = serve().await;
    for source in [uri(&base, "/keys"), uri(&base, "/here"), KeySource::Issuer(format!("{base}/issuer/").into())] {
        assert_eq!(fetcher().fetch(&source).await.unwrap(), PUBLIC, "{source}");
    }
}

#[tokio::test]
async fn what_is_no_key_set_is_an_error() {
    let base = serve().await;
    for (path, expected) in [
        ("/broken", "answered 500"),
        ("/garbage", "no set of public keys"),
        ("/huge", "length limit exceeded"),
        ("/loop", "redirects too often"),
        ("/nothing", "answered 404"),
    ] {
        let error = fetcher().fetch(&uri(&base, path)).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{path}: {error}");
    }
    let error = fetcher().fetch(&KeySource::Issuer(base.into())).await.unwrap_err().to_string();
    assert!(error.contains("answered 404"), "{error}");
    for text in ["ftp://a/", "nothing", "http:///x"] {
        assert!(fetcher().fetch(&KeySource::Uri(text.into())).await.is_err(), "{text}");
    }
}

#[tokio::test]
async fn metadata_services_are_never_called_also_not_by_redirect() {
    let base = serve().await;
    for source in [
        uri(&base, "/metadata"),
        uri(&base, "/mapped"),
        KeySource::Uri("http://169.254.169.254/keys".into()),
        KeySource::Uri("http://[fe80::1]/keys".into()),
    ] {
        let error = fetcher().fetch(&source).await.unwrap_err();
        assert!(matches!(error, FetchError::Refused(_)), "{source}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_costs_its_time_limit() {
    let base = serve().await;
    let error = fetcher().limited(Duration::from_millis(50)).fetch(&uri(&base, "/hangs")).await.unwrap_err();
    assert!(matches!(error, FetchError::Timeout(_)), "{error}");
}

fn failed() -> Result<String, FetchError> {
    Err(FetchError::Url("x".to_owned()))
}

#[tokio::test]
async fn good_keys_outlive_failures_for_seven_days() {
    let folder = tempfile::tempdir().unwrap();
    let source = KeySource::Uri("http://a/".into());
    let (mut keeper, feed) = KeyKeeper::new(fetcher(), Some(folder.path()), Metrics::new());
    feed.wanted.send_replace(BTreeSet::from([source.clone()]));
    keeper.follow_wishes();
    let of = |feed: &KeyFeed| feed.keys.borrow().get(&source).cloned().unwrap_or_default();
    keeper.note(source.clone(), failed());
    assert!(of(&feed).keys.is_none() && of(&feed).error.is_some(), "no keys yet");
    keeper.note(source.clone(), Ok(PUBLIC.to_owned()));
    assert_eq!((of(&feed).keys.as_deref(), of(&feed).error), (Some(PUBLIC), None));
    keeper.note(source.clone(), failed());
    assert_eq!(of(&feed).keys.as_deref(), Some(PUBLIC), "the last good keys stand");
    let (_, restarted) = KeyKeeper::new(fetcher(), Some(folder.path()), Metrics::new());
    assert_eq!(of(&restarted).keys.as_deref(), Some(PUBLIC), "also after a restart");
    let week = KEPT + Duration::from_secs(1);
    if let Some(stored) = keeper.sources.get_mut(&source).and_then(|state| state.stored.as_mut()) {
        stored.fetched -= week;
    }
    keeper.note(source.clone(), failed());
    assert_eq!(of(&feed).keys, None, "no key is kept for ever");
}

/// A document that is replaced by way of its removal must not leave a rule without keys while its issuer is down.
#[tokio::test]
async fn a_source_that_leaves_the_documents_for_a_moment_keeps_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let source = KeySource::Uri("http://a/".into());
    let (mut keeper, feed) = KeyKeeper::new(fetcher(), Some(folder.path()), Metrics::new());
    let of = |feed: &KeyFeed| feed.keys.borrow().get(&source).cloned().unwrap_or_default();
    let wish = |keeper: &mut KeyKeeper, wished: &[&KeySource]| {
        feed.wanted.send_replace(wished.iter().copied().cloned().collect());
        keeper.follow_wishes();
    };
    wish(&mut keeper, &[&source]);
    keeper.note(source.clone(), Ok(PUBLIC.to_owned()));
    wish(&mut keeper, &[]);
    assert!(keeper.status().borrow().is_empty(), "nothing is said of what nobody names");
    assert!(keeper.sources.values().all(|state| !state.is_wanted), "nor is it fetched");
    // Compiling the document that names it again finds them at once, before the keeper has heard of it.
    assert_eq!(of(&feed).keys.as_deref(), Some(PUBLIC));
    wish(&mut keeper, &[&source]);
    assert!(keeper.sources.values().all(|state| state.is_wanted && state.due <= Instant::now()), "asked at once");
    keeper.note(source.clone(), failed());
    assert_eq!(of(&feed).keys.as_deref(), Some(PUBLIC));
    // For a week; then they are gone, named or not.
    wish(&mut keeper, &[]);
    let state = keeper.sources.get_mut(&source).and_then(|state| state.stored.as_mut());
    state.unwrap().fetched -= KEPT + Duration::from_secs(1);
    wish(&mut keeper, &[]);
    assert_eq!(of(&feed).keys, None);

    // Their number is bounded: the oldest go.
    let uri = |number: usize| KeySource::Uri(format!("http://a/{number}").into());
    for number in 0..REMEMBERED + 5 {
        let source = uri(number);
        wish(&mut keeper, &[&source]);
        keeper.note(source, Ok(PUBLIC.to_owned()));
    }
    wish(&mut keeper, &[]);
    let kept = feed.keys.borrow().len();
    assert_eq!(kept, REMEMBERED);
    assert!(feed.keys.borrow().contains_key(&uri(REMEMBERED + 4)) && !feed.keys.borrow().contains_key(&uri(0)));
}

#[tokio::test]
async fn one_source_that_hangs_delays_no_other() {
    let base = serve().await;
    let (hangs, good) = (uri(&base, "/hangs"), uri(&base, "/keys"));
    let (keeper, mut feed) = KeyKeeper::new(fetcher(), None, Metrics::new());
    let status = keeper.status();
    feed.wanted.send_replace(BTreeSet::from([hangs.clone(), good.clone()]));
    let stop = CancellationToken::new();
    let running = tokio::spawn(keeper.run(stop.clone()));
    let has_keys = |keys: &Arc<Keys>| keys.get(&good).is_some_and(|fetched| fetched.keys.is_some());
    tokio::time::timeout(Duration::from_secs(4), feed.keys.wait_for(has_keys)).await.unwrap().unwrap();
    assert!(feed.keys.borrow().get(&hangs).is_some_and(|fetched| fetched.keys.is_none()));
    assert!(status.borrow().iter().any(|status| status.source.ends_with("/keys") && status.fetched.is_some()));
    stop.cancel();
    running.await.unwrap();
}
