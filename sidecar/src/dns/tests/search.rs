//! Names as clients complete them: each row is what Istio's DNS proxy answers to the same question.

use super::*;

/// What a row expects.
enum Expected {
    /// Addresses under the queried name.
    Own(&'static [&'static str]),
    /// An alias to this name, then the addresses under it.
    Alias(&'static str, &'static [&'static str]),
    /// No answer, no error.
    Empty,
    /// The resolvers are asked for the queried name.
    Elsewhere,
}

use Expected::{Alias, Elsewhere, Empty, Own};

#[tokio::test]
async fn names_mean_what_istio_takes_them_for() {
    const V4: RecordType = RecordType::A;
    const V6: RecordType = RecordType::AAAA;
    let rows: &[(&str, RecordType, Expected)] = &[
        ("api.example.com.", V4, Own(&["240.240.0.1"])),
        ("api.example.com.default.svc.cluster.local.", V4, Alias("api.example.com.", &["240.240.0.1"])),
        ("api.example.com.svc.cluster.local.", V4, Alias("api.example.com.", &["240.240.0.1"])),
        ("api.example.com.default.svc.cluster.local.", V6, Empty),
        ("www.example.org.", V4, Elsewhere),
        ("www.example.org.default.svc.cluster.local.", V4, Elsewhere),
        ("reviews.default.svc.cluster.local.", V4, Own(&["10.96.0.1"])),
        ("reviews.default.svc.cluster.local.default.svc.cluster.local.", V4, Elsewhere),
        ("reviews.", V4, Own(&["10.96.0.1"])),
        ("reviews.default.", V4, Own(&["10.96.0.1"])),
        ("reviews.default.svc.", V4, Own(&["10.96.0.1"])),
        ("reviews.default.default.svc.cluster.local.", V4, Alias("reviews.default.", &["10.96.0.1"])),
        ("reviews.default.default.svc.cluster.local.", V6, Empty),
        ("example.ns2.", V4, Own(&["10.96.0.2"])),
        ("example.ns2.svc.", V4, Own(&["10.96.0.2"])),
        ("example.ns2.svc.cluster.local.", V4, Own(&["10.96.0.2"])),
        ("example.ns2.default.svc.cluster.local.", V4, Alias("example.ns2.", &["10.96.0.2"])),
        ("example.", V4, Elsewhere),
        ("db-0.db.data.svc.", V4, Own(&["10.0.0.1"])),
        ("db-0.db.data.svc.cluster.local.", V4, Own(&["10.0.0.1"])),
        ("db-7.db.data.svc.cluster.local.", V4, Elsewhere),
        ("db.data.svc.cluster.local.", V6, Own(&["fd00::1"])),
        ("a.wild.example.com.", V4, Own(&["240.240.0.2"])),
        ("wild.example.com.", V4, Elsewhere),
        ("a.wild.example.com.default.svc.cluster.local.", V4, Alias("a.wild.example.com.", &["240.240.0.2"])),
    ];
    for (name, record_type, expected) in rows {
        let message = query(name, *record_type);
        let handled = handle(&table(), &search(), &message.to_vec().unwrap()).await;
        let response = match (handled, expected) {
            (Handled::Forward(forward), Elsewhere) => {
                assert_eq!(forward.query, message.queries[0], "{name}");
                assert!(forward.chain.is_empty(), "{name}");
                continue;
            }
            (Handled::Response(response), Own(_) | Alias(..) | Empty) => response.message,
            (handled, _) => panic!("{name} {record_type}: {handled:?}"),
        };
        assert_eq!(response.metadata.response_code, ResponseCode::NoError, "{name}");
        let owners: Vec<String> = response.answers.iter().map(|record| record.name.to_ascii()).collect();
        let (alias, expected): (Option<&str>, &[&str]) = match expected {
            Own(expected) => (None, expected),
            Alias(target, expected) => (Some(target), expected),
            Empty | Elsewhere => (None, &[]),
        };
        let chain = alias.map(|_| name.to_string()).into_iter();
        let owned = expected.iter().map(|_| alias.unwrap_or(name).to_string());
        assert_eq!(owners, chain.chain(owned).collect::<Vec<_>>(), "{name}");
        assert_eq!(addresses(&response), expected.iter().map(|text| address(text)).collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test]
async fn the_spelling_of_a_question_is_kept() {
    let response = answer(&query("rEvIeWs.DEFAULT.svc.cluster.local.", RecordType::A)).await;
    assert!(response.queries[0].name().eq_case(&Name::from_ascii("rEvIeWs.DEFAULT.svc.cluster.local.").unwrap()));
    assert!(response.answers[0].name.eq_case(response.queries[0].name()));
}

#[tokio::test]
async fn an_address_that_only_the_mesh_knows_has_its_name() {
    let response = answer(&query("1.0.240.240.in-addr.arpa.", RecordType::PTR)).await;
    assert!(matches!(&response.answers[0].data, RData::PTR(name) if name.to_string() == "api.example.com."));
    let six = format!("{}0.0.d.f.ip6.arpa.", "1.".to_owned() + &"0.".repeat(27));
    let response = answer(&query(&six, RecordType::PTR)).await;
    assert!(matches!(&response.answers[0].data, RData::PTR(name) if name.to_string() == "db.data.svc.cluster.local."));
    for other in ["9.9.9.9.in-addr.arpa.", "9.in-addr.arpa.", "api.example.org."] {
        let message = query(other, RecordType::PTR);
        let handled = handle(&table(), &search(), &message.to_vec().unwrap()).await;
        assert!(matches!(handled, Handled::Forward(_)), "{other}: {handled:?}");
    }
}
