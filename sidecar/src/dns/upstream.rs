//! Asking the resolvers that the pod came with.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::PATIENCE;
use super::answer::{Forward, respond};

/// Longest answer over UDP that is asked for, and read; one that is longer counts as cut off.
const UDP_ANSWER_BYTES: u16 = 4096;

/// Asks one resolver after the other until one knows; all together take at most [`PATIENCE`]. Without resolvers the name does
/// not exist; if none answers: SERVFAIL.
pub(super) async fn forward(resolvers: &[SocketAddr], mark: Option<u32>, forward: &Forward, over_tcp: bool) -> Message {
    let Forward { request, chain, query, is_ours } = forward;
    let answer = if resolvers.is_empty() { None } else { ask_each(resolvers, mark, request, query, over_tcp).await };
    let code = match &answer {
        Some(answer) => answer.metadata.response_code,
        None if resolvers.is_empty() => ResponseCode::NXDomain,
        None => ResponseCode::ServFail,
    };
    let is_unknown = *is_ours && code == ResponseCode::NXDomain;
    let mut response = respond(request, if is_unknown { ResponseCode::NoError } else { code });
    let Some(answer) = answer.filter(|_| !is_unknown) else { return response };
    response.metadata.truncation = answer.metadata.truncation;
    response.metadata.authentic_data = answer.metadata.authentic_data && chain.is_empty();
    response.add_answers(chain.iter().cloned());
    response.add_answers(answer.answers);
    response.add_authorities(answer.authorities);
    response.add_additionals(answer.additionals);
    response
}

/// The first answer that is one. A resolver that fails, refuses or cannot is passed over, as libc does; what it said counts where
/// no other says more.
async fn ask_each(
    resolvers: &[SocketAddr],
    mark: Option<u32>,
    request: &Message,
    query: &Query,
    over_tcp: bool,
) -> Option<Message> {
    // An even share each, so that one dead resolver does not use up the client's patience.
    let share = PATIENCE / u32::try_from(resolvers.len()).unwrap_or(u32::MAX).max(1);
    let mut failure = None;
    for resolver in resolvers {
        match tokio::time::timeout(share, ask(*resolver, mark, request, query, over_tcp)).await {
            Ok(Ok(answer)) => match answer.metadata.response_code {
                ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp => failure = Some(answer),
                _ => return Some(answer),
            },
            Ok(Err(error)) => tracing::debug!(%resolver, %error, "resolver failed"),
            Err(_) => tracing::debug!(%resolver, "resolver gave no answer"),
        }
    }
    failure
}

async fn ask(
    resolver: SocketAddr,
    mark: Option<u32>,
    request: &Message,
    query: &Query,
    over_tcp: bool,
) -> io::Result<Message> {
    let mut question = Message::query();
    question.metadata.recursion_desired = request.metadata.recursion_desired;
    question.metadata.checking_disabled = request.metadata.checking_disabled;
    question.add_query(query.clone());
    if let Some(mut edns) = request.edns.clone() {
        // More than we would read must not come.
        edns.set_max_payload(edns.max_payload().min(UDP_ANSWER_BYTES));
        question.set_edns(edns);
    }
    let bytes = question.to_vec().map_err(io::Error::other)?;
    if over_tcp {
        ask_tcp(resolver, mark, &question, &bytes).await
    } else {
        ask_udp(resolver, mark, &question, &bytes).await
    }
}

async fn ask_udp(resolver: SocketAddr, mark: Option<u32>, question: &Message, bytes: &[u8]) -> io::Result<Message> {
    let socket = Socket::new(Domain::for_address(resolver), Type::DGRAM, Some(Protocol::UDP))?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.set_nonblocking(true)?;
    let any: SocketAddr = match resolver {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    socket.bind(&any.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    // Connected: the kernel drops what others send here.
    socket.connect(resolver).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(UDP_ANSWER_BYTES)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if length == buffer.len() && bytes.get(..2) == buffer.get(..2) {
            let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
            answer.metadata.truncation = true;
            return Ok(answer);
        }
        if let Some(answer) = buffer.get(..length).and_then(|bytes| matching(question, bytes)) {
            return Ok(answer);
        }
    }
}

async fn ask_tcp(resolver: SocketAddr, mark: Option<u32>, question: &Message, bytes: &[u8]) -> io::Result<Message> {
    let socket = match resolver {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(mark) = mark {
        socket2::SockRef::from(&socket).set_mark(mark)?;
    }
    let mut stream = socket.connect(resolver).await?;
    write_frame(&mut stream, bytes).await?;
    let frame = read_frame(&mut stream).await?;
    matching(question, &frame).ok_or_else(|| io::Error::other("the answer is to another question"))
}

/// The answer to `question`, else `None`: not even one with our id may be to another question.
fn matching(question: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let is_answer = answer.metadata.message_type == MessageType::Response && answer.metadata.id == question.metadata.id;
    (is_answer && answer.queries == question.queries).then_some(answer)
}

/// A message on a TCP connection: two bytes of length, then the message.
pub(super) async fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

pub(super) async fn write_frame(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(message.len().saturating_add(2));
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    tokio::time::timeout(WRITE_TIMEOUT, stream.write_all(&frame)).await?
}

const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
