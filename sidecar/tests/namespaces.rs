//! The redirection rules in real network namespaces: where each kind of connection ends.
//!
//! Needs root and `ip`; a program that is missing, or a right, is reported as a skip.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{getsockopt, sockopt::OriginalDst};
use nix::unistd::{Gid, Uid, gettid, setfsgid, setfsuid};
use palisade_sidecar::redirect::{
    DnsCapture, Hooked, IpFamily, PROXY_ID, ProxyOwner, Redirect, nft_script, restore_script,
};
use socket2::{Domain, Socket, Type};

const TIMEOUT: Duration = Duration::from_secs(5);
const APPLICATION_ID: u32 = 1000;

/// A thread that lives in a network namespace of its own.
struct Namespace {
    jobs: Sender<Box<dyn FnOnce() + Send>>,
    thread: i32,
}

impl Namespace {
    fn make() -> Result<Self, String> {
        let (jobs, work) = channel::<Box<dyn FnOnce() + Send>>();
        let (made, is_made) = channel();
        std::thread::spawn(move || {
            made.send(unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid().as_raw())).unwrap();
            work.into_iter().for_each(|job| job());
        });
        let thread = is_made.recv().unwrap().map_err(|error| format!("network namespaces: {error}"))?;
        Ok(Self { jobs, thread })
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        self.jobs.send(Box::new(move || done.send(work()).unwrap())).unwrap();
        result.recv().unwrap()
    }

    fn script(&self, program: &'static str, arguments: &'static [&'static str], script: String) -> Result<(), String> {
        self.run(move || {
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(|error| format!("{program}: {error}"))?;
            child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() { Ok(()) } else { Err(format!("{program}: {said}\n{script}")) }
        })
    }

    /// Answers each connection to `address` with `tag` and, where it was redirected, its original destination.
    fn answer_tcp(&self, address: &str, tag: &'static str) {
        let address: SocketAddr = address.parse().unwrap();
        let listener = self.run(move || TcpListener::bind(address).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut answer = tag.to_owned();
                if let Ok(original) = getsockopt(&stream, OriginalDst) {
                    let port = u16::from_be(original.sin_port);
                    let ip = std::net::Ipv4Addr::from(u32::from_be(original.sin_addr.s_addr));
                    let local = stream.local_addr().unwrap();
                    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
                    if SocketAddr::new(ip.into(), port) != local {
                        answer = format!("{tag} for {ip}:{port}");
                    }
                }
                let _ = stream.write_all(answer.as_bytes());
            }
        });
    }

    /// `owner`: answers as the proxy does.
    fn answer_udp(&self, address: &str, tag: &'static str, owner: Option<ProxyOwner>) {
        let address: SocketAddr = address.parse().unwrap();
        let socket = self.run(move || {
            let who = if owner.is_some() { Who::Proxy } else { Who::Root };
            let socket = socket_of(who, owner.unwrap_or(ProxyOwner::Mark(0)), address, Type::DGRAM);
            socket.bind(&address.into()).unwrap();
            UdpSocket::from(socket)
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, client)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(tag.as_bytes(), client);
            }
        });
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Application,
    Root,
    Proxy,
    /// Another user, in the proxy's group.
    ProxyGroup,
}

#[derive(Clone, Copy)]
enum Protocol {
    Tcp,
    Udp,
}

/// A socket that the kernel takes for one of `who`.
fn socket_of(who: Who, owner: ProxyOwner, address: SocketAddr, kind: Type) -> Socket {
    let (uid, gid) = match (who, owner) {
        (Who::Root, _) | (Who::Proxy, ProxyOwner::Mark(_)) => (0, 0),
        (Who::Proxy, ProxyOwner::Ids { uid, gid }) => (uid, gid),
        (Who::ProxyGroup, _) => (APPLICATION_ID, PROXY_ID),
        (Who::Application, _) => (APPLICATION_ID, APPLICATION_ID),
    };
    setfsgid(Gid::from_raw(gid));
    setfsuid(Uid::from_raw(uid));
    let socket = Socket::new(Domain::for_address(address), kind, None);
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
    let socket = socket.unwrap();
    if let (Who::Proxy, ProxyOwner::Mark(mark)) = (who, owner) {
        socket.set_mark(mark).unwrap();
    }
    socket
}

/// What answered, asked by `who` in the calling thread's namespace.
fn ask(who: Who, owner: ProxyOwner, protocol: Protocol, from: Option<&str>, to: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = socket_of(who, owner, to, kind);
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0).into()).unwrap();
    }
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut answer = String::new();
    match protocol {
        Protocol::Tcp => {
            if let Err(error) = socket.connect_timeout(&to.into(), TIMEOUT) {
                return error.kind().to_string();
            }
            let mut stream = TcpStream::from(socket);
            if let Err(error) = stream.read_to_string(&mut answer) {
                return error.kind().to_string();
            }
        }
        Protocol::Udp => {
            let socket = UdpSocket::from(socket);
            socket.connect(to).unwrap();
            socket.send(b"?").unwrap();
            let mut buffer = [0; 64];
            match socket.recv(&mut buffer) {
                Ok(length) => answer.push_str(&String::from_utf8_lossy(&buffer[..length])),
                Err(error) => return error.kind().to_string(),
            }
        }
    }
    answer
}

/// Two hosts on one wire: `peer` at 10.0.0.1, and `pod` at 10.0.0.2 with something on every port that matters.
struct Wire {
    peer: Namespace,
    pod: Namespace,
}

fn wire(owner: ProxyOwner) -> Result<Wire, String> {
    let (peer, pod) = (Namespace::make()?, Namespace::make()?);
    peer.script("ip", &["-batch", "-"], format!("link add eth0 type veth peer name eth0 netns {}\n", pod.thread))?;
    let up = |addresses: &[&str]| {
        let mut script = "link set lo up\n".to_owned();
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            script.push_str(&format!("addr add {address} dev eth0{nodad}\n"));
        }
        script + "link set eth0 up\nroute add default dev eth0\nroute add ::/0 dev eth0\n"
    };
    let peer_addresses = ["10.0.0.1/32", "10.0.0.9/32", "10.9.0.1/32", "fd00::1/128"];
    peer.script("ip", &["-batch", "-"], up(&peer_addresses))?;
    pod.script("ip", &["-batch", "-"], up(&["10.0.0.2/32", "fd00::2/128"]))?;

    for port in [8080, 3306, 80] {
        peer.answer_tcp(&format!("[::]:{port}"), "peer");
    }
    for resolver in ["10.0.0.1:53", "10.0.0.9:53"] {
        peer.answer_udp(resolver, "peer's resolver", None);
        peer.answer_tcp(resolver, "peer's resolver");
    }
    for (address, tag) in [
        ("[::]:15001", "outbound"),
        ("[::]:15006", "inbound"),
        ("[::]:8080", "application"),
        ("[::]:9090", "application"),
        ("[::]:15008", "proxy's own"),
        ("[::]:15020", "proxy's own"),
        ("[::]:15021", "proxy's own"),
        ("127.0.0.1:15053", "captured"),
    ] {
        pod.answer_tcp(address, tag);
    }
    pod.answer_udp("127.0.0.1:15053", "captured", Some(owner));
    Ok(Wire { peer, pod })
}

fn redirect(owner: ProxyOwner) -> Redirect {
    let annotations = BTreeMap::from(
        [
            ("traffic.sidecar.istio.io/excludeInboundPorts", "9090"),
            ("traffic.sidecar.istio.io/excludeOutboundPorts", "3306"),
            ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.9.0.0/16"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    let dns = DnsCapture::Servers(["10.0.0.1".parse().unwrap()].into());
    Redirect::from_annotations(&annotations, owner, Some(dns)).unwrap().unwrap()
}

/// Every path a packet may take, and who has to answer it.
fn check(wire: &Wire, owner: ProxyOwner, name: &str) {
    use Protocol::{Tcp, Udp};
    use Who::{Application, Proxy, ProxyGroup, Root};
    let from_peer = [
        ("a declared port", "10.0.0.2:8080", "inbound for 10.0.0.2:8080"),
        ("a port that nothing declares", "10.0.0.2:9999", "inbound for 10.0.0.2:9999"),
        ("an excluded port", "10.0.0.2:9090", "application"),
        ("health", "10.0.0.2:15021", "proxy's own"),
        ("metrics", "10.0.0.2:15020", "proxy's own"),
        ("HBONE", "10.0.0.2:15008", "proxy's own"),
        ("IPv6", "[fd00::2]:8080", "inbound"),
    ];
    let from_pod = [
        ("the application to the peer", Application, Tcp, None, "10.0.0.1:8080", "outbound for 10.0.0.1:8080"),
        ("root to the peer", Root, Tcp, None, "10.0.0.1:8080", "outbound for 10.0.0.1:8080"),
        ("an excluded port", Application, Tcp, None, "10.0.0.1:3306", "peer"),
        ("an excluded range", Application, Tcp, None, "10.9.0.1:80", "peer"),
        ("the application to loopback", Application, Tcp, None, "127.0.0.1:8080", "application"),
        ("the application to its own pod", Application, Tcp, None, "10.0.0.2:8080", "application"),
        ("the proxy to its own pod", Proxy, Tcp, None, "10.0.0.2:8080", "inbound for 10.0.0.2:8080"),
        ("the proxy to loopback", Proxy, Tcp, None, "127.0.0.1:8080", "application"),
        ("the inbound proxy to its application", Proxy, Tcp, Some("127.0.0.6"), "10.0.0.2:8080", "application"),
        ("the proxy to the peer", Proxy, Tcp, None, "10.0.0.1:8080", "peer"),
        ("the proxy's group to the peer", ProxyGroup, Tcp, None, "10.0.0.1:8080", "peer"),
        ("a query", Application, Udp, None, "10.0.0.1:53", "captured"),
        ("a query over TCP", Application, Tcp, None, "10.0.0.1:53", "captured for 10.0.0.1:53"),
        ("the proxy's own query", Proxy, Udp, None, "10.0.0.1:53", "peer's resolver"),
        ("the proxy's own query over TCP", Proxy, Tcp, None, "10.0.0.1:53", "peer's resolver"),
        ("a query to another resolver", Application, Udp, None, "10.0.0.9:53", "peer's resolver"),
        ("the same over TCP", Application, Tcp, None, "10.0.0.9:53", "outbound for 10.0.0.9:53"),
        ("IPv6 to the peer", Application, Tcp, None, "[fd00::1]:8080", "outbound"),
        ("IPv6 to loopback", Application, Tcp, None, "[::1]:8080", "application"),
        ("IPv6, the proxy to the peer", Proxy, Tcp, None, "[fd00::1]:8080", "peer"),
        ("IPv6, the proxy to its own pod", Proxy, Tcp, None, "[fd00::2]:8080", "inbound"),
    ];
    for (what, to, expected) in from_peer {
        let actual = wire.peer.run(move || ask(Application, owner, Tcp, None, to));
        assert_eq!(actual, expected, "{name}: the peer to {what}, {to}");
    }
    for (what, who, protocol, from, to, expected) in from_pod {
        if who == ProxyGroup && matches!(owner, ProxyOwner::Mark(_)) {
            continue;
        }
        let actual = wire.pod.run(move || ask(who, owner, protocol, from, to));
        assert_eq!(actual, expected, "{name}: {what}, {to}");
    }
}

fn is_skipped(reason: &str) -> bool {
    eprintln!("skipped: {reason}");
    true
}

#[test]
fn every_connection_ends_where_istio_ends_it() {
    if !Uid::effective().is_root() {
        is_skipped("not root");
        return;
    }
    for owner in [ProxyOwner::Ids { uid: PROXY_ID, gid: PROXY_ID }, ProxyOwner::Mark(PROXY_ID)] {
        for program in ["nft", "iptables"] {
            let wire = match wire(owner) {
                Ok(wire) => wire,
                Err(reason) => {
                    is_skipped(&reason);
                    return;
                }
            };
            let rules = redirect(owner);
            // Twice: the second time changes nothing.
            let mut hooked = Hooked::default();
            let mut load = || {
                if program == "nft" {
                    return wire.pod.script("nft", &["-f", "-"], nft_script(&rules));
                }
                let v4 = restore_script(&rules, IpFamily::V4, hooked);
                let v6 = restore_script(&rules, IpFamily::V6, hooked);
                hooked = Hooked { nat: true, raw: true };
                wire.pod
                    .script("iptables-restore", &["--noflush"], v4)
                    .and_then(|()| wire.pod.script("ip6tables-restore", &["--noflush"], v6))
            };
            match load().and_then(|()| load()) {
                Err(reason) if reason.contains("No such file") => {
                    is_skipped(&reason);
                    continue;
                }
                loaded => loaded.unwrap(),
            }
            check(&wire, owner, &format!("{program}, {owner:?}"));
        }
    }
}
