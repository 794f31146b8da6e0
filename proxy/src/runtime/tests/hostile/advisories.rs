//! Advisories of Envoy, Istio and Pingora that let requests pass a policy, each with the bytes that did it: `/admin` is denied, and nothing
//! that these bytes hide reaches the application. `docs/reference/advisories.md` lists them all.

use palisade_model::settings::{PathNormalization, ProxySettings as MeshSettings};
use palisade_policy::Condition;

use super::*;

/// A front that denies what the rule says, under other settings of the mesh.
async fn guarded(deny: Vec<Policy>, change: impl FnOnce(&mut MeshSettings)) -> Front {
    let front = front().await;
    let mut policies = deny;
    policies.push(default_permit());
    let mut resources = inbound_resources(front.port, MtlsMode::Disable, policies, UpstreamProtocol::Http1);
    let settings = resources.iter_mut().find_map(|resource| match resource {
        Resource::Settings(settings) => Some(settings),
        _ => None,
    });
    change(settings.unwrap());
    front.sidecar.runtime.apply(testing::snapshot(resources)).unwrap();
    front
}

fn denying(paths: &[&str], when: Vec<Condition>) -> Vec<Policy> {
    let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
    let rule = RuleSpec {
        id: PolicyId::of_rule("foo", "deny", 0),
        source: None,
        rule: Some(0),
        namespace: "foo".into(),
        action: RuleAction::Deny,
        mode: PolicyMode::Enforce,
        from: None,
        to: (!paths.is_empty()).then(|| vec![Operation { paths, ..Operation::default() }]),
        when,
    };
    let admitted = admit_rule(&rule, &TrustDomains::default());
    assert_eq!(admitted.problems, []);
    admitted.policies
}

impl Front {
    /// The status of the answer; a request that is not answered 200 must not have reached the application.
    async fn status(&self, target: &str, fields: &str) -> u16 {
        let request = format!("GET {target} HTTP/1.1\r\nhost: b\r\n{fields}\r\n");
        let (status, arrived) = self.target(request.as_bytes()).await;
        assert_eq!(arrived.is_some(), status == 200, "{target}: {status} {arrived:?}");
        status
    }

    async fn all_are(&self, expected: u16, targets: &[&str]) {
        for target in targets {
            assert_eq!(self.status(target, "").await, expected, "{target}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2019_9901_dot_segments() {
    let front = guarded(deny_admin(), |_| {}).await;
    front
        .all_are(
            403,
            &[
                "/public/../admin",
                "/./admin",
                "/x/./../admin",
                "/%2e%2e/admin",
                "/x/%2E%2e/admin",
                "/x/..\\admin",
                "/x/../%61dmin",
            ],
        )
        .await;
    front.all_are(200, &["/admin/../public", "/public"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2021_29492_escaped_slashes() {
    let front =
        guarded(deny_admin(), |settings| settings.path_normalization = PathNormalization::DecodeAndMergeSlashes).await;
    front.all_are(403, &["/x%2f..%2fadmin", "/x%2F../admin", "/%5cadmin", "/x%5C..%5Cadmin", "/%2fadmin%2fx"]).await;
    // Where they are kept, they are kept for the application too: policy and application see the same bytes.
    let front = guarded(deny_admin(), |_| {}).await;
    let (status, arrived) = front.target(b"GET /x%2f..%2fadmin HTTP/1.1\r\nhost: b\r\n\r\n").await;
    assert_eq!((status, arrived.as_deref()), (200, Some(&b"/x%2f..%2fadmin"[..])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2021_31920_several_slashes() {
    let front = guarded(deny_admin(), |settings| settings.path_normalization = PathNormalization::MergeSlashes).await;
    front.all_are(403, &["//admin", "/.//admin", "///admin//x", "/\\admin", "/x/..//admin"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2021_39156_fragments() {
    let front = guarded(denying(&["/admin"], Vec::new()), |_| {}).await;
    front.all_are(403, &["/admin#", "/admin#x", "/admin#/x?y", "/admin?x#y"]).await;
    let front =
        guarded(denying(&["/admin"], Vec::new()), |settings| settings.path_normalization = PathNormalization::None)
            .await;
    front.all_are(403, &["/admin#x"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn istio_security_2026_006_path_parameters() {
    let front = guarded(deny_admin(), |settings| settings.reject_path_parameters = true).await;
    front.all_are(400, &["/..;/admin", "/;/admin", "/admin;x", "/public/;..;/admin"]).await;
    // A segment that the next one takes back is gone before anybody could read its parameters.
    front.all_are(403, &["/x;a=b/../admin"]).await;
    front.all_are(200, &["/public?a;b"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2025_46821_a_star_in_a_segment() {
    let front = guarded(denying(&["/anything/{**}", "/one/{*}"], Vec::new()), |_| {}).await;
    front.all_are(403, &["/anything/*abc", "/anything/a*/b", "/anything/", "/one/*", "/one/[x]", "/one/a|b"]).await;
    front.all_are(200, &["/anything", "/one/a/b"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2026_31838_several_lines_of_one_header() {
    let condition = |key: &str, values: &[&str], not_values: &[&str]| Condition {
        key: key.to_owned(),
        values: values.iter().map(|value| (*value).to_owned()).collect(),
        not_values: not_values.iter().map(|value| (*value).to_owned()).collect(),
    };
    let front =
        guarded(denying(&[], vec![condition("request.headers[x-role]", &["admin", "root*"], &[])]), |_| {}).await;
    for fields in [
        "x-role: admin\r\n",
        "x-role: user\r\nx-role: admin\r\n",
        "x-role: admin\r\nx-role: user\r\n",
        "X-Role: user\r\nx-ROLE: admin\r\n",
        "x-role: user\r\nx-role: rooted\r\n",
        "x-role:\r\nx-role: admin\r\n",
    ] {
        assert_eq!(front.status("/", fields).await, 403, "{fields:?}");
    }
    for fields in ["x-role: user\r\n", "x-role: user,admin\r\n", "x-roles: admin\r\n", ""] {
        assert_eq!(front.status("/", fields).await, 200, "{fields:?}");
    }
}

/// Bytes behind a request to upgrade are the next request's unless the application agreed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2026_2833_bytes_behind_an_upgrade() {
    let front = guarded(deny_admin(), |_| {}).await;
    for upgrade in ["websocket", "x", "h2c"] {
        let mut client = TcpStream::connect(front.sidecar.address).await.unwrap();
        let first = format!("GET /public HTTP/1.1\r\nhost: b\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\n\r\n");
        client.write_all(format!("{first}GET /admin HTTP/1.1\r\nhost: b\r\n\r\n").as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = within(client.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let seen = front.taken();
        assert!(!seen.contains("/admin"), "{upgrade}: {seen}");
        // The first request's answer, then at most a denial.
        assert!(answer.matches("HTTP/1.1 200").count() <= 1, "{upgrade}: {answer}");
    }
}

/// A body whose length two servers read differently is no body at all, and its connection ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cve_2026_2835_transfer_codings() {
    let front = guarded(deny_admin(), |_| {}).await;
    for head in [
        "POST / HTTP/1.0\r\nhost: b\r\ntransfer-encoding: chunked\r\n",
        "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: identity\r\n",
        "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: gzip\r\n",
        "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: identity, chunked\r\n",
        "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: \"chunked\"\r\n",
        "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked;q=1\r\n",
        "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding:\r\n",
        "POST / HTTP/1.1\r\nhost: b\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n",
        "POST / HTTP/1.1\r\nhost: b\r\ncontent-length: 0\r\ntransfer-encoding: identity\r\n",
    ] {
        let mut client = TcpStream::connect(front.sidecar.address).await.unwrap();
        let smuggled = "0\r\n\r\nGET /admin HTTP/1.1\r\nhost: b\r\n\r\n";
        client.write_all(format!("{head}\r\n{smuggled}").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(ended.is_ok(), "{head:?}: still open after {answer:?}");
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.matches("HTTP/1.").count() == 1, "{head:?}: {answer:?}");
        assert_eq!(front.taken(), "", "{head:?}");
    }
}
