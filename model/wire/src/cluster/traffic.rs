//! Mirrors `palisade_model::cluster::traffic`.

use palisade_model::cluster::{
    Closeness, ConnectionPolicy, Failover, Limits, LocalityPolicy, LocalityShare, OutlierDetection, Ping,
    ProxyProtocol, RetryBudget, TrafficPolicy, Warmup,
};

use crate::{
    field::{InvalidField, Problem, Wire, mapping, wire_enum, wire_struct},
    proto::v1::{self, locality_policy},
};

wire_struct!(TrafficPolicy => v1::TrafficPolicy {
    limits: required,
    outlier: optional,
    warmup: optional,
    locality: required,
    retry_budget: optional,
    connection: required,
});
wire_struct!(Limits => v1::Limits {
    max_connections: optional,
    max_pending_requests: optional,
    max_requests: optional,
    max_retries: optional,
});
wire_struct!(OutlierDetection => v1::OutlierDetection {
    consecutive_5xx: same,
    consecutive_gateway: same,
    consecutive_local: optional,
    error_statuses: set,
    interval: required,
    base_ejection: required,
    max_ejection_percent: plain,
    min_health_percent: plain,
});
wire_struct!(Warmup => v1::Warmup { duration: required, minimum: plain, aggression: same });
wire_struct!(Failover => v1::Failover { labels: list, closeness: optional });
wire_struct!(Closeness => v1::Closeness { own: plain, next_region: optional });
wire_struct!(LocalityShare => v1::LocalityShare { locality: plain, weight: same });
wire_struct!(RetryBudget => v1::RetryBudget { percent: plain, min_concurrency: same, interval: optional });
wire_struct!(ConnectionPolicy => v1::ConnectionPolicy {
    max_duration: optional,
    relay_idle: optional,
    max_streams: optional,
    ping: optional,
    proxy_protocol: optional,
});
wire_struct!(Ping => v1::Ping { interval: required, timeout: required });
wire_enum!(ProxyProtocol => v1::ProxyProtocol { V1, V2 });

impl Wire for LocalityPolicy {
    type Message = v1::LocalityPolicy;

    fn encode(&self) -> v1::LocalityPolicy {
        let kind = match self {
            Self::Any => locality_policy::Kind::Any(v1::Empty {}),
            Self::Failover(failover) => locality_policy::Kind::Failover(failover.encode()),
            Self::Distribute(shares) => {
                locality_policy::Kind::Distribute(locality_policy::Shares { shares: mapping::list().0(shares) })
            }
        };
        v1::LocalityPolicy { kind: Some(kind) }
    }

    fn decode(message: v1::LocalityPolicy) -> Result<Self, InvalidField> {
        let v1::LocalityPolicy { kind } = message;
        match kind.ok_or(InvalidField::new(Problem::Missing))? {
            locality_policy::Kind::Any(v1::Empty {}) => Ok(Self::Any),
            locality_policy::Kind::Failover(failover) => {
                Failover::decode(failover).map(Self::Failover).map_err(|error| error.inside("failover"))
            }
            locality_policy::Kind::Distribute(locality_policy::Shares { shares }) => {
                mapping::list().1(shares).map(Self::Distribute).map_err(|error| error.inside("distribute.shares"))
            }
        }
    }
}
