//! External authorizers over real sockets, well-behaved and odd, before an application behind a sidecar.

use std::collections::HashMap;

use palisade_model::{
    authentication::{Authentication, TokenLocation, TokenRule},
    external_authorization::{
        CheckService, ExternalAuthorization, ExternalCheck, ExternalProvider, HttpCheck, NamePattern,
    },
};
use palisade_wire::proto::ext_authz::{
    self as v3,
    authorization_server::{Authorization, AuthorizationServer},
    check_response::HttpResponse,
};
use tokio_stream::wrappers::TcpListenerStream;

use super::*;

mod bodies;
mod kept;
mod lifecycle;

const CLUSTER: &str = "outbound|9000||judge.foo.svc.cluster.local";

/// Answers as the request's header `x-case` asks.
struct Judge;

fn option(key: &str, value: &str, append: Option<bool>) -> v3::HeaderValueOption {
    v3::HeaderValueOption {
        header: Some(v3::HeaderValue { key: key.to_owned(), value: value.to_owned(), raw_value: Vec::new() }),
        append: append.map(|value| v3::BoolValue { value }),
        append_action: 0,
    }
}

fn said(code: i32, http_response: Option<HttpResponse>) -> v3::CheckResponse {
    v3::CheckResponse { status: Some(v3::Status { code, message: String::new() }), http_response }
}

fn ok(headers: Vec<v3::HeaderValueOption>) -> v3::CheckResponse {
    said(0, Some(HttpResponse::OkResponse(v3::OkHttpResponse { headers, ..Default::default() })))
}

fn denied(status: i32) -> v3::CheckResponse {
    let headers = vec![option("x-why", "because", None), option("content-length", "9", None)];
    let status = Some(v3::HttpStatus { code: status });
    said(7, Some(HttpResponse::DeniedResponse(v3::DeniedHttpResponse { status, headers, body: "no".to_owned() })))
}

#[tonic::async_trait]
impl Authorization for Judge {
    async fn check(
        &self,
        request: tonic::Request<v3::CheckRequest>,
    ) -> Result<tonic::Response<v3::CheckResponse>, tonic::Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let http = attributes.request.and_then(|request| request.http).unwrap_or_default();
        let headers: &HashMap<String, String> = &http.headers;
        let case = headers.get("x-case").map(String::as_str).unwrap_or_default();
        Ok(tonic::Response::new(match case {
            "allow" => said(0, None),
            "headers" => {
                let seen =
                    format!("{} {} {}", http.method, http.path, headers.get(":authority").cloned().unwrap_or_default());
                let ok = v3::OkHttpResponse {
                    headers: vec![option("x-seen", &seen, None), option("x-list", "b", Some(true))],
                    headers_to_remove: vec!["x-secret".to_owned(), "host".to_owned()],
                    response_headers_to_add: vec![option("x-down", "1", None), option("transfer-encoding", "x", None)],
                    query_parameters_to_set: vec![v3::QueryParameter { key: "q".into(), value: "new".into() }],
                    query_parameters_to_remove: vec!["gone".to_owned()],
                };
                said(0, Some(HttpResponse::OkResponse(ok)))
            }
            "body" => {
                let partial = headers.get("x-envoy-auth-partial-body").cloned().unwrap_or_default();
                let length = http.body.len() + http.raw_body.len();
                ok(vec![option("x-body", &format!("{length} {partial} {}", http.raw_body.is_empty()), None)])
            }
            "deny" => denied(401),
            "deny-plainly" => said(7, None),
            "hang" => std::future::pending().await,
            "path" => ok(vec![option(":path", "/admin", None)]),
            "host" => ok(vec![option("host", "evil", None)]),
            "framing" => ok(vec![option("transfer-encoding", "chunked", None)]),
            "split" => ok(vec![option("x-a", "b\r\nx-c: d", None)]),
            "many" => ok((0..300).map(|i| option(&format!("x-{i}"), "v", None)).collect()),
            "huge" => ok(vec![option("x-huge", &"v".repeat(1 << 20), None)]),
            "status" => denied(7),
            "both" => v3::CheckResponse { status: Some(v3::Status::default()), ..denied(403) },
            "empty" => v3::CheckResponse::default(),
            _ => return Err(tonic::Status::unavailable("no")),
        }))
    }
}

async fn judge() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(AuthorizationServer::new(Judge));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

/// A server that says this to every connection, whatever it is asked; `None` = nothing, and closes.
async fn raw(answer: Option<&'static str>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            if let Some(answer) = answer {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    address
}

fn service() -> CheckService {
    CheckService {
        cluster: CLUSTER.into(),
        host: "judge.foo.svc.cluster.local".into(),
        timeout: Duration::from_secs(5),
        fails_open: false,
        status_on_error: 403,
        body: None,
        clears_route: false,
    }
}

fn http() -> ExternalProvider {
    ExternalProvider::Http(HttpCheck {
        service: service(),
        path_prefix: "/check".into(),
        request_headers: [NamePattern::Prefix("x-ext-".into())].into(),
        added_headers: [("x-added".into(), "v".into())].into(),
        upstream_headers: [NamePattern::Exact("x-user".into())].into(),
        denied_headers: [].into(),
        allowed_headers: [NamePattern::Exact("x-down".into())].into(),
    })
}

/// The inbound side of an application, with everything put before a provider at `peer`.
fn snapshot(port: u16, asks: ExternalProvider, peer: SocketAddr) -> Arc<Snapshot> {
    let mut forbid = deny_admin();
    let ids: Vec<PolicyId> = forbid.iter().map(|policy| policy.id.clone()).chain([default_permit().id]).collect();
    forbid.push(default_permit());
    let inbound = inbound_snapshot(port, MtlsMode::Disable, vec![default_permit()]);
    let mut resources: Vec<Resource> = inbound.entries().values().map(|entry| entry.resource().clone()).collect();
    resources.extend(forbid.into_iter().map(Resource::Policy));
    let key = "custom/judge/workload/foo/b";
    resources.push(Resource::PolicySet(PolicySet { key: key.into(), policies: ids.into(), ..PolicySet::default() }));
    resources.push(Resource::ExternalAuthorization(ExternalAuthorization {
        key: "workload/foo/b".into(),
        checks: [ExternalCheck {
            provider: "judge".into(),
            policies: key.into(),
            is_dry_run: false,
            asks,
            cache: None,
        }]
        .into(),
    }));
    resources.push(Resource::Cluster(Cluster {
        tls: UpstreamTls::Off,
        ..testing::cluster(CLUSTER, Discovery::Endpoints { key: "judge".into(), subset: Default::default() })
    }));
    resources.push(Resource::Endpoints(endpoints("judge", vec![endpoint(&peer.to_string(), 1)])));
    testing::snapshot(resources)
}

async fn protected(asks: ExternalProvider, peer: SocketAddr) -> Sidecar {
    let application = application().await;
    let b = sidecar(&TestCa::new("mesh"), "b", Role::Inbound, application).await;
    b.runtime.apply(snapshot(application.port(), asks, peer)).unwrap();
    b
}

/// One request on a connection of its own.
async fn call(b: &Sidecar, path: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(b.address).await.unwrap();
    let text =
        format!("GET {path} HTTP/1.1\r\nhost: b\r\nx-secret: s\r\nx-list: a\r\n{headers}connection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    within(stream.read_to_end(&mut received)).await.unwrap();
    let text = String::from_utf8_lossy(&received).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
    (head.to_ascii_lowercase(), body.to_owned())
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_provider_decides_about_what_its_rules_match() {
    let b = protected(ExternalProvider::Grpc(service()), judge().await).await;
    for (case, path, expected) in [
        ("none", "/other", 200),
        ("allow", "/admin", 200),
        ("deny", "/admin", 401),
        ("deny-plainly", "/admin", 403),
        // Answers that are none.
        ("none", "/admin", 403),
        ("path", "/admin", 403),
        ("host", "/admin", 403),
        ("framing", "/admin", 403),
        ("split", "/admin", 403),
        ("many", "/admin", 403),
        ("huge", "/admin", 403),
        ("status", "/admin", 403),
        ("both", "/admin", 403),
        ("empty", "/admin", 403),
    ] {
        let (head, _) = call(&b, path, &format!("x-case: {case}\r\n")).await;
        assert_eq!(status(&head), expected, "{case} {path}: {head}");
    }
    let (head, body) = call(&b, "/admin", "x-case: deny\r\n").await;
    assert!(head.contains("x-why: because") && head.contains("content-length: 2"), "{head}");
    assert!(head.contains("x-palisade-decision: "), "{head}");
    assert_eq!(body, "no");
    logged(&b.log, "ext-authz-denied").await;
    logged(&b.log, "ext-authz-unavailable").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allowing_answer_changes_request_and_response() {
    let b = protected(ExternalProvider::Grpc(service()), judge().await).await;
    let (head, body) = call(&b, "/admin?gone=1&q=old&k=2", "x-case: headers\r\n").await;
    assert_eq!(status(&head), 200, "{head}");
    assert!(head.contains("x-down: 1") && !head.contains("transfer-encoding"), "{head}");
    let seen = body.to_ascii_lowercase();
    assert!(seen.starts_with("get /admin?k=2&q=new http/1.1"), "{seen}");
    assert!(seen.contains("x-seen: get /admin?gone=1&q=old&k=2 b\r\n"), "{seen}");
    assert!(seen.contains("x-list: a\r\n") && seen.contains("x-list: b\r\n"), "{seen}");
    assert!(!seen.contains("x-secret") && seen.contains("host: b\r\n"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_that_do_not_answer_close_or_open_as_configured() {
    let hang = judge().await;
    let dead = "127.0.0.1:1".parse().unwrap();
    let (garbage, closes) = (raw(Some("garbage\r\n\r\n")).await, raw(None).await);
    let quick = || CheckService { timeout: Duration::from_millis(200), ..service() };
    for (name, peer) in [("hangs", hang), ("dead", dead), ("garbage", garbage), ("closes", closes)] {
        for (fails_open, status_on_error, expected) in [(false, 403, 403), (false, 503, 503), (true, 403, 200)] {
            let asks = CheckService { fails_open, status_on_error, ..quick() };
            let b = protected(ExternalProvider::Grpc(asks), peer).await;
            let (head, _) = call(&b, "/admin", "x-case: hang\r\n").await;
            assert_eq!(status(&head), expected, "{name} {fails_open}: {head}");
        }
    }
    let missing = ExternalProvider::Missing { message: "none".into() };
    let b = protected(missing, dead).await;
    assert_eq!(status(&call(&b, "/admin", "").await.0), 403);
    assert_eq!(status(&call(&b, "/other", "").await.0), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_provider_decides_by_its_status() {
    for (answer, expected) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-user: me\r\nx-other: no\r\nx-down: 1\r\nx-envoy-auth-headers-to-remove: x-secret, host\r\n\r\n",
            200,
        ),
        ("HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 2\r\n\r\ngo", 302),
        ("HTTP/1.1 401 Unauthorized\r\nconnection: close\r\n\r\nnobody", 401),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", 403),
        ("HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n", 403),
        ("nonsense", 403),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\ncut", 403),
    ] {
        let b = protected(http(), raw(Some(answer)).await).await;
        let (head, body) = call(&b, "/admin", "").await;
        assert_eq!(status(&head), expected, "{answer}: {head}");
        match expected {
            200 => {
                let seen = body.to_ascii_lowercase();
                assert!(
                    seen.contains("x-user: me") && !seen.contains("x-other") && !seen.contains("x-secret"),
                    "{seen}"
                );
                assert!(seen.contains("host: b\r\n") && head.contains("x-down: 1"), "{seen} {head}");
            }
            302 => assert!(head.contains("location: /login") && body == "go", "{head}"),
            401 => assert_eq!(body, "nobody"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_provider_is_told_only_what_it_may_see() {
    let judge = application().await;
    // The application echoes what it was asked: 200, so the request passes and nothing of the echo goes upstream.
    let b = protected(http(), judge).await;
    let (head, _) = call(&b, "/admin?x=1", "x-ext-a: 1\r\nauthorization: t\r\ncookie: c\r\n").await;
    assert_eq!(status(&head), 200, "{head}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let told = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0; 4096];
        let count = stream.read(&mut buffer).await.unwrap();
        stream.write_all(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        String::from_utf8_lossy(&buffer[..count]).to_ascii_lowercase()
    });
    let b = protected(http(), address).await;
    let (head, _) = call(&b, "/admin?x=1", "x-ext-a: 1\r\nauthorization: t\r\ncookie: c\r\n").await;
    assert_eq!(status(&head), 403);
    let told = within(told).await.unwrap();
    assert!(told.starts_with("get /check/admin?x=1 http/1.1\r\n"), "{told}");
    for line in ["host: b\r\n", "x-ext-a: 1\r\n", "authorization: t\r\n", "x-added: v\r\n"] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(!told.contains("cookie") && !told.contains("x-secret"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_judged_before_policies_and_before_the_application() {
    let application = application().await;
    let b = sidecar(&TestCa::new("mesh"), "b", Role::Inbound, application).await;
    let inbound = inbound_snapshot(application.port(), MtlsMode::Disable, vec![default_permit()]);
    let mut resources: Vec<Resource> = inbound.entries().values().map(|entry| entry.resource().clone()).collect();
    let rule = TokenRule {
        issuer: Some("i".into()),
        audiences: [].into(),
        keys: "".into(),
        locations: [TokenLocation::Header { name: "authorization".into(), prefix: "Bearer ".into() }].into(),
        forwards_token: false,
        payload_header: Some("x-payload".into()),
        claim_headers: [].into(),
        space_delimited: [].into(),
        is_required: false,
    };
    resources.push(Resource::Authentication(Authentication {
        key: "workload/foo/b".into(),
        rules: [rule].into(),
        refuse_tokens: None,
    }));
    b.runtime.apply(testing::snapshot(resources)).unwrap();
    let (head, body) = call(&b, "/x?y=1", "authorization: Bearer nonsense\r\n").await;
    assert_eq!(status(&head), 401, "{head}");
    assert!(head.contains("www-authenticate: bearer realm=\"http://b/x\", error=\"invalid_token\""), "{head}");
    assert_eq!(body, "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections");
    let (head, body) = call(&b, "/x", "x-payload: forged\r\n").await;
    assert_eq!(status(&head), 200, "{head}");
    assert!(!body.contains("x-payload"), "{body}");
    logged(&b.log, "jwt-invalid").await;
}

/// Istio's own sample server, built by `deploy/scripts/prerequisites`; `None` where it is not there.
fn sample_server() -> Option<PathBuf> {
    let cache = std::env::var_os("PALISADE_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::path::Path::new(&std::env::var_os("HOME")?).join(".cache/palisade")))?;
    Some(cache.join("tools/bin/extauthz")).filter(|path| path.exists())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn istios_sample_server_decides_over_grpc_and_http() {
    let Some(program) = sample_server() else {
        eprintln!("skipped: run deploy/scripts/prerequisites test");
        return;
    };
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (http_port, grpc_port) = (free(), free());
    let _server = tokio::process::Command::new(program)
        .args([format!("-http={http_port}"), format!("-grpc={grpc_port}")])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    for port in [http_port, grpc_port] {
        within(async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    let ExternalProvider::Http(check) = http() else { panic!() };
    let asks_http = ExternalProvider::Http(HttpCheck {
        path_prefix: "".into(),
        request_headers: [NamePattern::Exact("x-ext-authz".into())].into(),
        upstream_headers: [NamePattern::Prefix("x-ext-authz-".into())].into(),
        ..check
    });
    for (asks, port) in [(ExternalProvider::Grpc(service()), grpc_port), (asks_http, http_port)] {
        let b = protected(asks, ([127, 0, 0, 1], port).into()).await;
        let (head, body) = call(&b, "/admin", "x-ext-authz: allow\r\n").await;
        assert_eq!(status(&head), 200, "{head}");
        assert!(body.to_ascii_lowercase().contains("x-ext-authz-check-result: allowed"), "{body}");
        let (head, body) = call(&b, "/admin", "x-ext-authz: deny\r\n").await;
        assert_eq!(status(&head), 403, "{head}");
        assert!(body.starts_with("denied by ext_authz"), "{body}");
        assert!(head.contains("x-ext-authz-check-result: denied"), "{head}");
        assert_eq!(status(&call(&b, "/other", "").await.0), 200);
    }
}
