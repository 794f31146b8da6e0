//! Probes of the pod's application, asked of its sidecar: the kubelet has no certificate of the mesh, and what it asks must not go past
//! policies for everybody else. `/app-health/CONTAINER/PROBE` on the metrics port.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use palisade_model::listener::TlsLimits;

use crate::tls::{NameCheck, Origination, OriginationSettings, TrustAnchors};

/// Probes at a time; more are told to come again.
const AT_ONCE: usize = 32;
/// The most of an answer that is read.
const MAX_ANSWER: usize = 64 * 1024;
/// Redirects that are followed, as the kubelet does; each to the same application.
const MAX_REDIRECTS: usize = 10;

/// What to ask for each path, as injection writes it.
#[derive(Debug, Clone, Default)]
pub struct AppProbes {
    probes: BTreeMap<String, Probe>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Probe {
    http_get: Option<HttpGet>,
    tcp_socket: Option<Port>,
    grpc: Option<Grpc>,
    #[serde(default = "one")]
    timeout_seconds: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HttpGet {
    #[serde(default)]
    path: String,
    port: u16,
    #[serde(default)]
    scheme: String,
    #[serde(default)]
    http_headers: Vec<ProbeHeader>,
    #[serde(default, rename = "host")]
    _host: String,
}

#[derive(Debug, Clone, Deserialize)]
struct ProbeHeader {
    name: String,
    value: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Port {
    port: u16,
}

#[derive(Debug, Clone, Deserialize)]
struct Grpc {
    port: u16,
    #[serde(default)]
    service: Option<String>,
}

const fn one() -> u64 {
    1
}

impl AppProbes {
    /// Reads what injection wrote.
    ///
    /// # Errors
    /// When it is not JSON of probes by path.
    pub fn parse(text: &str) -> Result<Self, String> {
        let probes: BTreeMap<String, Probe> = serde_json::from_str(text).map_err(|error| format!("probes: {error}"))?;
        for (path, probe) in &probes {
            let kinds = [probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.grpc.is_some()];
            if kinds.iter().filter(|is_there| **is_there).count() != 1 {
                return Err(format!("probes: `{path}` must have one of `httpGet`, `tcpSocket` and `grpc`"));
            }
        }
        Ok(Self { probes })
    }
}

struct Asking {
    probes: AppProbes,
    address: IpAddr,
    slots: Semaphore,
}

/// The pages of a pod's probes. `address` is the pod's own.
pub fn app_probe_pages(probes: AppProbes, address: IpAddr) -> Router {
    let asking = Arc::new(Asking { probes, address, slots: Semaphore::new(AT_ONCE) });
    Router::new().route("/app-health/{container}/{probe}", get(ask)).with_state(asking)
}

async fn ask(
    State(asking): State<Arc<Asking>>,
    Path((container, probe)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let path = format!("/app-health/{container}/{probe}");
    let Some(probe) = asking.probes.probes.get(&path) else {
        return (StatusCode::NOT_FOUND, "there is no such probe\n").into_response();
    };
    let Ok(_slot) = asking.slots.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many probes at a time\n").into_response();
    };
    let limit = Duration::from_secs(probe.timeout_seconds.clamp(1, 300));
    match tokio::time::timeout(limit, probe.ask(asking.address, &headers)).await {
        Ok(Ok(status)) => status.into_response(),
        Ok(Err(problem)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "the application does not answer in time\n").into_response(),
    }
}

impl Probe {
    async fn ask(&self, address: IpAddr, from: &HeaderMap) -> Result<StatusCode, String> {
        if let Some(probe) = &self.http_get {
            return probe.ask(address, from).await;
        }
        if let Some(Port { port }) = &self.tcp_socket {
            dial(SocketAddr::new(address, *port)).await?;
            return Ok(StatusCode::OK);
        }
        match &self.grpc {
            Some(probe) => probe.ask(address).await,
            None => Err("the probe asks for nothing".to_owned()),
        }
    }
}

/// A connection to the application, from the address by which redirection knows the sidecar's own.
async fn dial(to: SocketAddr) -> Result<TcpStream, String> {
    let (socket, from): (_, IpAddr) = match to.ip() {
        IpAddr::V4(_) => (TcpSocket::new_v4(), Ipv4Addr::new(127, 0, 0, 6).into()),
        IpAddr::V6(_) => (TcpSocket::new_v6(), Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into()),
    };
    let connect = async {
        let socket = socket?;
        socket.bind(SocketAddr::new(from, 0))?;
        socket.connect(to).await
    };
    connect.await.map_err(|error| format!("the application does not take connections at port {}: {error}", to.port()))
}

impl HttpGet {
    async fn ask(&self, address: IpAddr, from: &HeaderMap) -> Result<StatusCode, String> {
        let mut path = if self.path.starts_with('/') { self.path.clone() } else { format!("/{}", self.path) };
        for _ in 0..=MAX_REDIRECTS {
            let (status, location) = self.once(address, &path, from).await?;
            match location {
                // Where it leads elsewhere, the application answered, and that is what is asked.
                Some(next) if status.is_redirection() && next.starts_with('/') && !next.starts_with("//") => {
                    path = next
                }
                _ if status.is_redirection() => return Ok(StatusCode::OK),
                _ => return Ok(status),
            }
        }
        Err("the application redirects without end".to_owned())
    }

    async fn once(
        &self,
        address: IpAddr,
        path: &str,
        from: &HeaderMap,
    ) -> Result<(StatusCode, Option<String>), String> {
        let to = SocketAddr::new(address, self.port);
        let mut request = Request::get(path);
        let mut is_named = false;
        for ProbeHeader { name, value } in &self.http_headers {
            let header = HeaderName::try_from(name.as_str()).map_err(|_| format!("`{name}` is not a header name"))?;
            is_named |= header == header::HOST;
            let value = HeaderValue::try_from(value.as_str())
                .map_err(|_| format!("the value of `{name}` is not one of a header"))?;
            request = request.header(header, value);
        }
        if !is_named {
            request = request.header(header::HOST, to.to_string());
        }
        if let Some(agent) = from.get(header::USER_AGENT) {
            request = request.header(header::USER_AGENT, agent);
        }
        let request = request
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::new()))
            .map_err(|_| format!("`{path}` is not a path"))?;
        let stream = dial(to).await?;
        if self.scheme.eq_ignore_ascii_case("HTTPS") {
            exchange(over_tls(stream, address).await?, request).await
        } else {
            exchange(stream, request).await
        }
    }
}

/// TLS without verification, as the kubelet speaks it to probes.
async fn over_tls(stream: TcpStream, address: IpAddr) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let settings = OriginationSettings {
        anchors: TrustAnchors::Unverified,
        names: NameCheck::Unchecked,
        sni: None,
        certificate: None,
        alpn: vec![b"http/1.1".to_vec()],
        limits: TlsLimits::default(),
    };
    let failed = |error: String| format!("TLS with the application: {error}");
    let origination = Origination::new(settings).map_err(|error| failed(error.to_string()))?;
    let name = origination.server_name(&address.to_string()).map_err(|error| failed(error.to_string()))?;
    let connector = TlsConnector::from(Arc::clone(origination.config()));
    connector.connect(name, stream).await.map_err(|error| failed(error.to_string()))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Option<String>), String> {
    let failed = |error: hyper::Error| format!("the application does not answer: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // It may end with the answer's last byte, before that is read.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(failed)?;
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let status = response.status();
    // Read, so that the application does not see its connection cut; how it ends is no matter.
    drop(Limited::new(response.into_body(), MAX_ANSWER).collect().await);
    Ok((status, location))
}

impl Grpc {
    async fn ask(&self, address: IpAddr) -> Result<StatusCode, String> {
        const SERVING: [u8; 2] = [0x08, 1];
        let to = SocketAddr::new(address, self.port);
        let service = self.service.as_deref().unwrap_or_default();
        let failed = |error: hyper::Error| format!("the application does not answer: {error}");
        let request = Request::post(format!("http://{to}/grpc.health.v1.Health/Check"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Full::new(health_request(service)?))
            .map_err(|error| error.to_string())?;
        let stream = TokioIo::new(dial(to).await?);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.map_err(failed)?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let response = sender.send_request(request).await.map_err(failed)?;
        let of_headers = response.headers().get("grpc-status").cloned();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
        let status = body.trailers().and_then(|trailers| trailers.get("grpc-status").cloned()).or(of_headers);
        let is_serving = body.to_bytes().get(5..) == Some(&SERVING[..]);
        if status.is_none_or(|status| status == "0") && is_serving {
            Ok(StatusCode::OK)
        } else {
            Err("the application says that it does not serve".to_owned())
        }
    }
}

/// `HealthCheckRequest { service }` in a frame.
fn health_request(service: &str) -> Result<Bytes, String> {
    let length =
        u8::try_from(service.len()).ok().filter(|length| *length < 0x80).ok_or("the service's name is too long")?;
    let mut message = Vec::new();
    if length > 0 {
        message.extend([0x0a, length]);
        message.extend(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).map_err(|error| error.to_string())?.to_be_bytes());
    frame.extend(message);
    Ok(frame.into())
}

#[cfg(test)]
mod tests {
    use axum::http::Request as HttpRequest;
    use tokio::net::TcpListener;
    use tower::ServiceExt;

    use super::*;

    async fn application() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let check = |request: axum::extract::Request| async move {
            let body = axum::body::to_bytes(request.into_body(), 100).await.unwrap();
            let status: u8 = if body.ends_with(b"up") { 1 } else { 2 };
            ([("content-type", "application/grpc"), ("grpc-status", "0")], vec![0, 0, 0, 0, 2, 0x08, status])
                .into_response()
        };
        let pages = Router::new()
            .route(
                "/fine",
                get(|headers: HeaderMap| async move {
                    if headers.get("host").is_some_and(|host| host == "web.example") {
                        StatusCode::OK
                    } else {
                        StatusCode::IM_A_TEAPOT
                    }
                }),
            )
            .route("/bad", get(|| async { StatusCode::INTERNAL_SERVER_ERROR }))
            .route("/moved", get(|| async { (StatusCode::FOUND, [("location", "/bad")]) }))
            .route("/away", get(|| async { (StatusCode::FOUND, [("location", "https://elsewhere.example/")]) }))
            .route("/loop", get(|| async { (StatusCode::FOUND, [("location", "/loop")]) }))
            .route("/slow", get(|| async { tokio::time::sleep(Duration::from_secs(60)).await }))
            .route("/grpc.health.v1.Health/Check", axum::routing::post(check));
        tokio::spawn(async move { axum::serve(listener, pages).await });
        address
    }

    #[tokio::test]
    async fn applications_are_asked_as_the_kubelet_would() {
        let application = application().await;
        let port = application.port();
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let rows = [
            (
                "named",
                format!(
                    r#"{{"httpGet":{{"path":"/fine","port":{port},"httpHeaders":[{{"name":"Host","value":"web.example"}}]}}}}"#
                ),
                200,
            ),
            ("unnamed", format!(r#"{{"httpGet":{{"path":"fine","port":{port}}}}}"#), 418),
            ("bad", format!(r#"{{"httpGet":{{"path":"/bad","port":{port}}}}}"#), 500),
            ("moved", format!(r#"{{"httpGet":{{"path":"/moved","port":{port}}}}}"#), 500),
            ("away", format!(r#"{{"httpGet":{{"path":"/away","port":{port}}}}}"#), 200),
            ("loop", format!(r#"{{"httpGet":{{"path":"/loop","port":{port}}}}}"#), 503),
            ("slow", format!(r#"{{"httpGet":{{"path":"/slow","port":{port}}},"timeoutSeconds":1}}"#), 504),
            ("plain", format!(r#"{{"httpGet":{{"path":"/fine","port":{port},"scheme":"HTTPS"}}}}"#), 503),
            ("closed", format!(r#"{{"httpGet":{{"path":"/fine","port":{closed}}}}}"#), 503),
            ("open", format!(r#"{{"tcpSocket":{{"port":{port}}}}}"#), 200),
            ("shut", format!(r#"{{"tcpSocket":{{"port":{closed}}}}}"#), 503),
            ("serving", format!(r#"{{"grpc":{{"port":{port},"service":"up"}}}}"#), 200),
            ("waiting", format!(r#"{{"grpc":{{"port":{port}}}}}"#), 503),
        ];
        let all: Vec<String> =
            rows.iter().map(|(name, probe, _)| format!(r#""/app-health/web/{name}":{probe}"#)).collect();
        let probes = AppProbes::parse(&format!("{{{}}}", all.join(","))).unwrap();
        let pages = app_probe_pages(probes, application.ip());
        for (name, probe, expected) in rows
            .iter()
            .map(|(name, probe, expected)| (*name, probe.as_str(), *expected))
            .chain([("other", "none", 404)])
        {
            let request = HttpRequest::get(format!("/app-health/web/{name}")).body(axum::body::Body::empty()).unwrap();
            let response = pages.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status().as_u16(), expected, "{name}: {probe}");
        }
    }

    #[test]
    fn what_is_no_probe_is_refused() {
        for text in [
            "",
            "[]",
            r#"{"/a":{}}"#,
            r#"{"/a":{"exec":{}}}"#,
            r#"{"/a":{"tcpSocket":{"port":1},"grpc":{"port":1}}}"#,
            r#"{"/a":{"tcpSocket":{"port":70000}}}"#,
        ] {
            assert!(AppProbes::parse(text).is_err(), "{text}");
        }
        assert!(AppProbes::parse("{}").is_ok());
    }
}
