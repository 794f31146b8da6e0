//! Mirrors `palisade_model::route`.

use std::{sync::Arc, time::Duration};

use palisade_model::route::{
    Backend, ClaimMatch, Cors, Fault, FaultAbort, Forward, HeaderMatch, HeaderMutations, Mirror, PathMatch,
    PathRewrite, Percent, QueryMatch, Redirect, RedirectPort, RetryOn, RetryPolicy, Rewrite, RouteAction, RouteEntry,
    RouteMatch, RouteRule, Session, StringMatch, VirtualHost,
};

use crate::{
    field::{InvalidField, Problem, Wire, mapping, wire_enum, wire_struct},
    proto::v1::{self, fault, fault_abort, path_match, path_rewrite, redirect_port, route_action, string_match},
};

wire_struct!(VirtualHost => v1::VirtualHost {
    table: plain,
    name: plain,
    domains: list,
    https_redirect: same,
    entries: list,
});
wire_struct!(RouteEntry => v1::RouteEntry { rule: plain, alternative: same });
wire_struct!(RouteRule => v1::RouteRule {
    key: plain,
    source: plain,
    name: optional,
    rule: same,
    matches: list,
    fault: required,
    cors: optional,
    action: required,
    response_headers: required,
});
wire_struct!(RouteMatch => v1::RouteMatch {
    source_index: same,
    path: optional,
    scheme: optional,
    method: optional,
    authority: optional,
    headers: list,
    query: list,
    claims: list,
});
wire_struct!(HeaderMatch => v1::HeaderMatch { name: plain, value: optional, is_inverted: same });
wire_struct!(QueryMatch => v1::QueryMatch { name: plain, value: optional });
wire_struct!(ClaimMatch => v1::ClaimMatch { path: list, value: optional, is_inverted: same });
wire_struct!(Cors => v1::Cors {
    allow_origins: list,
    allow_methods: list,
    allow_headers: list,
    expose_headers: list,
    max_age: optional,
    allows_credentials: same,
    forwards_unmatched_preflights: same,
});
wire_struct!(Forward => v1::Forward {
    backends: list,
    request_headers: required,
    rewrite: required,
    timeout: optional,
    retries: optional,
    mirrors: list,
    session: optional,
});
wire_struct!(Session => v1::Session { name: plain, is_header: same, is_permanent: same, timeout: optional });
wire_struct!(Backend => v1::Backend {
    cluster: plain,
    missing: optional,
    weight: same,
    request_headers: required,
    response_headers: required,
    path: optional,
});
wire_struct!(HeaderMutations => v1::HeaderMutations { remove: list, set: list, add: list });
wire_struct!(Rewrite => v1::Rewrite { path: optional, authority: optional });
wire_struct!(Redirect => v1::Redirect {
    scheme: optional,
    authority: optional,
    port: required,
    path: optional,
    status: plain,
});
wire_struct!(RetryPolicy => v1::RetryPolicy {
    attempts: same,
    per_try: optional,
    on: set,
    statuses: set,
    backoff: required,
    max_backoff: required,
    avoid_previous: same,
    leaves_locality: same,
});
wire_enum!(RetryOn => v1::RetryOn {
    ServerError,
    GatewayError,
    Reset,
    ResetBeforeRequest,
    ConnectFailure,
    EnvoyRatelimited,
    Retriable4xx,
    RefusedStream,
    RetriableStatusCodes,
    RetriableHeaders,
    Http3PostConnectFailure,
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
});
wire_struct!(Fault => v1::Fault { delay: optional, abort: optional });

impl Wire for Mirror {
    type Message = v1::Mirror;

    fn encode(&self) -> v1::Mirror {
        let Self { cluster, share } = self;
        v1::Mirror { cluster: cluster.encode(), share_millionths: share.encode() }
    }

    fn decode(message: v1::Mirror) -> Result<Self, InvalidField> {
        let v1::Mirror { cluster, share_millionths } = message;
        let share = Percent::decode(share_millionths).map_err(|error| error.inside("share_millionths"))?;
        Ok(Self { cluster: cluster.into(), share })
    }
}

impl Wire for PathMatch {
    type Message = v1::PathMatch;

    fn encode(&self) -> v1::PathMatch {
        let literal = |value: &Arc<str>, ignore_case: &bool| path_match::Literal {
            value: value.encode(),
            ignore_case: *ignore_case,
        };
        let kind = match self {
            Self::Exact { value, ignore_case } => path_match::Kind::Exact(literal(value, ignore_case)),
            Self::Prefix { value, ignore_case } => path_match::Kind::Prefix(literal(value, ignore_case)),
            Self::SegmentPrefix { value } => path_match::Kind::SegmentPrefix(value.encode()),
            Self::Regex { value } => path_match::Kind::Regex(value.encode()),
        };
        v1::PathMatch { kind: Some(kind) }
    }

    fn decode(message: v1::PathMatch) -> Result<Self, InvalidField> {
        let v1::PathMatch { kind } = message;
        Ok(match kind.ok_or(InvalidField::new(Problem::Missing))? {
            path_match::Kind::Exact(path_match::Literal { value, ignore_case }) => {
                Self::Exact { value: value.into(), ignore_case }
            }
            path_match::Kind::Prefix(path_match::Literal { value, ignore_case }) => {
                Self::Prefix { value: value.into(), ignore_case }
            }
            path_match::Kind::SegmentPrefix(value) => Self::SegmentPrefix { value: value.into() },
            path_match::Kind::Regex(value) => Self::Regex { value: value.into() },
        })
    }
}

impl Wire for StringMatch {
    type Message = v1::StringMatch;

    fn encode(&self) -> v1::StringMatch {
        let kind = match self {
            Self::Exact(value) => string_match::Kind::Exact(value.encode()),
            Self::Prefix(value) => string_match::Kind::Prefix(value.encode()),
            Self::Regex(value) => string_match::Kind::Regex(value.encode()),
        };
        v1::StringMatch { kind: Some(kind) }
    }

    fn decode(message: v1::StringMatch) -> Result<Self, InvalidField> {
        let v1::StringMatch { kind } = message;
        Ok(match kind.ok_or(InvalidField::new(Problem::Missing))? {
            string_match::Kind::Exact(value) => Self::Exact(value.into()),
            string_match::Kind::Prefix(value) => Self::Prefix(value.into()),
            string_match::Kind::Regex(value) => Self::Regex(value.into()),
        })
    }
}

impl Wire for RouteAction {
    type Message = v1::RouteAction;

    fn encode(&self) -> v1::RouteAction {
        let kind = match self {
            Self::Forward(forward) => route_action::Kind::Forward(forward.encode()),
            Self::Redirect(redirect) => route_action::Kind::Redirect(redirect.encode()),
            Self::DirectResponse { status, body, content_type } => {
                route_action::Kind::DirectResponse(v1::DirectResponse {
                    status: status.encode(),
                    body: body.clone(),
                    content_type: mapping::optional().0(content_type),
                })
            }
            Self::Refuse { message } => route_action::Kind::Refuse(message.encode()),
        };
        v1::RouteAction { kind: Some(kind) }
    }

    fn decode(message: v1::RouteAction) -> Result<Self, InvalidField> {
        let v1::RouteAction { kind } = message;
        match kind.ok_or(InvalidField::new(Problem::Missing))? {
            route_action::Kind::Forward(forward) => {
                Forward::decode(forward).map(Self::Forward).map_err(|error| error.inside("forward"))
            }
            route_action::Kind::Redirect(redirect) => {
                Redirect::decode(redirect).map(Self::Redirect).map_err(|error| error.inside("redirect"))
            }
            route_action::Kind::DirectResponse(v1::DirectResponse { status, body, content_type }) => {
                Ok(Self::DirectResponse {
                    status: u16::decode(status).map_err(|error| error.inside("direct_response.status"))?,
                    body,
                    content_type: mapping::optional().1(content_type)?,
                })
            }
            route_action::Kind::Refuse(message) => Ok(Self::Refuse { message: message.into() }),
        }
    }
}

impl Wire for (Arc<str>, Arc<str>) {
    type Message = v1::Header;

    fn encode(&self) -> v1::Header {
        let (name, value) = self;
        v1::Header { name: name.encode(), value: value.encode() }
    }

    fn decode(message: v1::Header) -> Result<Self, InvalidField> {
        let v1::Header { name, value } = message;
        Ok((name.into(), value.into()))
    }
}

impl Wire for PathRewrite {
    type Message = v1::PathRewrite;

    fn encode(&self) -> v1::PathRewrite {
        let kind = match self {
            Self::Full(path) => path_rewrite::Kind::Full(path.encode()),
            Self::Prefix(prefix) => path_rewrite::Kind::Prefix(prefix.encode()),
            Self::SegmentPrefix(prefix) => path_rewrite::Kind::SegmentPrefix(prefix.encode()),
            Self::Regex { pattern, substitution } => path_rewrite::Kind::Regex(path_rewrite::Regex {
                pattern: pattern.encode(),
                substitution: substitution.encode(),
            }),
        };
        v1::PathRewrite { kind: Some(kind) }
    }

    fn decode(message: v1::PathRewrite) -> Result<Self, InvalidField> {
        let v1::PathRewrite { kind } = message;
        Ok(match kind.ok_or(InvalidField::new(Problem::Missing))? {
            path_rewrite::Kind::Full(path) => Self::Full(path.into()),
            path_rewrite::Kind::Prefix(prefix) => Self::Prefix(prefix.into()),
            path_rewrite::Kind::SegmentPrefix(prefix) => Self::SegmentPrefix(prefix.into()),
            path_rewrite::Kind::Regex(path_rewrite::Regex { pattern, substitution }) => {
                Self::Regex { pattern: pattern.into(), substitution: substitution.into() }
            }
        })
    }
}

impl Wire for RedirectPort {
    type Message = v1::RedirectPort;

    fn encode(&self) -> v1::RedirectPort {
        let kind = match self {
            Self::Explicit(port) => redirect_port::Kind::Explicit(port.encode()),
            Self::ProtocolDefault => redirect_port::Kind::ProtocolDefault(v1::Empty {}),
            Self::Request => redirect_port::Kind::Request(v1::Empty {}),
        };
        v1::RedirectPort { kind: Some(kind) }
    }

    fn decode(message: v1::RedirectPort) -> Result<Self, InvalidField> {
        let v1::RedirectPort { kind } = message;
        match kind.ok_or(InvalidField::new(Problem::Missing))? {
            redirect_port::Kind::Explicit(port) => {
                u16::decode(port).map(Self::Explicit).map_err(|error| error.inside("explicit"))
            }
            redirect_port::Kind::ProtocolDefault(v1::Empty {}) => Ok(Self::ProtocolDefault),
            redirect_port::Kind::Request(v1::Empty {}) => Ok(Self::Request),
        }
    }
}

impl Wire for (Duration, Percent) {
    type Message = fault::Delay;

    fn encode(&self) -> fault::Delay {
        let (delay, share) = self;
        fault::Delay { delay: Some(delay.encode()), share_millionths: share.encode() }
    }

    fn decode(message: fault::Delay) -> Result<Self, InvalidField> {
        let fault::Delay { delay, share_millionths } = message;
        Ok((
            mapping::required().1(delay).map_err(|error| error.inside("delay"))?,
            Percent::decode(share_millionths).map_err(|error| error.inside("share_millionths"))?,
        ))
    }
}

impl Wire for (FaultAbort, Percent) {
    type Message = fault::Abort;

    fn encode(&self) -> fault::Abort {
        let (answer, share) = self;
        fault::Abort { answer: Some(answer.encode()), share_millionths: share.encode() }
    }

    fn decode(message: fault::Abort) -> Result<Self, InvalidField> {
        let fault::Abort { answer, share_millionths } = message;
        Ok((
            mapping::required().1(answer).map_err(|error| error.inside("answer"))?,
            Percent::decode(share_millionths).map_err(|error| error.inside("share_millionths"))?,
        ))
    }
}

impl Wire for FaultAbort {
    type Message = v1::FaultAbort;

    fn encode(&self) -> v1::FaultAbort {
        let kind = match self {
            Self::Http(status) => fault_abort::Kind::Http(status.encode()),
            Self::Grpc(status) => fault_abort::Kind::Grpc(*status),
        };
        v1::FaultAbort { kind: Some(kind) }
    }

    fn decode(message: v1::FaultAbort) -> Result<Self, InvalidField> {
        let v1::FaultAbort { kind } = message;
        match kind.ok_or(InvalidField::new(Problem::Missing))? {
            fault_abort::Kind::Http(status) => {
                u16::decode(status).map(Self::Http).map_err(|error| error.inside("http"))
            }
            fault_abort::Kind::Grpc(status) => Ok(Self::Grpc(status)),
        }
    }
}
