//! Claims about authorities.

use http::{Request, Version};
use proptest::prelude::*;

use super::*;

fn h1(target: &str, hosts: &[&str], version: Version) -> RequestHeader {
    let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
    request.set_version(version);
    for host in hosts {
        request.append_header("host", *host).unwrap();
    }
    request
}

fn h2(uri: &str, hosts: &[&str]) -> RequestHeader {
    let mut request = Request::builder().version(Version::HTTP_2).uri(uri);
    for host in hosts {
        request = request.header("host", *host);
    }
    RequestHeader::from(request.body(()).unwrap().into_parts().0)
}

#[test]
fn one_authority_is_found() {
    for (name, request, host, port) in [
        ("host", h1("/", &["a.example"], Version::HTTP_11), "a.example", None),
        ("host and port", h1("/", &["a.example:8080"], Version::HTTP_11), "a.example", Some(8080)),
        ("address", h1("/", &["10.0.0.1:80"], Version::HTTP_11), "10.0.0.1", Some(80)),
        ("v6", h1("/", &["[::1]:80"], Version::HTTP_11), "[::1]", Some(80)),
        ("v6 without port", h1("/", &["[::1]"], Version::HTTP_11), "[::1]", None),
        ("mesh sni form", h1("/", &["outbound_.80_._.a.example"], Version::HTTP_11), "outbound_.80_._.a.example", None),
        ("absolute target", h1("http://a.example/x", &["a.example"], Version::HTTP_11), "a.example", None),
        ("absolute target alone", h1("http://a.example/x", &[], Version::HTTP_11), "a.example", None),
        ("h2 authority", h2("http://a.example:1/x", &[]), "a.example", Some(1)),
        ("h2 both", h2("http://a.example/x", &["a.example"]), "a.example", None),
        ("h2 host alone", h2("/x", &["a.example"]), "a.example", None),
    ] {
        let authority = of(&request).unwrap().unwrap();
        assert_eq!((authority.host(), authority.port()), (host, port), "{name}");
    }
}

#[test]
fn only_http10_may_go_without() {
    assert_eq!(of(&h1("/", &[], Version::HTTP_10)), Ok(None));
    assert_eq!(of(&h1("/", &[], Version::HTTP_11)), Err(InvalidAuthority::Missing));
    assert_eq!(of(&h2("/", &[])), Err(InvalidAuthority::Missing));
}

#[test]
fn what_is_ambiguous_is_refused() {
    use InvalidAuthority as I;
    for (name, request, why) in [
        ("two hosts", h1("/", &["a", "a"], Version::HTTP_11), I::Duplicate),
        ("two hosts on 1.0", h1("/", &["a", "b"], Version::HTTP_10), I::Duplicate),
        ("user", h1("/", &["u@a"], Version::HTTP_11), I::UserInfo),
        ("empty", h1("/", &[""], Version::HTTP_11), I::Host),
        ("empty host", h1("/", &[":80"], Version::HTTP_11), I::Host),
        ("space", h1("/", &["a b"], Version::HTTP_11), I::Host),
        ("list", h1("/", &["a/b"], Version::HTTP_11), I::Host),
        ("percent", h1("/", &["a%2e"], Version::HTTP_11), I::Host),
        ("empty port", h1("/", &["a:"], Version::HTTP_11), I::Port),
        ("port word", h1("/", &["a:http"], Version::HTTP_11), I::Port),
        ("port sign", h1("/", &["a:+80"], Version::HTTP_11), I::Port),
        ("port too large", h1("/", &["a:65536"], Version::HTTP_11), I::Port),
        ("long port", h1("/", &["a:000080"], Version::HTTP_11), I::Port),
        ("two ports", h1("/", &["a:1:2"], Version::HTTP_11), I::Port),
        ("bare v6", h1("/", &["::1"], Version::HTTP_11), I::Host),
        ("open v6", h1("/", &["[::1"], Version::HTTP_11), I::Host),
        ("v6 zone", h1("/", &["[fe80::1%eth0]"], Version::HTTP_11), I::Host),
        ("v6 and more", h1("/", &["[::1]x"], Version::HTTP_11), I::Host),
        ("target differs", h1("http://b/x", &["a"], Version::HTTP_11), I::Mismatch),
        ("target's port differs", h1("http://a:80/x", &["a"], Version::HTTP_11), I::Mismatch),
        ("h2 differs", h2("http://b/x", &["a"]), I::Mismatch),
        ("h2 differs in case", h2("http://A/x", &["a"]), I::Mismatch),
    ] {
        assert_eq!(of(&request), Err(why), "{name}");
    }
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("@".to_owned()),
        Just(":".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just("::1".to_owned()),
        Just("80".to_owned()),
        Just("%41".to_owned()),
        Just("\\".to_owned()),
        Just("http://".to_owned()),
        "[a-z0-9.-]{1,8}",
        "[ -~]{0,3}",
    ]
}

fn authority_text() -> impl Strategy<Value = String> {
    proptest::collection::vec(piece(), 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Authority::parse(&bytes);
    }

    #[test]
    fn what_is_accepted_has_one_reading(text in authority_text()) {
        if let Ok(authority) = Authority::parse(text.as_bytes()) {
            let shown = authority.to_string();
            let again = Authority::parse(shown.as_bytes()).unwrap();
            prop_assert_eq!((again.host(), again.port()), (authority.host(), authority.port()));
            prop_assert!(!authority.host().contains(['@', '/', '\\', '%', ' ', '?', '#']));
            // The parser that the rest of the HTTP stack uses agrees.
            let other: http::uri::Authority = text.parse().unwrap();
            prop_assert_eq!(other.host(), authority.host());
            prop_assert_eq!(other.port_u16(), authority.port());
        }
    }

    #[test]
    fn two_names_for_one_request_are_never_accepted(target in authority_text(), host in authority_text()) {
        if let Ok(mut request) = RequestHeader::build("GET", format!("http://{target}/").as_bytes(), None)
            && request.append_header("host", host.clone()).is_ok()
            && target != host
        {
            prop_assert!(of(&request).is_err());
        }
    }
}
