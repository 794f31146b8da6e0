//! Two hosts on one wire and a virtual machine behind one of them, each a network namespace, with something on every port that
//! matters.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{getsockopt, sockopt::OriginalDst};
use nix::unistd::{Gid, Uid, gettid, setfsgid, setfsuid};
use palisade_sidecar::redirect::{Hooked, IpFamily, PROXY_ID, ProxyOwner, Redirect, nft_script, restore_script};
use socket2::{Domain, Socket, Type};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
const APPLICATION_ID: u32 = 1000;

/// A thread that lives in a network namespace of its own.
pub(crate) struct Namespace {
    jobs: Sender<Box<dyn FnOnce() + Send>>,
    thread: i32,
}

impl Namespace {
    pub(crate) fn make() -> Result<Self, String> {
        let (jobs, work) = channel::<Box<dyn FnOnce() + Send>>();
        let (made, is_made) = channel();
        std::thread::spawn(move || {
            made.send(unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid().as_raw())).unwrap();
            work.into_iter().for_each(|job| job());
        });
        let thread = is_made.recv().unwrap().map_err(|error| format!("network namespaces: {error}"))?;
        Ok(Self { jobs, thread })
    }

    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        self.jobs.send(Box::new(move || done.send(work()).unwrap())).unwrap();
        result.recv().unwrap()
    }

    pub(crate) fn script(
        &self,
        program: &'static str,
        arguments: &'static [&'static str],
        script: String,
    ) -> Result<(), String> {
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
pub(crate) enum Who {
    Application,
    Root,
    Proxy,
    /// Another user, in the proxy's group.
    ProxyGroup,
}

#[derive(Clone, Copy)]
pub(crate) enum Protocol {
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
pub(crate) fn ask(
    who: Who,
    owner: ProxyOwner,
    protocol: Protocol,
    from: Option<&str>,
    to: &str,
    patience: Duration,
) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = socket_of(who, owner, to, kind);
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0).into()).unwrap();
    }
    socket.set_read_timeout(Some(patience)).unwrap();
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

/// `peer` at 10.0.0.1, `pod` at 10.0.0.2, and `vm` at 10.1.0.2 behind the pod's interface `k0`.
pub(crate) struct Wire {
    pub(crate) peer: Namespace,
    pub(crate) pod: Namespace,
    pub(crate) vm: Namespace,
}

/// The hosts, where `has_proxy` with the pod's sidecar on its ports.
pub(crate) fn wire(owner: ProxyOwner, has_proxy: bool) -> Result<Wire, String> {
    let (peer, pod, vm) = (Namespace::make()?, Namespace::make()?, Namespace::make()?);
    peer.script("ip", &["-batch", "-"], format!("link add eth0 type veth peer name eth0 netns {}\n", pod.thread))?;
    pod.script("ip", &["-batch", "-"], format!("link add k0 type veth peer name eth0 netns {}\n", vm.thread))?;
    let up = |addresses: &[&str]| {
        let mut script = "link set lo up\n".to_owned();
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            script.push_str(&format!("addr add {address} dev eth0{nodad}\n"));
        }
        script + "link set eth0 up\nroute add default dev eth0\nroute add ::/0 dev eth0\n"
    };
    let peer_addresses = ["10.0.0.1/32", "10.0.0.9/32", "10.9.0.1/32", "fd00::1/128", "fd09::1/128"];
    let back = "route add 10.1.0.0/24 via 10.0.0.2 dev eth0 onlink\n";
    peer.script("ip", &["-batch", "-"], up(&peer_addresses) + back)?;
    let virtual_link = "link set k0 up\naddr add 10.1.0.1/24 dev k0\n";
    pod.script("ip", &["-batch", "-"], up(&["10.0.0.2/32", "fd00::2/128"]) + virtual_link)?;
    let through_pod =
        "link set lo up\naddr add 10.1.0.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.1.0.1\n";
    vm.script("ip", &["-batch", "-"], through_pod.to_owned())?;
    pod.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).map_err(|error| format!("forwarding: {error}"))?;

    for port in [8080, 3306, 80, 443] {
        peer.answer_tcp(&format!("[::]:{port}"), "peer");
    }
    peer.answer_udp("10.0.0.1:9999", "peer", None);
    for resolver in ["10.0.0.1:53", "10.0.0.9:53", "[fd00::1]:53"] {
        peer.answer_udp(resolver, "peer's resolver", None);
        peer.answer_tcp(resolver, "peer's resolver");
    }
    for port in [8080, 9090, 53] {
        pod.answer_tcp(&format!("[::]:{port}"), "application");
    }
    pod.answer_udp("10.0.0.2:9999", "application", None);
    if has_proxy {
        for (address, tag) in [
            ("[::]:15001", "outbound"),
            ("[::]:15006", "inbound"),
            ("[::]:15008", "proxy's own"),
            ("[::]:15020", "proxy's own"),
            ("[::]:15021", "proxy's own"),
            ("[::]:15090", "proxy's own"),
            ("127.0.0.1:15053", "captured"),
            ("[::1]:15053", "captured"),
        ] {
            pod.answer_tcp(address, tag);
        }
        pod.answer_udp("127.0.0.1:15053", "captured", Some(owner));
        pod.answer_udp("[::1]:15053", "captured", Some(owner));
    }
    Ok(Wire { peer, pod, vm })
}

impl Wire {
    /// Loads rules into the pod with `nft` or `iptables`; `hooked` is what an earlier call left. `Err` = the program is not here.
    pub(crate) fn load(&self, program: &str, rules: &Redirect, hooked: &mut Hooked) -> Result<(), String> {
        let loaded = if program == "nft" {
            self.pod.script("nft", &["-f", "-"], nft_script(rules))
        } else {
            let v4 = restore_script(rules, IpFamily::V4, *hooked);
            let v6 = restore_script(rules, IpFamily::V6, *hooked);
            *hooked = Hooked { nat: true, raw: hooked.raw || rules.dns.is_some() };
            self.pod
                .script("iptables-restore", &["--noflush"], v4)
                .and_then(|()| self.pod.script("ip6tables-restore", &["--noflush"], v6))
        };
        match loaded {
            Err(reason) if reason.contains("No such file") => Err(reason),
            loaded => {
                loaded.unwrap();
                Ok(())
            }
        }
    }
}
