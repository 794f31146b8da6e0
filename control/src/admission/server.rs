//! The HTTPS server that the API server calls.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Request as HttpRequest, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response as HttpResponse},
    routing::post,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    ANSWER, Admission,
    injecting::inject_pod,
    review::{Request, Response},
    validate::validate,
};

/// The largest review that is read: an object of the largest size, as it is and as it would be, in JSON with escapes.
const MAX_BODY: usize = 16 * 1024 * 1024;
/// A TLS handshake must be over by then, and so must the head of a request and the answer to a ping.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A client that does not answer this often is gone.
const PING: Duration = Duration::from_secs(30);
/// Connections at a time: each API server keeps a few open.
const MAX_CONNECTIONS: usize = 512;
/// How long reviews that are being worked on get to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until `stop`, then lets open reviews end.
pub async fn serve(
    admission: Arc<Admission>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    stop: CancellationToken,
) {
    let app =
        Router::new().route("/validate", post(validation)).route("/inject", post(injection)).with_state(admission);
    let acceptor = TlsAcceptor::from(tls);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: waiting is all that helps.
                    tracing::warn!(%error, "cannot accept a webhook connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            tracing::warn!("too many webhook connections");
            continue;
        };
        let (acceptor, app, stop) = (acceptor.clone(), app.clone(), stop.clone());
        tasks.spawn(async move {
            connection(acceptor, stream, app, stop).await;
            drop(permit);
        });
    }
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!("reviews were still open at the end of the drain");
    }
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, app: Router, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::warn!(%error, "TLS handshake of a webhook call failed");
            return;
        }
        Err(_) => {
            tracing::warn!("TLS handshake of a webhook call timed out");
            return;
        }
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(HANDSHAKE);
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    tokio::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "webhook connection ended");
    }
}

/// What a call is answered with where there is no review to answer.
type Refused = (StatusCode, String);

async fn validation(State(admission): State<Arc<Admission>>, request: HttpRequest) -> HttpResponse {
    let revisions = admission.revisions.clone();
    let mesh = admission.mesh();
    answer(&admission, request, move |request| validate(request, mesh.as_ref(), &revisions)).await
}

async fn injection(State(admission): State<Arc<Admission>>, request: HttpRequest) -> HttpResponse {
    let settings = admission.injection.clone();
    answer(&admission, request, move |request| inject_pod(request, &settings)).await
}

async fn answer(
    admission: &Admission,
    request: HttpRequest,
    decide: impl FnOnce(&Request) -> Response + Send + 'static,
) -> HttpResponse {
    match tokio::time::timeout(ANSWER, review(admission, request, decide)).await {
        Ok(Ok(review)) => Json(review).into_response(),
        Ok(Err(refused)) => {
            tracing::warn!(status = %refused.0, reason = %refused.1, "webhook call refused");
            refused.into_response()
        }
        Err(_) => {
            tracing::warn!("a review took too long");
            (StatusCode::SERVICE_UNAVAILABLE, "too many reviews at a time; try again\n").into_response()
        }
    }
}

async fn review(
    admission: &Admission,
    request: HttpRequest,
    decide: impl FnOnce(&Request) -> Response + Send + 'static,
) -> Result<serde_json::Value, Refused> {
    is_json(request.headers())?;
    let ending = |_| (StatusCode::SERVICE_UNAVAILABLE, "the server is ending\n".to_owned());
    let _reading = admission.readers.acquire().await.map_err(ending)?;
    let body = body(request.into_body()).await?;
    let _slot = admission.slots.acquire().await.map_err(ending)?;
    // Reading a large object takes milliseconds, which other connections must not wait for.
    let work = tokio::task::spawn_blocking(move || {
        let request = Request::parse(&body).map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")))?;
        Ok(decide(&request).to_review(&request.uid))
    });
    work.await.map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, "the review failed\n".to_owned()))?
}

fn is_json(headers: &HeaderMap) -> Result<(), Refused> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "a review is of type application/json\n".to_owned()))
}

async fn body(body: Body) -> Result<axum::body::Bytes, Refused> {
    to_bytes(body, MAX_BODY)
        .await
        .map_err(|error| (StatusCode::PAYLOAD_TOO_LARGE, format!("the review cannot be read: {error}\n")))
}
