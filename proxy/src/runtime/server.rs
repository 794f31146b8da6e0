//! From an accepted connection to its end, for gateway and sidecar alike.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use futures::future::BoxFuture;
use jiff::Timestamp;
use palisade_model::reason::Reason;
use tokio::net::TcpStream;

use super::{Runtime, connection::ConnectionContext};
use crate::{
    http::MeshApp,
    index::{Known, RuntimeIndex},
    request::{
        connection::{Carries, declared, mtls_mode},
        facts::Direction,
    },
    serve::{
        Accepted, Admitted, CapturedPort, Downstream, InboundPort, ServeConnection, admit_captured, admit_gateway,
        admit_mesh, decide::DeclaredProtocol, socket::original_destination,
    },
    telemetry::Record,
    transport::{AppProtocol, Proxy, serve_h1, serve_h2},
};

mod relay;

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
    proxy: Arc<Proxy<MeshApp>>,
    role: Role,
    destination: FindDestination,
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
        Arc::new(Self { runtime, proxy, role, destination })
    }
}

impl ServeConnection for Server {
    fn serve(&self, connection: Accepted) -> BoxFuture<'static, ()> {
        let (runtime, proxy, role) = (Arc::clone(&self.runtime), Arc::clone(&self.proxy), self.role);
        let original = (self.destination)(&connection.stream);
        Box::pin(async move {
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
        })
    }
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
    accepted: Accepted,
    original: Option<SocketAddr>,
) -> Result<(), Unserved> {
    let Some(index) = runtime.index() else {
        return Err(Unserved::because(Reason::ConfigUnavailable, "no configuration yet"));
    };
    let direction = role.direction();
    let admitted = admit(runtime, &index, role, accepted, original).await?;
    let downstream = admitted.map_err(|refused| Unserved {
        reason: refused.reason,
        destination: Some(refused.destination),
        details: Some(refused.cause.to_string()),
    })?;
    // What was learnt while waiting counts.
    let index = runtime.index().unwrap_or(index);
    let destination = downstream.destination();
    let context = ConnectionContext::new(&index, &downstream, direction).map_err(|refused| Unserved {
        reason: refused.reason,
        destination: Some(destination),
        details: None,
    })?;
    let standing = context.last_standing();
    let reason = match standing.admitted.carries {
        Carries::Bytes => relay::serve(runtime, downstream, Arc::new(context), standing).await,
        Carries::Http => serve_http(runtime, proxy, downstream, context).await?,
    };
    runtime.metrics.count_connection(direction, reason);
    Ok(())
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

async fn serve_http(
    runtime: &Arc<Runtime>,
    proxy: &Arc<Proxy<MeshApp>>,
    downstream: Downstream,
    context: ConnectionContext,
) -> Result<Reason, Unserved> {
    let context = Arc::new(context);
    let owner = Arc::clone(&context);
    let ready =
        downstream.into_http(Some(owner)).map_err(|error| Unserved::because(Reason::PeerRefused, error.to_string()))?;
    let closed = ready.registration.closed();
    context.set_registration(ready.registration);
    let _slot = ready.slot;
    let shutdown = runtime.drain.watch();
    let settings = runtime.settings();
    let session = async {
        match ready.protocol {
            AppProtocol::Http2 => serve_h2(proxy, ready.stream, &settings.h2, shutdown).await,
            AppProtocol::Http1 => serve_h1(proxy, ready.stream, &settings.h1, shutdown).await,
        }
    };
    tokio::select! {
        biased;
        end = session => {
            tracing::debug!(?end, "downstream connection ended");
            Ok(reason_of(end))
        }
        // Dropping the session ends the connection and every stream on it.
        () = closed => {
            let reason = context.registration().and_then(|registration| registration.close_reason());
            Ok(reason.unwrap_or(Reason::Draining))
        }
    }
}

fn reason_of(end: crate::transport::ConnectionEnd) -> Reason {
    use crate::transport::ConnectionEnd as End;
    match end {
        End::Client | End::Response | End::MaxRequests | End::MaxAge => Reason::Ok,
        End::Idle => Reason::IdleTimeout,
        End::Drained => Reason::Draining,
        End::HeaderTimeout => Reason::RequestTimeout,
        End::HeaderTooLarge => Reason::HeadersTooLarge,
        End::Handshake | End::Protocol => Reason::BadRequest,
        End::PingTimeout => Reason::DownstreamClosed,
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("role", &self.role).finish_non_exhaustive()
    }
}
