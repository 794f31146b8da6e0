//! What a Kubernetes service port carries, by its `appProtocol`, name and number.

use palisade_model::listener::Protocol;

use crate::inputs::core::ServicePort;

/// Ports that are TCP when nothing declares them: protocols in which the server may speak first.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

/// The protocol of a port; `None` for UDP and SCTP, which the mesh does not carry (`pkg/config/kube/conversion.go`,
/// istio-semantics 13).
pub(crate) fn of_port(port: &ServicePort) -> Option<Protocol> {
    if port.transport.eq_ignore_ascii_case("UDP") || port.transport.eq_ignore_ascii_case("SCTP") {
        return None;
    }
    let name = match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c") => return Some(Protocol::Http2),
        Some("kubernetes.io/ws") => return Some(Protocol::Http),
        Some("kubernetes.io/wss") => return Some(Protocol::Tls),
        // An unknown appProtocol means auto-detection; the name is not asked again.
        Some(written) => written,
        None => &port.name,
    }
    .to_ascii_lowercase();
    if name.starts_with("grpc-web") {
        return Some(Protocol::Http2);
    }
    let prefix = name.split_once('-').map_or(name.as_str(), |(prefix, _)| prefix);
    match of_name(prefix) {
        Some(Named::Carried(protocol)) => Some(protocol),
        Some(Named::NotCarried) => None,
        None if SERVER_FIRST.contains(&port.port) => Some(Protocol::Tcp),
        None => Some(Protocol::Auto),
    }
}

/// What a protocol name of Istio means to the mesh.
pub(crate) enum Named {
    /// It is carried as this.
    Carried(Protocol),
    /// It is not TCP.
    NotCarried,
}

/// A protocol by Istio's name, in lower case; `None` = not one of them.
pub(crate) fn of_name(name: &str) -> Option<Named> {
    Some(Named::Carried(match name {
        "http" => Protocol::Http,
        "http2" | "grpc" | "grpc-web" => Protocol::Http2,
        "https" | "tls" => Protocol::Tls,
        "tcp" | "mongo" | "mysql" | "redis" => Protocol::Tcp,
        "udp" => return Some(Named::NotCarried),
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::core::TargetPort;

    #[test]
    fn app_protocol_beats_the_name_and_the_name_is_read_up_to_its_dash() {
        let port = |name: &str, app: Option<&str>, number, transport: &str| ServicePort {
            name: name.to_owned(),
            port: number,
            target: TargetPort::Number(number),
            transport: transport.to_owned(),
            app_protocol: app.map(str::to_owned),
        };
        let rows = [
            ("http", None, 80, Some(Protocol::Http)),
            ("http-web", None, 80, Some(Protocol::Http)),
            ("httpx", None, 80, Some(Protocol::Auto)),
            ("HTTP2-a", None, 80, Some(Protocol::Http2)),
            ("grpc", None, 80, Some(Protocol::Http2)),
            ("grpc-webby", None, 80, Some(Protocol::Http2)),
            ("https-a", None, 443, Some(Protocol::Tls)),
            ("tls", None, 443, Some(Protocol::Tls)),
            ("tcp-a", None, 1, Some(Protocol::Tcp)),
            ("mysql", None, 3306, Some(Protocol::Tcp)),
            ("udp-a", None, 1, None),
            ("", None, 8080, Some(Protocol::Auto)),
            ("", None, 3306, Some(Protocol::Tcp)),
            ("http", Some("tcp"), 80, Some(Protocol::Tcp)),
            ("http", Some("unknown.io/x"), 80, Some(Protocol::Auto)),
            ("http", Some("kubernetes.io/h2c"), 80, Some(Protocol::Http2)),
            ("tcp", Some("HTTP"), 80, Some(Protocol::Http)),
        ];
        for (name, app, number, expected) in rows {
            assert_eq!(of_port(&port(name, app, number, "TCP")), expected, "{name} {app:?} {number}");
        }
        assert_eq!(of_port(&port("http", None, 80, "UDP")), None);
    }
}
