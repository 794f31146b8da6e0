//! The proxies' own pages: admin on loopback, metrics and readiness for the cluster.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

use crate::telemetry::{Metrics, metrics::CONTENT_TYPE};

mod app_probes;

pub use app_probes::{AppProbes, app_probe_pages};

/// How long requests in progress may take once the server is told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// What the pages show and do. Implementations answer at once and never block.
pub trait AdminSource: Send + Sync + 'static {
    /// The configuration that is in force, as JSON, without private keys.
    fn config(&self) -> Value;

    /// The explanation of a recent decision, or `None` when the id is unknown here or too old.
    fn why(&self, decision: &str) -> Option<Value>;

    /// The log filter in force, in `tracing` directive syntax.
    fn log_filter(&self) -> String;

    /// Changes the log filter.
    ///
    /// # Errors
    /// With a sentence for the person who asked, when the directives cannot be read.
    fn set_log_filter(&self, directives: &str) -> Result<(), String>;

    /// Starts draining; further calls change nothing.
    fn drain(&self);

    /// `Ok` once the first snapshot is swapped in and while the proxy is not draining; else the reason.
    ///
    /// # Errors
    /// The reason, for the probe's log.
    fn readiness(&self) -> Result<(), String>;
}

/// Query of `/log`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    /// New filter; absent = only show.
    level: Option<String>,
}

/// Every error answer.
#[derive(Debug, Serialize)]
struct Problem {
    error: String,
}

/// The admin pages (port 15000, loopback only): `/config`, `/why/ID`, `/log`, `/drain`.
pub fn admin_pages(source: Arc<dyn AdminSource>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/config", get(async |State(source): State<Arc<dyn AdminSource>>| Json(source.config())))
        .route("/why/{*id}", get(why))
        .route("/log", get(log))
        .route("/drain", post(drain))
        .fallback(not_found)
        .layer(middleware::from_fn(require_loopback_authority))
        .with_state(source)
}

/// The metrics page (port 15020): `/metrics`.
pub fn metrics_pages(metrics: Arc<Metrics>) -> Router {
    Router::new().route("/metrics", get(render)).fallback(not_found).with_state(metrics)
}

/// The readiness page (port 15021): `/healthz/ready`.
pub fn health_pages(source: Arc<dyn AdminSource>) -> Router {
    Router::new().route("/healthz/ready", get(ready)).fallback(not_found).with_state(source)
}

/// Serves pages until `stop` becomes true or its sender is gone.
///
/// # Errors
/// When accepting connections fails for good.
pub async fn serve(listener: TcpListener, pages: Router, mut stop: watch::Receiver<bool>) -> io::Result<()> {
    let mut stop_now = stop.clone();
    let server = axum::serve(listener, pages).with_graceful_shutdown(async move {
        // A dropped sender means that the proxy is gone: stop as well.
        let _stopped = stop.wait_for(|stopped| *stopped).await.is_ok();
    });
    let cut_off = async {
        let _stopped = stop_now.wait_for(|stopped| *stopped).await.is_ok();
        tokio::time::sleep(STOP_LIMIT).await;
    };
    tokio::select! {
        result = IntoFuture::into_future(server) => result,
        () = cut_off => Ok(()),
    }
}

/// A page of another site must not reach these pages through a name that it resolves to loopback (DNS rebinding).
async fn require_loopback_authority(headers: HeaderMap, request: Request, next: Next) -> Response {
    let authority = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let is_address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    if is_address || host.eq_ignore_ascii_case("localhost") {
        next.run(request).await
    } else {
        problem(StatusCode::FORBIDDEN, "ask for this page by address or as `localhost`")
    }
}

async fn index() -> Json<Value> {
    Json(json!({ "pages": ["/config", "/why/ID", "/log", "/log?level=FILTER", "POST /drain"] }))
}

async fn why(State(source): State<Arc<dyn AdminSource>>, Path(id): Path<String>) -> Response {
    match source.why(&id) {
        Some(explanation) => Json(explanation).into_response(),
        None => problem(StatusCode::NOT_FOUND, &format!("decision `{id}` is not among this proxy's recent ones")),
    }
}

async fn log(State(source): State<Arc<dyn AdminSource>>, Query(query): Query<LogQuery>) -> Response {
    if let Some(level) = &query.level
        && let Err(message) = source.set_log_filter(level)
    {
        return problem(StatusCode::BAD_REQUEST, &message);
    }
    Json(json!({ "level": source.log_filter() })).into_response()
}

async fn drain(State(source): State<Arc<dyn AdminSource>>) -> Response {
    source.drain();
    (StatusCode::ACCEPTED, Json(json!({ "draining": true }))).into_response()
}

async fn ready(State(source): State<Arc<dyn AdminSource>>) -> Response {
    match source.readiness() {
        Ok(()) => Json(json!({ "ready": true })).into_response(),
        Err(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ready": false, "reason": reason }))).into_response()
        }
    }
}

async fn render(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "no such page")
}

fn problem(status: StatusCode, message: &str) -> Response {
    (status, Json(Problem { error: message.to_owned() })).into_response()
}

#[cfg(test)]
mod tests;
