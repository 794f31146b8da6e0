//! Opens one upstream connection: TCP from the wanted source, then TLS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use pingora_core::{Error, ErrorType, OrErr, Result};
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{TlsTransport, Transport};
use crate::transport::meta::{ConnMeta, TlsFacts};
use crate::transport::stream::{AppProtocol, MeshStream, Wire};

/// Connects within `limit`, handshake included. The stream says which protocol was negotiated.
pub(super) async fn connect(
    address: SocketAddr,
    transport: &Transport,
    wanted: AppProtocol,
    limit: Duration,
) -> Result<MeshStream> {
    match timeout(limit, connect_unbounded(address, transport, wanted)).await {
        Ok(connected) => connected,
        Err(_) => Error::e_explain(ErrorType::ConnectTimedout, format!("connect to {address}: {limit:?}")),
    }
}

async fn connect_unbounded(address: SocketAddr, transport: &Transport, wanted: AppProtocol) -> Result<MeshStream> {
    let Transport { tls, source, mark, options } = transport;
    let mut tcp = connect_tcp(address, *source, *mark).await?;
    options.prepare(SockRef::from(&tcp)).or_err(ErrorType::SocketError, "TCP keepalive")?;
    if !options.preamble.is_empty() {
        tcp.write_all(&options.preamble).await.or_err(ErrorType::ConnectError, "PROXY protocol header")?;
    }
    let local = tcp.local_addr().or_err(ErrorType::SocketError, "local address")?;
    let mut meta = ConnMeta::new(address, local);
    let wire = Wire::new(tcp);
    match tls {
        None => MeshStream::upstream_plain(wire, wanted, meta),
        Some(tls) => {
            let (tls, facts, protocol) = connect_tls(address, tls, wire, wanted).await?;
            meta.tls = Some(facts);
            MeshStream::upstream_tls(tls, protocol, meta)
        }
    }
}

async fn connect_tcp(address: SocketAddr, source: Option<IpAddr>, mark: Option<u32>) -> Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
    .or_err(ErrorType::SocketError, "socket")?;
    if let Some(mark) = mark {
        SockRef::from(&socket).set_mark(mark).or_err(ErrorType::SocketError, "SO_MARK")?;
    }
    if let Some(source) = source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
        // The port is chosen at connect: binding one would limit a busy address to 28,000 connections in all.
        setsockopt(&socket, IpBindAddressNoPort, &true).or_err(ErrorType::SocketError, "IP_BIND_ADDRESS_NO_PORT")?;
        socket
            .bind(SocketAddr::new(source, 0))
            .or_err_with(ErrorType::BindError, || format!("source address {source}"))?;
    }
    socket.connect(address).await.map_err(|e| {
        let kind = match e.kind() {
            std::io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
            std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable => ErrorType::ConnectNoRoute,
            std::io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
            _ => ErrorType::ConnectError,
        };
        Error::because(kind, format!("connect to {address}"), e)
    })
}

async fn connect_tls(
    address: SocketAddr,
    transport: &TlsTransport,
    wire: Wire,
    wanted: AppProtocol,
) -> Result<(tokio_rustls::client::TlsStream<Wire>, TlsFacts, AppProtocol)> {
    let TlsTransport { h1, h2, server_name, h2_alpn } = transport;
    let config = match wanted {
        AppProtocol::Http1 => h1,
        AppProtocol::Http2 => h2,
    };
    let offered: Arc<[Vec<u8>]> = config.alpn_protocols.clone().into();
    let stream = TlsConnector::from(Arc::clone(config))
        .connect(server_name.clone(), wire)
        .await
        .map_err(|e| Error::because(ErrorType::TLSHandshakeFailure, format!("TLS to {address}"), e))?;
    let connection = stream.get_ref().1;
    let is_h2 =
        connection.alpn_protocol().is_some_and(|chosen| chosen == b"h2" || h2_alpn.iter().any(|alias| alias == chosen));
    let sni = match server_name {
        ServerName::DnsName(name) => Some(name.as_ref().into()),
        _ => None,
    };
    let facts = TlsFacts::of_client(connection, sni, offered)
        .map_err(|e| Error::because(ErrorType::InvalidCert, format!("certificate of {address}"), e))?;
    Ok((stream, facts, if is_h2 { AppProtocol::Http2 } else { AppProtocol::Http1 }))
}
