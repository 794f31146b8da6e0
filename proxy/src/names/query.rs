//! One question to the resolvers: A and AAAA records of a name, aliases followed.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UdpSocket},
};

use super::{Found, NamesSettings};

/// For one resolver's answer, over UDP and TCP each.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer over UDP that is read.
const UDP_BUFFER_BYTES: usize = 4096;
/// Aliases followed for one question.
const MAX_ALIASES: usize = 8;
/// How long what `/etc/hosts` says is believed.
const HOSTS_LIFETIME: Duration = Duration::from_secs(30);

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidName {
    /// It is none that DNS can carry.
    #[error("it is no DNS name")]
    Malformed,
    /// There is no resolver to ask.
    #[error("no resolver is configured")]
    NoResolver,
    /// The resolvers know no address.
    #[error("the resolver says {0}")]
    Refused(ResponseCode),
    /// None of them answered.
    #[error("no resolver answers: {0}")]
    Unreachable(#[from] io::Error),
}

/// Finds a name's addresses: in the hosts file, else at the first resolver that answers.
pub(super) async fn find(settings: &NamesSettings, name: &str, has_v6: bool) -> Result<Found, InvalidName> {
    let files = settings.clone();
    let read = move || {
        let text = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
        (text(&files.hosts), text(&files.resolv_conf))
    };
    // A file that cannot be read names nothing.
    let (hosts, resolv_conf) = tokio::task::spawn_blocking(read).await.unwrap_or_default();
    let written = in_hosts(&hosts, name, has_v6);
    if !written.is_empty() {
        return Ok(Found { addresses: written, lifetime: HOSTS_LIFETIME });
    }
    let (servers, search) = parse_resolv_conf(&resolv_conf);
    // Names of ServiceEntries are whole names; only a bare one is completed.
    let candidates: Vec<String> = if name.contains('.') {
        vec![name.to_owned()]
    } else {
        search.iter().map(|domain| format!("{name}.{domain}")).chain([name.to_owned()]).collect()
    };
    let mut last = InvalidName::NoResolver;
    for candidate in candidates {
        let mut asked = Name::from_utf8(&candidate).map_err(|_| InvalidName::Malformed)?;
        asked.set_fqdn(true);
        match ask_servers(&servers, settings.socket_mark, &asked, has_v6).await {
            Ok(found) => return Ok(found),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn ask_servers(servers: &[IpAddr], mark: Option<u32>, name: &Name, has_v6: bool) -> Result<Found, InvalidName> {
    let mut last = InvalidName::NoResolver;
    for server in servers {
        let server = SocketAddr::new(*server, 53);
        let v4 = ask(server, mark, name, RecordType::A);
        let answers = if has_v6 {
            let (v4, v6) = tokio::join!(v4, ask(server, mark, name, RecordType::AAAA));
            vec![v4, v6]
        } else {
            vec![v4.await]
        };
        let mut all = Found { addresses: Vec::new(), lifetime: Duration::MAX };
        let mut is_answered = false;
        for answer in answers {
            match answer {
                Ok(message) if message.metadata.response_code == ResponseCode::NoError => {
                    let found = addresses_of(&message, name);
                    is_answered = true;
                    if !found.addresses.is_empty() {
                        all.lifetime = all.lifetime.min(found.lifetime);
                        all.addresses.extend(found.addresses);
                    }
                }
                Ok(message) => last = InvalidName::Refused(message.metadata.response_code),
                Err(error) => last = error.into(),
            }
        }
        if !all.addresses.is_empty() {
            return Ok(all);
        }
        if is_answered || matches!(last, InvalidName::Refused(ResponseCode::NXDomain)) {
            return Err(InvalidName::Refused(ResponseCode::NXDomain));
        }
    }
    Err(last)
}

/// The addresses at the end of the name's aliases; the lifetime is the shortest on the way.
fn addresses_of(message: &Message, name: &Name) -> Found {
    let mut at = name.clone();
    let mut lifetime = u32::MAX;
    for _ in 0..MAX_ALIASES {
        let alias = message.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == at => Some((target.0.clone(), record.ttl)),
            _ => None,
        });
        let Some((target, ttl)) = alias else { break };
        lifetime = lifetime.min(ttl);
        at = target;
    }
    let mut addresses = Vec::new();
    for record in message.answers.iter().filter(|record| record.name == at) {
        match &record.data {
            RData::A(address) => addresses.push(IpAddr::V4(address.0)),
            RData::AAAA(address) => addresses.push(IpAddr::V6(address.0)),
            _ => continue,
        }
        lifetime = lifetime.min(record.ttl);
    }
    Found { addresses, lifetime: Duration::from_secs(lifetime.into()) }
}

async fn ask(server: SocketAddr, mark: Option<u32>, name: &Name, kind: RecordType) -> io::Result<Message> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), kind));
    let bytes = question.to_vec().map_err(io::Error::other)?;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    let answer = tokio::time::timeout(PATIENCE, over_udp(server, mark, &question, &bytes)).await;
    let answer = answer.map_err(|_| late())??;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    tokio::time::timeout(PATIENCE, over_tcp(server, mark, &question, &bytes)).await.map_err(|_| late())?
}

async fn over_udp(server: SocketAddr, mark: Option<u32>, question: &Message, bytes: &[u8]) -> io::Result<Message> {
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM, Some(Protocol::UDP))?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.set_nonblocking(true)?;
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    socket.bind(&any.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    // Connected: the kernel drops what others send here.
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; UDP_BUFFER_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = buffer.get(..length).and_then(|bytes| answer_to(question, bytes)) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, mark: Option<u32>, question: &Message, bytes: &[u8]) -> io::Result<Message> {
    let socket = match server {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(mark) = mark {
        socket2::SockRef::from(&socket).set_mark(mark)?;
    }
    let mut stream = socket.connect(server).await?;
    stream.write_u16(u16::try_from(bytes.len()).map_err(io::Error::other)?).await?;
    stream.write_all(bytes).await?;
    let mut frame = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut frame).await?;
    answer_to(question, &frame).ok_or_else(|| io::Error::other("the answer is to another question"))
}

/// The answer to `question`; not even one with our id may be to another question.
fn answer_to(question: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let is_answer = answer.metadata.message_type == MessageType::Response && answer.metadata.id == question.metadata.id;
    (is_answer && answer.queries == question.queries).then_some(answer)
}

/// Addresses of a name in a text of `/etc/hosts`.
pub(super) fn in_hosts(text: &str, name: &str, has_v6: bool) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        if (address.is_ipv4() || has_v6) && words.any(|word| word.eq_ignore_ascii_case(name)) {
            addresses.push(address);
        }
    }
    addresses
}

/// Resolvers and search domains of a text of `/etc/resolv.conf`; lines that cannot be read are skipped, as everywhere.
pub(super) fn parse_resolv_conf(text: &str) -> (Vec<IpAddr>, Vec<String>) {
    let (mut servers, mut search) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
            Some("search" | "domain") => {
                search = words.map(|word| word.trim_end_matches('.').to_ascii_lowercase()).collect();
            }
            _ => {}
        }
    }
    (servers, search)
}
