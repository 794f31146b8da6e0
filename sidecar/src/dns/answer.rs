//! From one query to one answer, without sockets.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::{Answer, Names, PATIENCE, TTL};

/// Longest answer over UDP that is never fragmented, and what we say we take (DNS flag day 2020).
pub(super) const UDP_PAYLOAD_BYTES: u16 = 1232;

/// Longest answer over UDP to a client that says nothing (RFC 1035 4.2.1).
const PLAIN_PAYLOAD_BYTES: u16 = 512;

/// Aliases followed for one query; a longer chain is a loop.
const ALIAS_LIMIT: usize = 8;

/// What to do with a packet.
#[derive(Debug)]
pub(super) enum Handled {
    /// Not a query: no answer, since answering answers makes loops.
    Nothing,
    /// Ours to answer.
    Response(Box<Message>),
    /// Ask the resolvers the client's own question; `alias` are records to put before their answer, whose question is
    /// then another name than the client's.
    Forward(Box<Forward>),
}

#[derive(Debug)]
pub(super) struct Forward {
    pub(super) request: Message,
    /// The name to ask for, and the chain of aliases that led there. Empty: the client's name itself.
    pub(super) chain: Vec<Record>,
    pub(super) query: Query,
}

/// Reads one packet and finds its answer. `turn` says which of several addresses goes first.
pub(super) async fn handle<N: Names>(names: &N, search: &[String], packet: &[u8], turn: usize) -> Handled {
    let request = match Message::from_vec(packet) {
        Ok(request) => request,
        Err(_) => return unreadable(packet),
    };
    if request.metadata.message_type != MessageType::Query {
        return Handled::Nothing;
    }
    if request.metadata.op_code != OpCode::Query {
        return refuse(&request, ResponseCode::NotImp);
    }
    let [query] = request.queries.as_slice() else {
        return refuse(&request, ResponseCode::FormErr);
    };
    if query.query_class() != DNSClass::IN {
        return refuse(&request, ResponseCode::Refused);
    }
    let query = query.clone();
    match tokio::time::timeout(PATIENCE, find(names, search, &query)).await {
        Err(_) | Ok(Found::Unavailable) => refuse(&request, ResponseCode::ServFail),
        Ok(Found::Elsewhere { chain, name }) => {
            let mut asked = query.clone();
            asked.set_name(name);
            Handled::Forward(Box::new(Forward { request, chain, query: asked }))
        }
        Ok(Found::Here { mut chain, name, addresses }) => {
            chain.extend(records(&name, query.query_type(), addresses, turn));
            let mut message = respond(&request, ResponseCode::NoError);
            message.metadata.authoritative = true;
            message.add_answers(chain);
            Handled::Response(Box::new(message))
        }
    }
}

enum Found {
    /// `name` owns the addresses; `chain` leads from the queried name to it.
    Here {
        chain: Vec<Record>,
        name: Name,
        addresses: Vec<IpAddr>,
    },
    Elsewhere {
        chain: Vec<Record>,
        name: Name,
    },
    Unavailable,
}

async fn find<N: Names>(names: &N, search: &[String], query: &Query) -> Found {
    let queried = query.name();
    let mut chain = Vec::new();
    let mut owner = queried.clone();
    let mut answer = match spelled(queried) {
        Some(name) => complete(names, search, &name).await,
        None => Completed::Answer(Answer::Unknown),
    };
    for _ in 0..ALIAS_LIMIT {
        let target = match answer {
            Completed::Answer(Answer::Addresses(addresses)) => return Found::Here { chain, name: owner, addresses },
            Completed::Answer(Answer::Unknown) => return Found::Elsewhere { chain, name: owner },
            Completed::Answer(Answer::Unavailable) => return Found::Unavailable,
            Completed::Answer(Answer::Alias(target)) => target,
            Completed::Stripped(name) => name,
        };
        let Ok(mut target_name) = Name::from_ascii(&target) else { return Found::Unavailable };
        target_name.set_fqdn(true);
        chain.push(Record::from_rdata(owner, ttl(), RData::CNAME(CNAME(target_name.clone()))));
        owner = target_name;
        answer = Completed::Answer(names.resolve(target.trim_end_matches('.')).await);
    }
    Found::Unavailable
}

enum Completed {
    Answer(Answer),
    /// The client has added a search domain to a name that is known without it.
    Stripped(String),
}

/// Looks for the name itself, then completed with each search domain, then without one.
async fn complete<N: Names>(names: &N, search: &[String], name: &str) -> Completed {
    match names.resolve(name).await {
        Answer::Unknown => {}
        known => return Completed::Answer(known),
    }
    // `reviews`, `reviews.default` and `reviews.default.svc`, from clients that do not complete names themselves.
    if name.split('.').count() <= 3 {
        for domain in search {
            match names.resolve(&format!("{name}.{domain}")).await {
                Answer::Unknown => {}
                known => return Completed::Answer(known),
            }
        }
    }
    for domain in search {
        let Some(stripped) = name.strip_suffix(domain.as_str()).and_then(|name| name.strip_suffix('.')) else {
            continue;
        };
        match names.resolve(stripped).await {
            Answer::Unknown => {}
            Answer::Unavailable => return Completed::Answer(Answer::Unavailable),
            Answer::Addresses(_) | Answer::Alias(_) => return Completed::Stripped(stripped.to_owned()),
        }
    }
    Completed::Answer(Answer::Unknown)
}

/// The name as the mesh spells names; `None` for one with bytes that no host name has.
fn spelled(name: &Name) -> Option<String> {
    let mut spelled = String::new();
    for label in name.iter() {
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)) {
            return None;
        }
        if !spelled.is_empty() {
            spelled.push('.');
        }
        spelled.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    (!spelled.is_empty()).then_some(spelled)
}

fn records(name: &Name, record_type: RecordType, mut addresses: Vec<IpAddr>, turn: usize) -> Vec<Record> {
    addresses.retain(|address| match record_type {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    });
    if !addresses.is_empty() {
        let first = turn % addresses.len();
        addresses.rotate_left(first);
    }
    let record = |address| {
        let data = match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        Record::from_rdata(name.clone(), ttl(), data)
    };
    addresses.into_iter().map(record).collect()
}

fn ttl() -> u32 {
    u32::try_from(TTL.as_secs()).unwrap_or(u32::MAX)
}

/// An empty answer with the request's id and question.
pub(super) fn respond(request: &Message, code: ResponseCode) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata = Metadata::response_from_request(&request.metadata);
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD_BYTES);
        response.set_edns(edns);
    }
    response
}

fn refuse(request: &Message, code: ResponseCode) -> Handled {
    Handled::Response(Box::new(respond(request, code)))
}

/// A query whose header can be read gets FORMERR under its id; anything less gets nothing.
fn unreadable(packet: &[u8]) -> Handled {
    let [first, second, flags, ..] = *packet else { return Handled::Nothing };
    let is_response = flags & 0x80 != 0;
    if packet.len() < 12 || is_response {
        return Handled::Nothing;
    }
    let id = u16::from_be_bytes([first, second]);
    Handled::Response(Box::new(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)))
}

/// The most bytes that the client takes over UDP.
pub(super) fn udp_limit(request: &Message) -> u16 {
    let offered = request.edns.as_ref().map_or(PLAIN_PAYLOAD_BYTES, Edns::max_payload);
    offered.clamp(PLAIN_PAYLOAD_BYTES, UDP_PAYLOAD_BYTES)
}

/// The message as bytes, at most `limit`: what does not fit is replaced by the sign to ask again over TCP.
pub(super) fn encode(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= usize::from(limit) {
        return Some(bytes);
    }
    message.truncate().to_vec().ok().filter(|bytes| bytes.len() <= usize::from(limit))
}
