//! From one query to one answer, without sockets.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::search::{Sought, seek};
use super::{Names, PATIENCE, TTL};

/// What we say we take over UDP (DNS flag day 2020).
const UDP_PAYLOAD_BYTES: u16 = 1232;

/// Longest answer over UDP to a client that says nothing (RFC 1035 4.2.1).
const PLAIN_PAYLOAD_BYTES: u16 = 512;

/// Longest answer over UDP to a client that takes more: it comes from the same host, where nothing is fragmented.
const LONGEST_PAYLOAD_BYTES: u16 = 4096;

/// What to do with a packet.
#[derive(Debug)]
pub(super) enum Handled {
    /// Not a query: no answer, since answering answers makes loops.
    Nothing,
    /// Ours to answer.
    Response(Box<Response>),
    /// Ask the resolvers.
    Forward(Box<Forward>),
}

/// An answer of ours.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) message: Message,
    /// The most bytes that the client takes over UDP.
    pub(super) udp_limit: u16,
}

/// A question for the resolvers.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) request: Message,
    /// Records to put before the resolver's answer: the aliases that led to the name that it is asked for.
    pub(super) chain: Vec<Record>,
    /// What it is asked.
    pub(super) query: Query,
    /// The mesh has the name, though no record of this type: that the resolvers do not know it is no error.
    pub(super) is_ours: bool,
}

/// Reads one packet and finds its answer.
pub(super) async fn handle<N: Names>(names: &N, search: &[String], packet: &[u8]) -> Handled {
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
    let is_transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if query.query_class() != DNSClass::IN || is_transfer {
        return refuse(&request, ResponseCode::Refused);
    }
    let query = query.clone();
    if query.query_type() == RecordType::PTR
        && let Some(name) = reversed(query.name()).and_then(|address| names.name_of(address))
        && let Ok(mut name) = Name::from_ascii(&name)
    {
        name.set_fqdn(true);
        let record = Record::from_rdata(query.name().clone(), ttl(), RData::PTR(PTR(name)));
        return authoritative(&request, vec![record]);
    }
    match tokio::time::timeout(PATIENCE, seek(names, search, query.name())).await {
        Err(_) | Ok(Sought::Unavailable) => refuse(&request, ResponseCode::ServFail),
        Ok(Sought::Elsewhere { chain, name }) => forward(request, &query, chain, name, false),
        Ok(Sought::Here { chain, name, addresses }) => match query.query_type() {
            // A service's own addresses, and not those that a record about the service in the world outside gives hints of.
            RecordType::A | RecordType::AAAA | RecordType::ANY | RecordType::HTTPS | RecordType::SVCB => {
                let found = records(&name, query.query_type(), addresses);
                // An alias of a name that has no such record: the empty answer alone says so to every client.
                let chain = if found.is_empty() { Vec::new() } else { chain };
                authoritative(&request, chain.into_iter().map(alias).chain(found).collect())
            }
            // What else there is to know about a name, such as ports and mail servers, is the resolvers' to say.
            _ => forward(request, &query, chain, name, true),
        },
    }
}

fn forward(request: Message, query: &Query, chain: Vec<(Name, Name)>, name: Name, is_ours: bool) -> Handled {
    let mut asked = query.clone();
    asked.set_name(name);
    let chain = chain.into_iter().map(alias).collect();
    Handled::Forward(Box::new(Forward { request, chain, query: asked, is_ours }))
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` asks about.
fn reversed(name: &Name) -> Option<IpAddr> {
    let network = name.parse_arpa_name().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}

fn alias((owner, target): (Name, Name)) -> Record {
    Record::from_rdata(owner, ttl(), RData::CNAME(CNAME(target)))
}

/// The addresses of the type asked for, in an order of chance: clients take the first.
fn records(name: &Name, record_type: RecordType, mut addresses: Vec<IpAddr>) -> Vec<Record> {
    addresses.retain(|address| match record_type {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    });
    if addresses.len() > 1 {
        fastrand::shuffle(&mut addresses);
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

fn authoritative(request: &Message, answers: Vec<Record>) -> Handled {
    let mut message = respond(request, ResponseCode::NoError);
    message.metadata.authoritative = true;
    message.answers = answers;
    Handled::Response(Box::new(Response { message, udp_limit: udp_limit(request) }))
}

fn refuse(request: &Message, code: ResponseCode) -> Handled {
    Handled::Response(Box::new(Response { message: respond(request, code), udp_limit: udp_limit(request) }))
}

/// A query whose header can be read gets FORMERR under its id; anything less gets nothing.
fn unreadable(packet: &[u8]) -> Handled {
    let [first, second, flags, ..] = *packet else { return Handled::Nothing };
    let is_response = flags & 0x80 != 0;
    if packet.len() < 12 || is_response {
        return Handled::Nothing;
    }
    let id = u16::from_be_bytes([first, second]);
    let message = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    Handled::Response(Box::new(Response { message, udp_limit: PLAIN_PAYLOAD_BYTES }))
}

/// The most bytes that the client takes over UDP.
pub(super) fn udp_limit(request: &Message) -> u16 {
    let offered = request.edns.as_ref().map_or(PLAIN_PAYLOAD_BYTES, Edns::max_payload);
    offered.clamp(PLAIN_PAYLOAD_BYTES, LONGEST_PAYLOAD_BYTES)
}

/// The message as bytes, at most `limit`: of answers that do not all fit there are as many as do, with the sign to ask again
/// over TCP. Clients that never do so have those.
pub(super) fn encode(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let limit = usize::from(limit);
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    let mut part = message.truncate();
    // As many as a fair share of the bytes allows, then fewer until they fit.
    let mut count = message.answers.len().saturating_mul(limit) / bytes.len().max(1);
    loop {
        part.answers = message.answers.iter().take(count).cloned().collect();
        let bytes = part.to_vec().ok()?;
        if bytes.len() <= limit {
            return Some(bytes);
        }
        count = count.checked_sub(1)?;
    }
}
