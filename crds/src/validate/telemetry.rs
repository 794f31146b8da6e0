//! Telemetry.

use super::policy_target;
use crate::codes::Code;
use crate::istio::{TagOperation, Telemetry};
use crate::schema::Cursor;

const CODE: Code = Code::TelemetryRule;

pub(super) fn check(telemetry: &Telemetry, cursor: &mut Cursor<'_>) {
    policy_target::selector(telemetry.selector.as_ref(), cursor);
    policy_target::targets(telemetry.target_ref.as_ref(), &telemetry.target_refs, CODE, cursor);
    if telemetry.tracing.len() > 1 {
        cursor.report_at("tracing", Code::PolicyAttachment, "only the first entry counts");
    }
    cursor.within("tracing", |cursor| {
        for (index, tracing) in telemetry.tracing.iter().enumerate() {
            cursor.within(index, |cursor| {
                if tracing.providers.len() > 1 {
                    cursor.report_at("providers", Code::PolicyAttachment, "only the first provider counts");
                }
                if tracing.custom_tags.contains_key("") {
                    cursor.report_at("customTags", CODE, "a tag must have a name");
                }
            });
        }
    });
    cursor.within("accessLogging", |cursor| {
        for (index, logging) in telemetry.access_logging.iter().enumerate() {
            if let Some(filter) = &logging.filter
                && let Err(message) = crate::cel::check(&filter.expression)
            {
                cursor.within(index, |cursor| {
                    cursor.within("filter", |cursor| cursor.report_at("expression", CODE, message));
                });
            }
        }
    });
    cursor.within("metrics", |cursor| {
        for (index, metrics) in telemetry.metrics.iter().enumerate() {
            for (position, change) in metrics.overrides.iter().enumerate() {
                let unset = change
                    .tag_overrides
                    .iter()
                    .filter(|(_, tag)| tag.operation == TagOperation::Upsert && tag.value.is_none());
                for (name, _) in unset {
                    let message = format!("label `{name}`: `value` must be set with UPSERT");
                    cursor.within(index, |cursor| {
                        cursor.within("overrides", |cursor| cursor.report_at(position, CODE, message))
                    });
                }
            }
        }
    });
}
