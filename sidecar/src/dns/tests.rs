//! The server over real loopback sockets, and packets that no client should send.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{MX, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::{TcpStream, UdpSocket};

use super::answer::{Handled, handle};
use super::upstream::{read_frame, write_frame};
use super::*;

mod resolvers;
mod search;

#[derive(Default)]
struct Table {
    names: BTreeMap<&'static str, Answer>,
}

impl Names for Table {
    async fn resolve(&self, name: &str) -> Answer {
        if name == "never.example" {
            return std::future::pending().await;
        }
        let below = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let found = self.names.get(name).or_else(|| self.names.get(below?.as_str()));
        found.cloned().unwrap_or(Answer::Unknown)
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        let has = |answer: &Answer| matches!(answer, Answer::Addresses(all) if all.contains(&address));
        self.names.iter().find(|(_, answer)| has(answer)).map(|(name, _)| (*name).to_owned())
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn table() -> Table {
    let addresses = |list: &[&str]| Answer::Addresses(list.iter().map(|text| address(text)).collect());
    Table {
        names: BTreeMap::from([
            ("reviews.default.svc.cluster.local", addresses(&["10.96.0.1"])),
            ("db.data.svc.cluster.local", addresses(&["10.0.0.1", "10.0.0.2", "fd00::1"])),
            (
                "big.data.svc.cluster.local",
                Answer::Addresses((1..=150).map(|n| Ipv4Addr::new(10, 0, 1, n).into()).collect()),
            ),
            ("out.default.svc.cluster.local", Answer::Alias("db.data.svc.cluster.local".to_owned())),
            ("loop.default.svc.cluster.local", Answer::Alias("loop.default.svc.cluster.local".to_owned())),
            ("api.example.com", addresses(&["240.240.0.1"])),
            ("early.example.com", Answer::Unavailable),
            ("example.ns2.svc.cluster.local", addresses(&["10.96.0.2"])),
            ("db-0.db.data.svc.cluster.local", addresses(&["10.0.0.1"])),
            ("*.wild.example.com", addresses(&["240.240.0.2"])),
            ("www.outside.org", Answer::Alias("elsewhere.example.org".to_owned())),
        ]),
    }
}

fn search() -> Vec<String> {
    ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"].map(str::to_owned).to_vec()
}

fn query(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message
}

async fn answer(message: &Message) -> Message {
    match handle(&table(), &search(), &message.to_vec().unwrap()).await {
        Handled::Response(response) => response.message,
        other => panic!("no answer of ours: {other:?}"),
    }
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

async fn server(resolvers: Vec<SocketAddr>) -> SocketAddr {
    let settings =
        DnsSettings { listen: vec!["127.0.0.1:0".parse().unwrap()], search: search(), resolvers, socket_mark: None };
    let server = DnsServer::bind(settings, table()).await.unwrap();
    let address = server.addresses().unwrap()[0];
    tokio::spawn(server.serve(std::future::pending()));
    address
}

async fn ask_udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&message.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 4096];
    let length = tokio::time::timeout(PATIENCE * 3, socket.recv(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn ask_tcp(server: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    write_frame(&mut stream, &message.to_vec().unwrap()).await.unwrap();
    Message::from_vec(&read_frame(&mut stream).await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_service_is_answered_with_its_addresses_for_thirty_seconds() {
    let response = answer(&query("Reviews.default.svc.cluster.LOCAL.", RecordType::A)).await;
    assert_eq!(addresses(&response), [address("10.96.0.1")]);
    assert_eq!(response.answers[0].ttl, 30);
    assert!(response.metadata.authoritative && response.metadata.recursion_available);
}

#[tokio::test]
async fn short_names_are_completed() {
    for name in ["reviews", "reviews.default", "reviews.default.svc"] {
        assert_eq!(addresses(&answer(&query(name, RecordType::A)).await), [address("10.96.0.1")], "{name}");
    }
}

#[tokio::test]
async fn a_needless_search_domain_is_an_alias() {
    let response = answer(&query("api.example.com.default.svc.cluster.local.", RecordType::A)).await;
    assert!(matches!(response.answers[0].data, RData::CNAME(_)));
    assert_eq!(addresses(&response), [address("240.240.0.1")]);
}

#[tokio::test]
async fn a_known_name_without_the_type_is_empty_and_no_error() {
    for record_type in [RecordType::AAAA, RecordType::HTTPS, RecordType::SVCB] {
        let response = answer(&query("reviews.default.svc.cluster.local.", record_type)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::NoError);
        assert!(response.answers.is_empty());
    }
}

#[tokio::test]
async fn families_are_kept_apart() {
    let response = answer(&query("db.data.svc.cluster.local.", RecordType::AAAA)).await;
    assert_eq!(addresses(&response), [address("fd00::1")]);
}

#[tokio::test]
async fn aliases_are_followed_and_loops_fail() {
    let response = answer(&query("out.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(addresses(&response).len(), 2);
    let response = answer(&query("loop.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn before_the_first_table_the_answer_is_servfail() {
    let response = answer(&query("early.example.com.", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_servfail() {
    let response = answer(&query("never.example.", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn without_resolvers_an_unknown_name_does_not_exist() {
    let response = ask_udp(server(Vec::new()).await, &query("www.example.org.", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn an_unknown_name_is_asked_of_the_resolver() {
    // The resolver is a second server of ours, which knows another table.
    let settings = DnsSettings {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        search: Vec::new(),
        resolvers: Vec::new(),
        socket_mark: None,
    };
    let names = Table { names: BTreeMap::from([("www.example.org", Answer::Addresses(vec![address("192.0.2.1")]))]) };
    let resolver = DnsServer::bind(settings, names).await.unwrap();
    let resolver_address = resolver.addresses().unwrap()[0];
    tokio::spawn(resolver.serve(std::future::pending()));

    let server = server(vec![resolver_address]).await;
    for response in [
        ask_udp(server, &query("www.example.org.", RecordType::A)).await,
        ask_tcp(server, &query("www.example.org.", RecordType::A)).await,
    ] {
        assert_eq!(addresses(&response), [address("192.0.2.1")]);
    }
    let response = ask_udp(server, &query("no.example.org.", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_long_answer_is_truncated_over_udp_and_whole_over_tcp() {
    let server = server(Vec::new()).await;
    let message = query("big.data.svc.cluster.local.", RecordType::A);
    let short = ask_udp(server, &message).await;
    assert!(short.metadata.truncation && short.answers.len() > 15, "as many as fit: {}", short.answers.len());
    assert!(short.to_vec().unwrap().len() <= 512);
    let mut longer = message.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    longer.set_edns(edns);
    let whole = ask_udp(server, &longer).await;
    assert!(!whole.metadata.truncation && whole.answers.len() == 150);
    let whole = ask_tcp(server, &message).await;
    assert!(!whole.metadata.truncation && whole.answers.len() == 150);
}

#[tokio::test]
async fn no_address_is_always_the_first() {
    let message = query("db.data.svc.cluster.local.", RecordType::A);
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..64 {
        first.insert(addresses(&answer(&message).await)[0]);
    }
    assert_eq!(first.len(), 2);
}

#[tokio::test]
async fn what_is_not_one_plain_question_is_refused() {
    let mut two = query("reviews.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("details.").unwrap(), RecordType::A));
    assert_eq!(answer(&two).await.metadata.response_code, ResponseCode::FormErr);
    let mut update = query("reviews.", RecordType::A);
    update.metadata.op_code = OpCode::Status;
    assert_eq!(answer(&update).await.metadata.response_code, ResponseCode::NotImp);
    for transfer in [RecordType::AXFR, RecordType::IXFR] {
        let response = answer(&query("reviews.", transfer)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::Refused);
    }
}

#[tokio::test]
async fn answers_are_never_answered() {
    let response = answer(&query("reviews.", RecordType::A)).await;
    let packet = response.to_vec().unwrap();
    assert!(matches!(handle(&table(), &search(), &packet).await, Handled::Nothing));
}

#[tokio::test]
async fn no_packet_panics() {
    let mut edns = query("reviews.default.svc.cluster.local.", RecordType::A);
    edns.set_edns(Edns::new());
    let valid = edns.to_vec().unwrap();
    for length in 0..valid.len() {
        handle(&table(), &search(), &valid[..length]).await;
    }
    // xorshift: the same packets every time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let mut packet = valid.clone();
        for _ in 0..=next() % 6 {
            let place = usize::try_from(next()).unwrap() % packet.len();
            packet[place] = u8::try_from(next() & 0xff).unwrap();
        }
        handle(&table(), &search(), &packet).await;
        let random: Vec<u8> = (0..next() % 64).map(|_| u8::try_from(next() & 0xff).unwrap()).collect();
        handle(&table(), &search(), &random).await;
    }
    // A name that points at itself.
    let mut pointer = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    pointer.extend([0xc0, 12, 0, 1, 0, 1]);
    handle(&table(), &search(), &pointer).await;
}

#[test]
fn the_last_search_line_wins() {
    let parsed = ResolvConf::parse(
        "# c\nnameserver 10.96.0.10\nnameserver x\nsearch a.b\nsearch Default.svc. svc\noptions ndots:5\n",
    );
    assert_eq!(parsed.servers, [address("10.96.0.10")]);
    assert_eq!(parsed.search, ["default.svc", "svc"]);
}
