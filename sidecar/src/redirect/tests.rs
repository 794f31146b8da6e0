//! The rules, compared with reviewed files, and the annotations.

use std::path::PathBuf;

use super::*;

const IDS: ProxyOwner = ProxyOwner::Ids { uid: PROXY_ID, gid: PROXY_ID };

fn annotated(pairs: &[(&str, &str)]) -> Result<Option<Redirect>, InvalidAnnotation> {
    let annotations = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Redirect::from_annotations(&annotations, IDS, None)
}

fn resolvers() -> DnsCapture {
    DnsCapture::Servers(["10.96.0.10", "fd00::10"].iter().map(|server| server.parse().unwrap()).collect())
}

/// Every rule that there can be.
fn everything() -> Redirect {
    let redirect = annotated(&[
        ("traffic.sidecar.istio.io/excludeInboundPorts", "9090, 9091"),
        ("traffic.sidecar.istio.io/excludeOutboundPorts", "3306"),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.9.0.0/16,fd09::/64"),
        ("traffic.sidecar.istio.io/includeOutboundPorts", "8443"),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", "10.0.0.0/8,fd00::/8"),
        ("traffic.sidecar.istio.io/excludeInterfaces", "net1"),
        ("traffic.sidecar.istio.io/kubevirtInterfaces", "k6t-eth0"),
        ("istio.io/reroute-virtual-interfaces", "docker0, k6t-eth0"),
    ]);
    Redirect { dns: Some(resolvers()), ..redirect.unwrap().unwrap() }
}

/// With `PALISADE_GOLDEN=write` in the environment the file is written instead.
fn assert_golden(name: &str, actual: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/redirect/golden").join(name);
    if std::env::var("PALISADE_GOLDEN").is_ok_and(|mode| mode == "write") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "{name} differs; now it is:\n{actual}");
}

#[test]
fn nftables_rules_are_the_reviewed_ones() {
    assert_golden("all.nft", &nft_script(&Redirect::all(IDS, None)));
    assert_golden("dns.nft", &nft_script(&Redirect::all(IDS, Some(DnsCapture::All))));
    assert_golden("mark.nft", &nft_script(&Redirect::all(ProxyOwner::Mark(PROXY_ID), Some(resolvers()))));
    assert_golden("everything.nft", &nft_script(&everything()));
}

#[test]
fn iptables_rules_are_the_reviewed_ones() {
    let fresh = Hooked::default();
    for (family, name) in [(IpFamily::V4, "v4"), (IpFamily::V6, "v6")] {
        let all = Redirect::all(IDS, None);
        let mark = Redirect::all(ProxyOwner::Mark(PROXY_ID), Some(resolvers()));
        assert_golden(&format!("all.{name}.iptables"), &restore_script(&all, family, fresh));
        assert_golden(&format!("mark.{name}.iptables"), &restore_script(&mark, family, fresh));
        assert_golden(&format!("everything.{name}.iptables"), &restore_script(&everything(), family, fresh));
    }
}

#[test]
fn a_second_run_adds_no_second_jump() {
    let first = restore_script(&everything(), IpFamily::V4, Hooked::default());
    assert!(first.contains("-A OUTPUT -j PALISADE_OUTPUT\n"));
    let hooked = Hooked::from_saved(&first);
    assert_eq!(hooked, Hooked { nat: true, raw: true });
    let second = restore_script(&everything(), IpFamily::V4, hooked);
    assert!(!second.contains("-A OUTPUT ") && !second.contains("-A PREROUTING "));
}

#[test]
fn loopback_is_redirected_only_by_name() {
    let own = ("traffic.sidecar.istio.io/includeOutboundIPRanges", "127.0.0.0/8,10.0.0.0/8");
    let redirect = annotated(&[own]).unwrap().unwrap();
    assert!(!nft_script(&redirect).contains("skuid != 1337 return"));
    assert!(!restore_script(&redirect, IpFamily::V4, Hooked::default()).contains("! --uid-owner 1337 -j RETURN"));
    assert!(nft_script(&everything()).contains("skuid != 1337 return"));
}

#[test]
fn mode_none_redirects_nothing() {
    assert_eq!(annotated(&[("sidecar.istio.io/interceptionMode", "NONE")]), Ok(None));
}

#[test]
fn an_empty_inclusion_is_not_everything() {
    let redirect = annotated(&[
        ("traffic.sidecar.istio.io/includeInboundPorts", ""),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", ""),
    ])
    .unwrap()
    .unwrap();
    assert_eq!(redirect.inbound, InboundPorts::Only(BTreeSet::new()));
    assert_eq!(redirect.outbound.included, OutboundRanges::Only(BTreeSet::new()));
}

#[test]
fn what_cannot_be_read_or_served_is_an_error() {
    for (key, value) in [
        ("traffic.sidecar.istio.io/excludeInboundPorts", "80a"),
        ("traffic.sidecar.istio.io/excludeOutboundPorts", "70000"),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.0.0.0/33"),
        ("traffic.sidecar.istio.io/excludeInterfaces", "eth0\" accept"),
        ("traffic.sidecar.istio.io/kubevirtInterfaces", "k0 k1"),
        ("istio.io/reroute-virtual-interfaces", "a-name-that-is-too-long"),
        ("sidecar.istio.io/interceptionMode", "TPROXY"),
    ] {
        assert!(annotated(&[(key, value)]).is_err(), "{key}: {value}");
    }
}

#[test]
fn a_range_keeps_only_its_prefix() {
    let range: IpRange = "10.1.2.3/8".parse().unwrap();
    assert_eq!(range.to_string(), "10.0.0.0/8");
    assert_eq!("::1".parse::<IpRange>().unwrap().to_string(), "::1/128");
    assert_eq!("1.2.3.4/0".parse::<IpRange>().unwrap().to_string(), "0.0.0.0/0");
}
