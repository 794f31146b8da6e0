//! What a token and its review must say.

use std::collections::BTreeMap;

use super::*;

const SUBJECT: &str = "system:serviceaccount:foo:a";

fn ours() -> Vec<String> {
    super::super::AUDIENCES.map(str::to_owned).to_vec()
}

fn reviews() -> TokenReviews {
    drop(rustls::crypto::ring::default_provider().install_default());
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    TokenReviews::new(Client::try_from(config).unwrap(), ours())
}

fn token(payload: &str) -> String {
    format!("x.{}.x", URL_SAFE_NO_PAD.encode(payload))
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[tokio::test]
async fn implausible_tokens_are_refused_without_a_question() {
    let reviews = reviews();
    let good = format!(r#"{{"sub":"{SUBJECT}","aud":["x","palisade"],"exp":100}}"#);
    assert!(matches!(reviews.plausible(&token(&good), at(99)), Ok((_, left)) if left == Duration::from_secs(1)));
    assert_eq!(reviews.plausible(&token(&good), at(103)).unwrap_err(), InvalidToken::Expired(3));
    let one = good.replace(r#"["x","palisade"]"#, r#""istio-ca""#);
    assert!(reviews.plausible(&token(&one), at(99)).is_ok());
    let elsewhere = good.replace("palisade", "vault");
    assert!(matches!(reviews.plausible(&token(&elsewhere), at(99)), Err(InvalidToken::OtherAudience(_))));
    for bad in [
        String::new(),
        "a.b".to_owned(),
        "a.b.c.d".to_owned(),
        "a.!.c".to_owned(),
        "a".repeat(100_000),
        token("{}"),
        token(&good.replace(SUBJECT, "admin")),
        token(&good.replace("100", "\"100\"")),
    ] {
        assert!(matches!(reviews.verify(&bad, at(99)).await, Err(TokenError::Invalid(_))), "{bad:.20}");
    }
    let nobody = reviews.verify(&token(&good), at(99)).await;
    assert!(matches!(nobody, Err(TokenError::Unavailable(_))), "{nobody:?}");
}

fn status(username: &str, audience: &str, extra: &[(&str, &[&str])]) -> TokenReviewStatus {
    let extra: BTreeMap<String, Vec<String>> = extra
        .iter()
        .map(|(name, values)| ((*name).to_owned(), values.iter().map(|value| (*value).to_owned()).collect()))
        .collect();
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(vec![audience.to_owned()]),
        error: None,
        user: Some(UserInfo { username: Some(username.to_owned()), extra: Some(extra), ..UserInfo::default() }),
    }
}

#[test]
fn a_review_proves_account_and_pod() {
    let bound: &[(&str, &[&str])] = &[(POD_NAME, &["a-1"]), (POD_UID, &["u1"])];
    let proven = judge(status(SUBJECT, "palisade", bound), &ours(), SUBJECT).unwrap();
    assert_eq!((&*proven.namespace, &*proven.service_account), ("foo", "a"));
    assert_eq!(proven.pod, Some(ProvenPod { name: "a-1".into(), uid: "u1".into() }));
    assert_eq!(judge(status(SUBJECT, "palisade", &[]), &ours(), SUBJECT).unwrap().pod, None);
}

#[test]
fn a_review_that_is_not_as_expected_proves_nothing() {
    let half: &[(&str, &[&str])] = &[(POD_NAME, &["a-1"])];
    let two: &[(&str, &[&str])] = &[(POD_NAME, &["a-1", "a-2"]), (POD_UID, &["u1"])];
    let silent = TokenReviewStatus { audiences: None, ..status(SUBJECT, "palisade", &[]) };
    let refused = TokenReviewStatus { authenticated: None, ..status(SUBJECT, "palisade", &[]) };
    let nobody = TokenReviewStatus { user: None, ..status(SUBJECT, "palisade", &[]) };
    for (name, status) in [
        ("half a pod", status(SUBJECT, "palisade", half)),
        ("two pods", status(SUBJECT, "palisade", two)),
        ("another audience", status(SUBJECT, "vault", &[])),
        ("no audience", silent),
        ("not authenticated", refused),
        ("no user", nobody),
        ("another user", status("system:serviceaccount:foo:b", "palisade", &[])),
        ("no service account", status("admin", "palisade", &[])),
    ] {
        assert!(judge(status, &ours(), SUBJECT).is_err(), "{name}");
    }
    assert!(judge(status("admin", "palisade", &[]), &ours(), "admin").is_err(), "no service account");
}
