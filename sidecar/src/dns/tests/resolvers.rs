//! What is asked of resolvers, and what becomes of their answers: resolvers on loopback that do what they are told.

use std::sync::Mutex;

use super::*;

/// What a resolver does with a question.
#[derive(Clone, Copy)]
enum Behaviour {
    Answers(ResponseCode),
    Silent,
    /// First an answer under another id, then one to another question, then the right one.
    Lies,
    /// More bytes than anybody asked for.
    Floods,
}

struct Resolver {
    address: SocketAddr,
    /// Identifier and source port of each question.
    seen: Arc<Mutex<Vec<(u16, u16)>>>,
}

async fn resolver(behaviour: Behaviour) -> Resolver {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&seen);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            noted.lock().unwrap().push((question.metadata.id, client.port()));
            let mut right = question.clone().into_response();
            let name = question.queries[0].name().clone();
            let code = match behaviour {
                Behaviour::Silent => continue,
                Behaviour::Answers(code) => code,
                Behaviour::Lies | Behaviour::Floods => ResponseCode::NoError,
            };
            right.metadata.response_code = code;
            if code == ResponseCode::NoError {
                let data = match question.queries[0].query_type() {
                    RecordType::MX => RData::MX(MX::new(10, name.clone())),
                    RecordType::SRV => RData::SRV(SRV::new(0, 0, 9080, name.clone())),
                    _ => RData::A("192.0.2.1".parse::<Ipv4Addr>().unwrap().into()),
                };
                right.add_answer(Record::from_rdata(name.clone(), 60, data));
            }
            if let Behaviour::Lies = behaviour {
                let mut other = right.clone();
                other.metadata.id = other.metadata.id.wrapping_add(1);
                other.answers[0].data = RData::A("203.0.113.1".parse::<Ipv4Addr>().unwrap().into());
                socket.send_to(&other.to_vec().unwrap(), client).await.unwrap();
                other.metadata.id = right.metadata.id;
                other.queries[0].set_name(Name::from_ascii("other.example.").unwrap());
                socket.send_to(&other.to_vec().unwrap(), client).await.unwrap();
                socket.send_to(b"\0\0", client).await.unwrap();
            }
            if let Behaviour::Floods = behaviour {
                let record = right.answers[0].clone();
                right.answers = vec![record; 2000];
            }
            socket.send_to(&right.to_vec().unwrap(), client).await.unwrap();
        }
    });
    Resolver { address, seen }
}

#[tokio::test]
async fn a_resolver_that_fails_or_says_nothing_is_passed_over() {
    let good = resolver(Behaviour::Answers(ResponseCode::NoError)).await;
    let other =
        [Behaviour::Answers(ResponseCode::ServFail), Behaviour::Answers(ResponseCode::Refused), Behaviour::Silent];
    for behaviour in other {
        let bad = resolver(behaviour).await;
        let server = server(vec![bad.address, good.address]).await;
        let response = ask_udp(server, &query("www.example.org.", RecordType::A)).await;
        assert_eq!(addresses(&response), [address("192.0.2.1")]);
        assert_eq!(bad.seen.lock().unwrap().len(), 1);
    }
    // That a name does not exist is an answer.
    let no = resolver(Behaviour::Answers(ResponseCode::NXDomain)).await;
    let response =
        ask_udp(server(vec![no.address, good.address]).await, &query("www.example.org.", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn what_the_last_resolver_said_counts_where_none_knows() {
    let refusing = resolver(Behaviour::Answers(ResponseCode::Refused)).await;
    let server_of_one = server(vec![refusing.address]).await;
    let response = ask_udp(server_of_one, &query("www.example.org.", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::Refused);
    // A port that nobody listens on.
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let response = ask_udp(server(vec![closed]).await, &query("www.example.org.", RecordType::A)).await;
    assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn an_answer_to_another_question_is_not_taken() {
    let lying = resolver(Behaviour::Lies).await;
    let response = ask_udp(server(vec![lying.address]).await, &query("www.example.org.", RecordType::A)).await;
    assert_eq!(addresses(&response), [address("192.0.2.1")]);
}

#[tokio::test]
async fn an_answer_longer_than_anybody_asked_for_is_cut_off() {
    let flooding = resolver(Behaviour::Floods).await;
    let response = ask_udp(server(vec![flooding.address]).await, &query("www.example.org.", RecordType::A)).await;
    assert!(response.metadata.truncation && response.answers.is_empty());
}

#[tokio::test]
async fn nobody_can_guess_the_next_question() {
    let good = resolver(Behaviour::Answers(ResponseCode::NoError)).await;
    let server = server(vec![good.address]).await;
    for _ in 0..32 {
        let mut question = query("www.example.org.", RecordType::A);
        question.metadata.id = 7;
        assert_eq!(ask_udp(server, &question).await.metadata.id, 7);
    }
    let seen = good.seen.lock().unwrap().clone();
    let distinct = |values: Vec<u16>| values.into_iter().collect::<std::collections::BTreeSet<_>>();
    let ids = distinct(seen.iter().map(|(id, _)| *id).collect());
    let ports = distinct(seen.iter().map(|(_, port)| *port).collect());
    assert!(ids.len() > 24 && ports.len() > 24, "{seen:?}");
    let steps = seen.windows(2).filter(|pair| pair[0].0.wrapping_add(1) == pair[1].0).count();
    assert!(steps < 3, "identifiers count up: {seen:?}");
}

#[tokio::test]
async fn other_records_of_a_mesh_name_are_the_resolvers_to_give() {
    let good = resolver(Behaviour::Answers(ResponseCode::NoError)).await;
    let with = server(vec![good.address]).await;
    for record_type in [RecordType::MX, RecordType::SRV] {
        let response = ask_udp(with, &query("api.example.com.", record_type)).await;
        assert_eq!(response.answers[0].record_type(), record_type);
    }
    // The name exists all the same where they do not know it, and where there are none.
    let no = resolver(Behaviour::Answers(ResponseCode::NXDomain)).await;
    for resolvers in [vec![no.address], Vec::new()] {
        let response = ask_udp(server(resolvers).await, &query("api.example.com.", RecordType::MX)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::NoError);
        assert!(response.answers.is_empty());
    }
}

#[tokio::test]
async fn an_alias_that_leads_out_of_the_mesh_is_followed_there() {
    let good = resolver(Behaviour::Answers(ResponseCode::NoError)).await;
    let response = ask_udp(server(vec![good.address]).await, &query("www.outside.org.", RecordType::A)).await;
    assert!(matches!(&response.answers[0].data, RData::CNAME(name) if name.to_string() == "elsewhere.example.org."));
    assert_eq!(addresses(&response), [address("192.0.2.1")]);
}

#[tokio::test]
async fn names_of_the_mesh_are_answered_while_the_resolvers_are_dead() {
    let dead = resolver(Behaviour::Silent).await;
    let server = server(vec![dead.address]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // More than may wait at a time.
    for id in 0..2000 {
        let mut question = query("www.example.org.", RecordType::A);
        question.metadata.id = id;
        socket.send_to(&question.to_vec().unwrap(), server).await.unwrap();
        if id % 100 == 0 {
            // Nothing waits behind them.
            let response = ask_udp(server, &query("reviews.", RecordType::A)).await;
            assert_eq!(addresses(&response), [address("10.96.0.1")]);
        }
    }
    assert!(dead.seen.lock().unwrap().len() <= 1024);
}
