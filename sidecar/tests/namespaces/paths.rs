//! The matrix: every path that a packet may take, and where it ends, one line each.
//!
//! `FROM WHO PROTOCOL TO [from SOURCE] -> END`. FROM is the peer, the pod or the virtual machine; WHO is the application, root, the
//! proxy, or another user in the proxy's group. ENDs are what answered: `inbound` and `outbound` are the proxy's ports, with the
//! destination that it is told; `application`, `peer`, `resolver` are reached without it.

/// Rules, and the paths under them.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Annotations of the pod without their prefix.
    pub(crate) annotations: &'static [(&'static str, &'static str)],
    pub(crate) dns: Dns,
    pub(crate) paths: &'static str,
}

/// Which DNS queries are captured.
#[derive(Clone, Copy)]
pub(crate) enum Dns {
    None,
    /// Those to 10.0.0.1 and fd00::1.
    Servers,
    All,
}

pub(crate) const CASES: [Case; 8] = [
    Case {
        name: "no annotations",
        annotations: &[],
        dns: Dns::Servers,
        paths: "
            # Into the pod: all TCP ports but the proxy's own, whether or not anything declares or listens on them.
            peer application tcp 10.0.0.2:8080 -> inbound for 10.0.0.2:8080
            peer application tcp 10.0.0.2:9999 -> inbound for 10.0.0.2:9999
            peer application tcp 10.0.0.2:53 -> inbound for 10.0.0.2:53
            peer application tcp [fd00::2]:8080 -> inbound
            peer application tcp 10.0.0.2:15020 -> proxy's own
            peer application tcp 10.0.0.2:15021 -> proxy's own
            peer application tcp 10.0.0.2:15090 -> proxy's own
            peer application tcp 10.0.0.2:15008 -> proxy's own
            # The proxy's ports, dialled from outside: it sees itself as the destination, and refuses.
            peer application tcp 10.0.0.2:15001 -> inbound for 10.0.0.2:15001
            peer application tcp 10.0.0.2:15006 -> inbound
            # UDP passes the proxy.
            peer application udp 10.0.0.2:9999 -> application
            # Out of the pod.
            pod application tcp 10.0.0.1:8080 -> outbound for 10.0.0.1:8080
            pod application tcp 10.0.0.1:9999 -> outbound for 10.0.0.1:9999
            pod root tcp 10.0.0.1:8080 -> outbound for 10.0.0.1:8080
            pod application tcp [fd00::1]:8080 -> outbound
            pod application udp 10.0.0.1:9999 -> peer
            pod proxy tcp 10.0.0.1:8080 -> peer
            pod group tcp 10.0.0.1:8080 -> peer
            pod proxy tcp [fd00::1]:8080 -> peer
            # Within the pod.
            pod application tcp 127.0.0.1:8080 -> application
            pod application tcp [::1]:8080 -> application
            pod application tcp 10.0.0.2:8080 -> application
            pod application tcp [fd00::2]:8080 -> application
            pod application tcp 127.0.0.1:15001 -> outbound
            pod application tcp 10.0.0.2:15006 -> inbound
            pod proxy tcp 127.0.0.1:8080 -> application
            pod proxy tcp 10.0.0.2:8080 -> inbound for 10.0.0.2:8080
            pod proxy tcp [fd00::2]:8080 -> inbound
            pod group tcp 10.0.0.2:8080 -> application
            pod proxy tcp 10.0.0.2:15008 -> proxy's own
            # The inbound proxy's connections to its application come from 127.0.0.6.
            pod proxy tcp 10.0.0.2:8080 from 127.0.0.6 -> application
            # DNS.
            pod application udp 10.0.0.1:53 -> captured
            pod application tcp 10.0.0.1:53 -> captured for 10.0.0.1:53
            pod application udp [fd00::1]:53 -> captured
            pod application tcp [fd00::1]:53 -> captured
            pod root udp 10.0.0.1:53 -> captured
            pod proxy udp 10.0.0.1:53 -> resolver
            pod proxy tcp 10.0.0.1:53 -> resolver
            pod group udp 10.0.0.1:53 -> resolver
            pod application udp 10.0.0.9:53 -> resolver
            pod application tcp 10.0.0.9:53 -> outbound for 10.0.0.9:53
            # What comes from a virtual machine comes from outside, if nobody says otherwise.
            vm application tcp 10.0.0.1:8080 -> inbound for 10.0.0.1:8080
        ",
    },
    Case {
        name: "exclusions",
        annotations: &[
            ("excludeInboundPorts", "9090"),
            ("excludeOutboundPorts", "3306,53"),
            ("excludeOutboundIPRanges", "10.9.0.0/16,fd09::/64"),
        ],
        dns: Dns::Servers,
        paths: "
            peer application tcp 10.0.0.2:9090 -> application
            peer application tcp [fd00::2]:9090 -> application
            peer application tcp 10.0.0.2:8080 -> inbound for 10.0.0.2:8080
            pod application tcp 10.0.0.1:3306 -> peer
            pod application tcp [fd00::1]:3306 -> peer
            pod application tcp 10.9.0.1:80 -> peer
            pod application tcp [fd09::1]:80 -> peer
            pod application tcp 10.0.0.1:80 -> outbound for 10.0.0.1:80
            # A port that is excluded wins over all else, DNS included.
            pod application udp 10.0.0.1:53 -> resolver
            pod application tcp 10.0.0.1:53 -> resolver
        ",
    },
    Case {
        name: "inclusions",
        annotations: &[
            ("includeInboundPorts", "8080"),
            ("includeOutboundIPRanges", "10.9.0.0/16,fd09::/64"),
            ("includeOutboundPorts", "443"),
            ("excludeOutboundPorts", "3306"),
        ],
        dns: Dns::Servers,
        paths: "
            peer application tcp 10.0.0.2:8080 -> inbound for 10.0.0.2:8080
            peer application tcp 10.0.0.2:9090 -> application
            peer application tcp [fd00::2]:8080 -> inbound
            peer application tcp [fd00::2]:9090 -> application
            # The proxy's ports are no exception from not being included: it refuses what is meant for itself.
            peer application tcp 10.0.0.2:15001 -> outbound
            peer application tcp 10.0.0.2:15006 -> inbound
            pod application tcp 10.9.0.1:80 -> outbound for 10.9.0.1:80
            pod application tcp [fd09::1]:80 -> outbound
            pod application tcp 10.0.0.1:80 -> peer
            pod application tcp [fd00::1]:80 -> peer
            pod application tcp 10.0.0.1:443 -> outbound for 10.0.0.1:443
            pod application tcp 10.9.0.1:3306 -> peer
            pod application udp 10.0.0.1:53 -> captured
            pod proxy tcp 10.0.0.2:8080 -> inbound for 10.0.0.2:8080
            pod proxy tcp 10.9.0.1:80 -> peer
        ",
    },
    Case {
        name: "nothing included",
        annotations: &[("includeInboundPorts", ""), ("includeOutboundIPRanges", "")],
        dns: Dns::None,
        paths: "
            peer application tcp 10.0.0.2:8080 -> application
            pod application tcp 10.0.0.1:8080 -> peer
            pod application udp 10.0.0.1:53 -> resolver
            pod application tcp 10.0.0.1:53 -> resolver
        ",
    },
    Case {
        name: "excluded interface",
        annotations: &[("excludeInterfaces", "k0")],
        dns: Dns::Servers,
        paths: "
            vm application tcp 10.0.0.1:8080 -> peer
            vm application tcp 10.0.0.2:8080 -> application
            pod application tcp 10.0.0.1:8080 -> outbound for 10.0.0.1:8080
            peer application tcp 10.0.0.2:8080 -> inbound for 10.0.0.2:8080
        ",
    },
    Case {
        name: "virtual interface",
        annotations: &[("kubevirtInterfaces", "k0")],
        dns: Dns::Servers,
        paths: "
            vm application tcp 10.0.0.1:8080 -> outbound for 10.0.0.1:8080
            vm application tcp 10.9.0.1:80 -> outbound for 10.9.0.1:80
            vm application udp 10.0.0.1:9999 -> peer
            peer application tcp 10.0.0.2:8080 -> inbound for 10.0.0.2:8080
            pod application tcp 10.0.0.1:8080 -> outbound for 10.0.0.1:8080
        ",
    },
    Case {
        name: "virtual interface, inclusions",
        annotations: &[("kubevirtInterfaces", "k0"), ("includeOutboundIPRanges", "10.9.0.0/16")],
        dns: Dns::Servers,
        paths: "
            vm application tcp 10.9.0.1:80 -> outbound for 10.9.0.1:80
            vm application tcp 10.0.0.1:8080 -> peer
            pod application tcp 10.0.0.1:8080 -> peer
        ",
    },
    Case {
        name: "all DNS",
        annotations: &[],
        dns: Dns::All,
        paths: "
            pod application udp 10.0.0.9:53 -> captured
            pod application tcp 10.0.0.9:53 -> captured for 10.0.0.9:53
            pod application udp [fd00::1]:53 -> captured
            pod proxy udp 10.0.0.9:53 -> resolver
            peer application tcp 10.0.0.2:8080 -> inbound for 10.0.0.2:8080
        ",
    },
];

/// Without a sidecar that listens: what would go through it is refused, and nothing passes around it.
pub(crate) const CRASHED: &str = "
    peer application tcp 10.0.0.2:8080 -> connection refused
    peer application tcp 10.0.0.2:9999 -> connection refused
    peer application tcp [fd00::2]:8080 -> connection refused
    pod application tcp 10.0.0.1:8080 -> connection refused
    pod application tcp [fd00::1]:8080 -> connection refused
    pod root tcp 10.0.0.1:8080 -> connection refused
    pod application tcp 10.0.0.1:53 -> connection refused
    pod application udp 10.0.0.1:53 -> nothing
    pod application udp [fd00::1]:53 -> nothing
    pod application tcp 127.0.0.1:8080 -> application
";
