//! Socket options and facts: binding, keep-alive, original destination, reset.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::listener::ListenerOptions;

/// Binds and listens. `[::]` takes IPv4 too unless `v6_only` is set.
///
/// # Errors
/// Those of the operating system.
pub(super) fn bind(address: SocketAddr, options: &ListenerOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(options.v6_only)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

/// Sets what every connection gets: no delay, and keep-alive where asked for.
///
/// # Errors
/// Those of the operating system; a client that has gone already gives one.
pub(super) fn prepare(stream: &TcpStream, keepalive: Option<Duration>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(idle) = keepalive {
        let probes = TcpKeepalive::new().with_time(idle).with_interval(idle / 4).with_retries(4);
        SockRef::from(stream).set_tcp_keepalive(&probes)?;
    }
    Ok(())
}

/// Where a redirected connection was going, before REDIRECT rewrote it. `None`: it was not redirected.
///
/// The kernel answers for connections that it tracks; without redirection it names the local address, which is no
/// original destination and is returned as `None`.
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let socket = SockRef::from(stream);
    let is_v4 = local.is_ipv4() || matches!(local, SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some());
    let original = if is_v4 { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let original = canonical(original.ok()?.as_socket()?);
    (original != canonical(local)).then_some(original)
}

/// An IPv4 address that a dual-stack socket reports as `::ffff:a.b.c.d`, as IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Ends a connection with RST, as a connection that finds no filter chain ends in Envoy.
pub fn reset(stream: TcpStream) {
    // A zero linger makes close() send RST. Failing means that the peer has gone, which is as good.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

/// A socket to dial `destination` from `source`. The port is chosen at connect time, so that a fixed source address
/// (127.0.0.6) does not run out of ports.
///
/// # Errors
/// Those of the operating system.
pub(super) fn dialling_socket(
    destination: SocketAddr,
    source: Option<std::net::IpAddr>,
    mark: Option<u32>,
) -> io::Result<TcpSocket> {
    let socket = if destination.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(mark) = mark {
        SockRef::from(&socket).set_mark(mark)?;
    }
    if let Some(source) = source {
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.set_nodelay(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
