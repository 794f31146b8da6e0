//! Port 15014: metrics for whoever can connect; pages about proxies, reports and decisions on loopback only.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, Path, Query, Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use palisade_model::{origin::Origin, settings::WorkloadRef};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

mod decisions;
mod identity;
mod pages;
mod proxy;
mod status;

pub(crate) use pages::{Answer, Page, here};
pub use status::{AskedName, Count, StatusAnswer, StatusQuestion};
pub(crate) use status::{OwnStatus, of_own_proxies};

use crate::{fleet::ProxyRecord, jwks::KeyStatus, replicas::whole, rotation::Rotation, serve::Shared};

/// How long proxies may take to explain a decision.
const EXPLAIN: Duration = Duration::from_secs(2);

/// Serves until `stop`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    keys: watch::Receiver<Arc<[KeyStatus]>>,
    rotation: Arc<Rotation>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let asked = Arc::clone(&rotation);
    let pages = Router::new()
        .route("/proxies", get(proxies))
        .route("/proxies/{namespace}/{name}", get(proxy))
        .route("/status", post(status).layer(DefaultBodyLimit::max(status::MAX_QUESTION_BYTES)))
        .route("/identity", get(move || identity::page(asked)))
        .route("/identity/step", post(move |question| identity::step(rotation, question)))
        .route("/reports", get(reports))
        .route("/enforced", get(enforced))
        .route("/why/{decision}", get(why))
        .route("/keys", get(move || async move { Json(json!(&**keys.borrow())) }))
        .route_service("/palisade.v1.Decisions/{*method}", decisions::service(&shared))
        .layer(from_fn(loopback_only));
    let app = Router::new().route("/metrics", get(metrics)).route("/healthz/ready", get(ready)).merge(pages);
    let service = app.with_state(shared).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn loopback_only(ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request, next: Next) -> Response {
    if !peer.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, "admin pages answer on loopback only\n").into_response();
    }
    if !is_local_name(&request) {
        return (StatusCode::FORBIDDEN, "ask for this page by address or as `localhost`\n").into_response();
    }
    next.run(request).await
}

/// A page of another site must not reach these pages through a name that it resolves to loopback (DNS rebinding).
fn is_local_name(request: &Request) -> bool {
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = request.uri().authority().map(|authority| authority.as_str()).or(host).unwrap_or_default();
    let Ok(authority) = authority.parse::<http::uri::Authority>() else { return false };
    let host = authority.host();
    host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    match shared.metrics().text() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.mesh.borrow().is_some() {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no configuration is compiled yet\n").into_response()
    }
}

async fn proxies(State(shared): State<Arc<Shared>>) -> Answer {
    whole(&shared, Page::Proxies).await
}

async fn proxy(State(shared): State<Arc<Shared>>, Path((namespace, name)): Path<(String, String)>) -> Answer {
    whole(&shared, Page::Proxy(WorkloadRef { namespace: namespace.into(), name: name.into() })).await
}

async fn status(State(shared): State<Arc<Shared>>, question: Bytes) -> Answer {
    whole(&shared, Page::Status(question)).await
}

async fn reports(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let mesh = shared.mesh.borrow().clone();
    Json(mesh.map_or(Value::Null, |mesh| mesh.reports()))
}

/// Which object `/enforced` is asked about.
#[derive(serde::Deserialize)]
struct Object {
    #[serde(default)]
    group: String,
    kind: String,
    #[serde(default)]
    namespace: String,
    name: String,
    #[serde(default)]
    generation: i64,
}

async fn enforced(State(shared): State<Arc<Shared>>, Query(object): Query<Object>) -> Json<Value> {
    let Object { group, kind, namespace, name, generation } = object;
    let origin = Origin {
        group: group.into(),
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
        uid: "".into(),
        generation,
    };
    Json(json!(shared.fleet().enforced(&origin)))
}

async fn why(State(shared): State<Arc<Shared>>, Path(decision): Path<String>) -> Response {
    if decision.is_empty() || decision.len() > 128 || !decision.bytes().all(|byte| byte.is_ascii_graphic()) {
        return (StatusCode::BAD_REQUEST, Json(json!({"error": "not a decision id"}))).into_response();
    }
    whole(&shared, Page::Why(decision)).await.into_response()
}

fn describe(record: &ProxyRecord) -> Value {
    let ProxyRecord {
        pod,
        build,
        features,
        connected,
        subscriptions,
        target,
        acked,
        nacked,
        withheld,
        unofferable,
        unbound,
        short_id,
        standing,
        epoch: _,
        explain: _,
    } = record;
    let acked_version = acked.as_ref().map(|(offer, _)| offer.version().to_string());
    json!({
        "namespace": pod.namespace,
        "name": pod.name,
        "shortId": short_id,
        "build": build,
        "features": features,
        "connected": time(*connected),
        "subscriptions": subscriptions.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "target": target.as_ref().map(|snapshot| snapshot.version().to_string()),
        "resources": target.as_ref().map(|snapshot| snapshot.entries().len()),
        "acked": acked_version,
        "ackedAt": acked.as_ref().map(|(_, at)| time(*at)),
        "nack": nacked.as_ref().map(|(rejection, at)| json!({
            "offer": rejection.offer.to_string(),
            "resource": rejection.key.as_ref().map(ToString::to_string),
            "origins": rejection.origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "message": rejection.message,
            "at": time(*at),
        })),
        "withheld": withheld.iter().map(|item| json!({
            "resource": item.key.to_string(),
            "origins": item.origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "missing": item.missing,
        })).collect::<Vec<_>>(),
        "unofferable": unofferable,
        "unbound": unbound,
        "trust": standing,
    })
}

fn time(time: SystemTime) -> Option<String> {
    jiff::Timestamp::try_from(time).ok().map(|timestamp| timestamp.to_string())
}
