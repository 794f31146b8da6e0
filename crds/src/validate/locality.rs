//! Preference by locality and zone.

use crate::codes::Code;
use crate::istio::{LocalityFailover, LocalityLbSetting, ZoneAwareLbSetting};
use crate::schema::Cursor;

const CODE: Code = Code::DestinationRulePolicy;
const TOPOLOGY_LABELS: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

pub(super) fn locality(setting: &LocalityLbSetting, has_outlier_detection: bool, cursor: &mut Cursor<'_>) {
    let LocalityLbSetting { distribute, failover, failover_priority, enabled: _ } = setting;
    if !distribute.is_empty() && !failover.is_empty() {
        cursor.report_at("failover", CODE, "`distribute` and `failover` exclude each other");
        return;
    }
    if !failover.is_empty()
        && let Some(label) = failover_priority.iter().find(|label| TOPOLOGY_LABELS.contains(&label.as_str()))
    {
        cursor.report_at(
            "failoverPriority",
            CODE,
            format!("`failover` and the topology label `{label}` exclude each other"),
        );
        return;
    }
    cursor.within("distribute", |cursor| {
        for (index, share) in distribute.iter().enumerate() {
            cursor.within(index, |cursor| {
                if share.to.values().any(|weight| !(1..=100).contains(weight)) {
                    cursor.report_at("to", CODE, "a share must be between 1 and 100");
                } else if share.to.values().sum::<u32>() != 100 {
                    cursor.report_at("to", CODE, "the shares must add up to 100");
                }
                // A map has no order, so the most favourable one counts: wildcards last.
                let (wild, plain): (Vec<&str>, Vec<&str>) =
                    share.to.keys().map(String::as_str).partition(|locality| locality.ends_with('*'));
                if let Err(message) = distinct(plain.into_iter().chain(wild)) {
                    cursor.report_at("to", CODE, message);
                }
            });
        }
        if let Err(message) = distinct(distribute.iter().map(|share| share.from.as_str())) {
            cursor.report(CODE, message);
        }
    });
    failovers(failover, !failover_priority.is_empty(), has_outlier_detection, cursor);
}

pub(super) fn zone_aware(setting: &ZoneAwareLbSetting, has_outlier_detection: bool, cursor: &mut Cursor<'_>) {
    let ZoneAwareLbSetting { enabled: _, failover, failover_priority, min_cluster_size: _ } = setting;
    for label in failover_priority.iter().filter(|label| TOPOLOGY_LABELS.contains(&label.as_str())) {
        cursor.report_at("failoverPriority", CODE, format!("the topology label `{label}` must not be used here"));
    }
    failovers(failover, !failover_priority.is_empty(), has_outlier_detection, cursor);
}

fn failovers(failover: &[LocalityFailover], has_priority: bool, has_outlier_detection: bool, cursor: &mut Cursor<'_>) {
    if (!failover.is_empty() || has_priority) && !has_outlier_detection {
        cursor.report(Code::DestinationRuleWarning, "failover works only with `outlierDetection`");
    }
    cursor.within("failover", |cursor| {
        for (index, LocalityFailover { from, to }) in failover.iter().enumerate() {
            if from == to {
                cursor.report_at(index, CODE, "`from` and `to` must be different regions");
            }
            if from.contains(['/', '*']) || to.contains(['/', '*']) {
                cursor.report_at(index, CODE, "`from` and `to` must be regions, without zone and wildcard");
            }
        }
    });
}

/// No locality may be part of an earlier one; a wildcard may take the rest of what earlier ones have a part of.
fn distinct<'a>(localities: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen: Vec<Vec<&str>> = Vec::new();
    for locality in localities {
        let stars = locality.matches('*').count();
        if stars > 1 || (stars == 1 && !locality.ends_with('*')) {
            return Err(format!("`{locality}` may have one wildcard, at its end"));
        }
        let parts: Vec<&str> = locality.splitn(3, '/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(format!("`{locality}` has an empty part"));
        }
        let covers = |a: &[&str], b: &[&str]| {
            let wanted = a.strip_suffix(&["*"]).unwrap_or(a);
            b.starts_with(wanted)
        };
        if seen.iter().any(|earlier| covers(earlier, &parts) || (stars == 0 && covers(&parts, earlier))) {
            return Err(format!("`{locality}` overlaps with another locality"));
        }
        seen.push(parts);
    }
    Ok(())
}
