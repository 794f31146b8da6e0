//! From an accepted connection to its end, for gateway and sidecar alike.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::StatusCode;
use jiff::Timestamp;
use palisade_model::reason::Reason;
use tokio::net::TcpStream;

use super::{Runtime, connection::ConnectionContext, workers::Workers};
use crate::{
    http::MeshApp,
    index::{Known, RuntimeIndex},
    request::{
        connection::{Carries, declared, mtls_mode},
        facts::{Direction, HttpVersion},
    },
    serve::{
        Accepted, Admitted, CapturedPort, Downstream, HttpDownstream, InboundPort, ServeConnection, admit_captured,
        admit_gateway, admit_mesh, decide::DeclaredProtocol, socket::original_destination,
    },
    telemetry::Record,
    transport::{AppProtocol, ConnectionEnd, Proxy, serve_h1, serve_h2},
};

pub(in crate::runtime) mod relay;

pub use relay::RelaySubject;

/// What a listener captures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A gateway's listener.
    Gateway,
    /// A sidecar's inbound capture port.
    Inbound,
    /// A sidecar's outbound capture port.
    Outbound,
}

/// Finds where a connection was going before it was redirected.
pub type FindDestination = Arc<dyn Fn(&TcpStream) -> Option<SocketAddr> + Send + Sync>;

/// Serves the connections of one kind of listener.
pub struct Server {
    runtime: Arc<Runtime>,
    place: Place,
    role: Role,
    destination: FindDestination,
}

/// Where connections are served.
enum Place {
    /// On the runtime that accepts them.
    Here(Arc<Proxy<MeshApp>>),
    /// On a worker.
    Workers(Arc<Workers>),
}

impl Server {
    /// A server over a runtime and its `HttpProxy`.
    pub fn new(runtime: Arc<Runtime>, proxy: Arc<Proxy<MeshApp>>, role: Role) -> Arc<Self> {
        Self::with_destination(runtime, proxy, role, Arc::new(original_destination))
    }

    /// A server that is told about redirection by something else than the kernel.
    pub fn with_destination(
        runtime: Arc<Runtime>,
        proxy: Arc<Proxy<MeshApp>>,
        role: Role,
        destination: FindDestination,
    ) -> Arc<Self> {
        Arc::new(Self { runtime, place: Place::Here(proxy), role, destination })
    }

    /// A server whose connections are dealt to workers.
    pub fn on_workers(runtime: Arc<Runtime>, workers: Arc<Workers>, role: Role) -> Arc<Self> {
        Arc::new(Self { runtime, place: Place::Workers(workers), role, destination: Arc::new(original_destination) })
    }
}

impl ServeConnection for Server {
    fn serve(&self, connection: Accepted) -> BoxFuture<'static, ()> {
        let original = (self.destination)(&connection.stream);
        let (runtime, role) = (Arc::clone(&self.runtime), self.role);
        let workers = match &self.place {
            Place::Here(proxy) => {
                return Box::pin(serve_accepted(runtime, Arc::clone(proxy), role, Box::new(connection), original));
            }
            Place::Workers(workers) => workers,
        };
        let Some(seat) = workers.seat() else { return Box::pin(std::future::ready(())) };
        let Accepted { stream, peer, local, listener, slot } = connection;
        // The socket moves from this runtime's reactor to the worker's.
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "the client has gone already");
                return Box::pin(std::future::ready(()));
            }
        };
        let proxy = Arc::clone(&seat.proxy);
        seat.run(async move {
            match TcpStream::from_std(stream) {
                Ok(stream) => {
                    let accepted = Box::new(Accepted { stream, peer, local, listener, slot });
                    serve_accepted(runtime, proxy, role, accepted, original).await;
                }
                Err(error) => tracing::error!(%error, "a connection cannot be watched"),
            }
        })
    }
}

async fn serve_accepted(
    runtime: Arc<Runtime>,
    proxy: Arc<Proxy<MeshApp>>,
    role: Role,
    connection: Box<Accepted>,
    original: Option<SocketAddr>,
) {
    runtime.metrics.open_connections.inc();
    let began = Instant::now();
    let (peer, local) = (connection.peer, connection.local);
    let direction = role.direction();
    if let Err(end) = serve(&runtime, &proxy, role, connection, original).await {
        let mut record = Record::new(Timestamp::now(), Arc::clone(&runtime.settings().proxy), direction);
        record.source_address = Some(peer);
        record.destination_address = Some(end.destination.unwrap_or(local));
        record.destination = record.destination_address.map(|address| address.to_string().into());
        record.connection = "refused";
        record.reason = end.reason;
        record.details = end.details.map(Into::into);
        record.set_duration(began.elapsed());
        runtime.log.write(&record);
        runtime.metrics.count_connection(direction, end.reason);
    }
    runtime.metrics.open_connections.dec();
}

impl Role {
    /// The direction that metrics and logs name.
    pub const fn direction(self) -> Direction {
        match self {
            Self::Gateway | Self::Inbound => Direction::Inbound,
            Self::Outbound => Direction::Outbound,
        }
    }
}

/// A connection that was not served.
struct Unserved {
    reason: Reason,
    destination: Option<SocketAddr>,
    details: Option<String>,
}

impl Unserved {
    fn because(reason: Reason, details: impl Into<String>) -> Self {
        Self { reason, destination: None, details: Some(details.into()) }
    }
}

async fn serve(
    runtime: &Arc<Runtime>,
    proxy: &Arc<Proxy<MeshApp>>,
    role: Role,
    accepted: Box<Accepted>,
    original: Option<SocketAddr>,
) -> Result<(), Unserved> {
    // Boxed, and begun outside of this future: what is over must not be part of what an idle connection keeps.
    let serving = Box::pin(begin(runtime, proxy, role, accepted, original)).await?;
    let reason = serving.await;
    runtime.metrics.count_connection(role.direction(), reason);
    Ok(())
}

/// Admits a connection. What then serves it is all that is kept of it.
async fn begin<'a>(
    runtime: &'a Arc<Runtime>,
    proxy: &'a Arc<Proxy<MeshApp>>,
    role: Role,
    accepted: Box<Accepted>,
    original: Option<SocketAddr>,
) -> Result<BoxFuture<'a, Reason>, Unserved> {
    let Some(index) = runtime.index() else {
        return Err(Unserved::because(Reason::ConfigUnavailable, "no configuration yet"));
    };
    let admitted = admit(runtime, &index, role, *accepted, original).await?;
    let downstream = admitted.map_err(|refused| Unserved {
        reason: refused.reason,
        destination: Some(refused.destination),
        details: Some(refused.cause.to_string()),
    })?;
    // What was learnt while waiting counts.
    let index = runtime.index().unwrap_or(index);
    let destination = downstream.destination();
    let context = ConnectionContext::new(runtime, &index, &downstream, role.direction())
        .map_err(|refused| Unserved { reason: refused.reason, destination: Some(destination), details: None })?;
    let standing = context.last_standing();
    match standing.admitted.carries {
        Carries::Bytes => Ok(Box::pin(relay::serve(runtime, downstream, Arc::new(context), standing))),
        Carries::Http => serve_http(runtime, proxy, downstream, context),
    }
}

async fn admit(
    runtime: &Arc<Runtime>,
    index: &Arc<RuntimeIndex>,
    role: Role,
    accepted: Accepted,
    original: Option<SocketAddr>,
) -> Result<Admitted, Unserved> {
    let timeouts = runtime.settings().timeouts;
    let registry = &runtime.registry;
    match role {
        Role::Gateway => {
            let edge = runtime.edge();
            let Some(port) = edge.get(accepted.listener.as_str()).map(Arc::clone) else {
                return Err(Unserved::because(Reason::NoFilterChain, "the listener is gone"));
            };
            Ok(admit_gateway(accepted, &port.port, &runtime.identities, registry).await)
        }
        Role::Inbound => {
            let destination = original.unwrap_or(accepted.local);
            let Some(port) = index.inbound(destination.port()).filter(|_| original.is_some()) else {
                return Err(Unserved::because(Reason::PeerRefused, "the connection was not redirected here"));
            };
            let port = InboundPort { mode: mtls_mode(port.mtls), declared: declared(port.protocol), timeouts };
            Ok(admit_mesh(accepted, original, port, &runtime.identities, registry).await)
        }
        Role::Outbound => {
            let Some(destination) = original else {
                return Err(Unserved::because(Reason::BadRequest, "the connection was not redirected here"));
            };
            let port = captured(runtime, index, destination).await;
            Ok(admit_captured(accepted, original, CapturedPort { timeouts, ..port }, registry).await)
        }
    }
}

/// What is known about a destination that the application dialled, after asking where nothing is.
async fn captured(runtime: &Arc<Runtime>, index: &Arc<RuntimeIndex>, destination: SocketAddr) -> CapturedPort {
    let mut index = Arc::clone(index);
    let (address, port) = (destination.ip(), destination.port());
    if index.services().by_address(address) == Known::Unknown {
        // No answer: whatever the bytes turn out to be is refused later, by name, with `config-unavailable`.
        let asked = runtime.ask(palisade_model::service::Query::Address(address)).await;
        tracing::debug!(%address, answered = asked.is_ok(), "asked about an address");
        index = runtime.index().unwrap_or(index);
    }
    let timeouts = runtime.settings().timeouts;
    match index.services().port_at(address, port) {
        Some((_, port)) => {
            let declared = declared(port.protocol);
            let routes = || port.l4_routes.iter().filter_map(|key| index.l4_route(key));
            let inspects_tls = declared == DeclaredProtocol::Auto || routes().any(|route| !route.sni.is_empty());
            CapturedPort { declared, inspects_tls, timeouts }
        }
        // TLS is told apart by its server name there, whatever else the port carries.
        None if index.settings().outbound_tls_ports.contains(&port) => {
            let has_http = index.settings().outbound_http_ports.contains(&port);
            let declared = if has_http { DeclaredProtocol::Auto } else { DeclaredProtocol::Tcp };
            CapturedPort { declared, inspects_tls: true, timeouts }
        }
        None if index.settings().outbound_http_ports.contains(&port) => {
            CapturedPort { declared: DeclaredProtocol::Auto, inspects_tls: true, timeouts }
        }
        None => CapturedPort { declared: DeclaredProtocol::Tcp, inspects_tls: false, timeouts },
    }
}

fn serve_http<'a>(
    runtime: &'a Arc<Runtime>,
    proxy: &'a Arc<Proxy<MeshApp>>,
    downstream: Downstream,
    context: ConnectionContext,
) -> Result<BoxFuture<'a, Reason>, Unserved> {
    let context = Arc::new(context);
    let owner = Arc::clone(&context);
    let HttpDownstream { stream, protocol, registration, slot } =
        downstream.into_http(Some(owner)).map_err(|error| Unserved::because(Reason::PeerRefused, error.to_string()))?;
    // Looked at when it has something to say, not at each step of the session.
    let mut closed: FuturesUnordered<_> = std::iter::once(registration.closed()).collect();
    context.set_registration(registration);
    let shutdown = runtime.drain.watch();
    let limits = runtime.limits();
    let told = Arc::clone(&context);
    let session: BoxFuture<'a, ConnectionEnd> = match protocol {
        AppProtocol::Http2 => Box::pin(async move {
            let refused = |status: StatusCode| {
                let is_large = status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                let reason = if is_large { Reason::HeadersTooLarge } else { Reason::BadRequest };
                note_refused(runtime, &told, HttpVersion::Http2, status.as_u16(), reason, None);
            };
            serve_h2(proxy, stream, &limits.h2, shutdown, refused).await
        }),
        AppProtocol::Http1 => Box::pin(async move { serve_h1(proxy, stream, &limits.h1, shutdown).await }),
    };
    Ok(Box::pin(async move {
        let _slot = slot;
        tokio::select! {
            biased;
            end = session => {
                tracing::debug!(?end, "downstream connection ended");
                note_end(runtime, &context, end);
                reason_of(end)
            }
            // Dropping the session ends the connection and every stream on it.
            Some(()) = closed.next() => {
                let reason = context.registration().and_then(|registration| registration.close_reason());
                reason.unwrap_or(Reason::Draining)
            }
        }
    }))
}

/// A connection that ended with a request that never became one.
fn note_end(runtime: &Runtime, context: &ConnectionContext, end: ConnectionEnd) {
    let (status, details) = match end {
        ConnectionEnd::Malformed(invalid) => (400, Some(invalid.to_string())),
        ConnectionEnd::HeaderTimeout => (408, None),
        ConnectionEnd::HeaderTooLarge => (431, None),
        _ => return,
    };
    note_refused(runtime, context, HttpVersion::Http11, status, reason_of(end), details);
}

/// A request that was refused before there was one to speak of has a line and a count of its own.
fn note_refused(
    runtime: &Runtime,
    context: &ConnectionContext,
    version: HttpVersion,
    status: u16,
    reason: Reason,
    details: Option<String>,
) {
    let standing = context.last_standing();
    let admitted = &standing.admitted;
    let mut record = Record::new(Timestamp::now(), Arc::clone(&runtime.settings().proxy), context.facts().direction);
    record.source = Some(admitted.caller());
    record.source_address = Some(admitted.facts.source);
    record.destination_address = Some(admitted.facts.destination);
    record.destination = Some(admitted.facts.destination.to_string().into());
    record.connection = admitted.mode.as_str();
    record.protocol = version.as_str();
    record.status = Some(status);
    record.reason = reason;
    record.details = details.map(Into::into);
    runtime.metrics.count_request(&record);
    runtime.log.write(&record);
}

fn reason_of(end: ConnectionEnd) -> Reason {
    use ConnectionEnd as End;
    match end {
        End::Client | End::Response | End::MaxRequests | End::MaxAge => Reason::Ok,
        End::Idle => Reason::IdleTimeout,
        End::Drained => Reason::Draining,
        End::HeaderTimeout => Reason::RequestTimeout,
        End::HeaderTooLarge => Reason::HeadersTooLarge,
        End::Handshake | End::Protocol | End::Malformed(_) => Reason::BadRequest,
        End::PingTimeout => Reason::DownstreamClosed,
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("role", &self.role).finish_non_exhaustive()
    }
}
