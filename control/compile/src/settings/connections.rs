//! `connectionSettings` of the mesh's proxies: what clients' connections may take, and what their paths and headers may hold.

use std::time::Duration;

use palisade_crds::istio::{
    ConnectionProfile, ConnectionSettings as Written, HeadersWithUnderscoresAction as Underscores,
    PathWithEscapedSlashesAction as Slashes,
};
use palisade_model::settings::{ConnectionSettings, EscapedSlashes, ProxyKind, UnderscoreHeaders};

/// The settings of one kind of proxy; `None` = nothing is said. The profile EDGE is for gateways alone, as in Istio.
pub(crate) fn of(written: Option<&Written>, kind: ProxyKind) -> Option<ConnectionSettings> {
    let written = written?;
    let Written {
        profile,
        // Buffers are bounded by windows, and a drain by the process's own deadline: `not_served` names those.
        listener_per_connection_buffer_limit_bytes: _,
        cluster_per_connection_buffer_limit_bytes: _,
        http_idle_timeout,
        http_max_connection_duration,
        http_drain_timeout: _,
        http_request_timeout: _,
        http_request_headers_timeout,
        http_stream_idle_timeout,
        http_max_stream_duration,
        http_max_concurrent_streams,
        http2_initial_stream_window_size,
        http2_initial_connection_window_size: _,
        http_headers_with_underscores_action,
        http_merge_slashes,
        http_path_with_escaped_slashes_action,
        listener_connection_limit,
        global_downstream_connection_limit: _,
    } = written;
    let is_edge = *profile == Some(ConnectionProfile::Edge) && kind == ProxyKind::Gateway;
    let time = |own: Option<palisade_crds::Duration>, edge: u64| {
        own.and_then(crate::time::not_negative).or(is_edge.then(|| Duration::from_secs(edge)))
    };
    let unset = |own: Option<palisade_crds::Duration>| own.and_then(crate::time::not_negative);
    let settings = ConnectionSettings {
        merge_slashes: http_merge_slashes.or(is_edge.then_some(true)),
        escaped_slashes: match http_path_with_escaped_slashes_action {
            None | Some(Slashes::Unspecified) => is_edge.then_some(EscapedSlashes::UnescapeAndRedirect),
            Some(Slashes::KeepUnchanged) => Some(EscapedSlashes::Keep),
            Some(Slashes::RejectRequest) => Some(EscapedSlashes::Reject),
            Some(Slashes::UnescapeAndRedirect) => Some(EscapedSlashes::UnescapeAndRedirect),
            Some(Slashes::UnescapeAndForward) => Some(EscapedSlashes::UnescapeAndForward),
        },
        underscores: match http_headers_with_underscores_action {
            None | Some(Underscores::Unspecified) => is_edge.then_some(UnderscoreHeaders::Reject),
            Some(Underscores::Allow) => Some(UnderscoreHeaders::Allow),
            Some(Underscores::RejectRequest) => Some(UnderscoreHeaders::Reject),
            Some(Underscores::DropHeader) => Some(UnderscoreHeaders::Drop),
        },
        stream_idle: time(*http_stream_idle_timeout, 300),
        max_stream: unset(*http_max_stream_duration),
        idle: time(*http_idle_timeout, 3600),
        headers: time(*http_request_headers_timeout, 60),
        max_age: unset(*http_max_connection_duration),
        max_streams: http_max_concurrent_streams.filter(|streams| *streams > 0).or(is_edge.then_some(100)),
        stream_window: http2_initial_stream_window_size.or(is_edge.then_some(65_536)),
        // A sidecar's listeners are fixed: what they take is the process's own setting.
        max_connections: listener_connection_limit.filter(|limit| *limit > 0 && kind == ProxyKind::Gateway),
    };
    (settings != ConnectionSettings::default()).then_some(settings)
}

/// Fields that are written and have no effect, by name; what the profile alone would set is not among them.
pub(super) fn not_served(written: &Written) -> Vec<&'static str> {
    let fields = [
        (
            written.listener_per_connection_buffer_limit_bytes.is_some(),
            "defaultConfig.connectionSettings.listenerPerConnectionBufferLimitBytes",
        ),
        (
            written.cluster_per_connection_buffer_limit_bytes.is_some(),
            "defaultConfig.connectionSettings.clusterPerConnectionBufferLimitBytes",
        ),
        (written.http_drain_timeout.is_some(), "defaultConfig.connectionSettings.httpDrainTimeout"),
        (written.http_request_timeout.is_some(), "defaultConfig.connectionSettings.httpRequestTimeout"),
        (
            written.http2_initial_connection_window_size.is_some(),
            "defaultConfig.connectionSettings.http2InitialConnectionWindowSize",
        ),
        (
            written.global_downstream_connection_limit.is_some(),
            "defaultConfig.connectionSettings.globalDownstreamConnectionLimit",
        ),
    ];
    fields.into_iter().filter(|(is_written, _)| *is_written).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_profile_is_for_gateways_and_what_is_written_wins() {
        let edge = Written { profile: Some(ConnectionProfile::Edge), ..Written::default() };
        assert_eq!(of(Some(&edge), ProxyKind::Sidecar), None);
        let expected = ConnectionSettings {
            merge_slashes: Some(true),
            escaped_slashes: Some(EscapedSlashes::UnescapeAndRedirect),
            underscores: Some(UnderscoreHeaders::Reject),
            stream_idle: Some(Duration::from_secs(300)),
            idle: Some(Duration::from_secs(3600)),
            headers: Some(Duration::from_secs(60)),
            max_streams: Some(100),
            stream_window: Some(65_536),
            ..ConnectionSettings::default()
        };
        assert_eq!(of(Some(&edge), ProxyKind::Gateway), Some(expected.clone()));
        let written = Written {
            http_merge_slashes: Some(false),
            http_path_with_escaped_slashes_action: Some(Slashes::KeepUnchanged),
            http_stream_idle_timeout: Some(palisade_crds::Duration::ZERO),
            listener_connection_limit: Some(7),
            ..edge
        };
        let expected = ConnectionSettings {
            merge_slashes: Some(false),
            escaped_slashes: Some(EscapedSlashes::Keep),
            stream_idle: Some(Duration::ZERO),
            max_connections: Some(7),
            ..expected
        };
        assert_eq!(of(Some(&written), ProxyKind::Gateway), Some(expected));
    }

    #[test]
    fn nothing_said_is_nothing_sent() {
        assert_eq!(of(None, ProxyKind::Gateway), None);
        assert_eq!(of(Some(&Written::default()), ProxyKind::Gateway), None);
    }
}
