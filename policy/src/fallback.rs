//! Cedar's own evaluator, for policies that have no compiled form: the same facts as real entities and a real context.
//!
//! It costs tens of microseconds a decision; every use is counted. Texts that are not UTF-8 cannot be Cedar strings: a policy that is
//! evaluated here over such a request fails, and a failing forbid denies.

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    time::{SystemTime, UNIX_EPOCH},
};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicySet, Request,
    RestrictedExpression as Expression, pst,
};

use crate::{
    check::text_literals,
    eval::{Outcome, RequestState, RequestView, View, is_match},
    ir::{Actions, Entity as Name, Kind},
    pattern::{Pattern, PatternLevel},
    schema::mesh_schema,
};

/// A condition that Cedar evaluates.
#[derive(Debug)]
pub(crate) struct CedarCondition {
    /// The policy by itself: it is only asked whether it matches.
    set: PolicySet,
    patterns: Vec<Pattern>,
    header_names: Vec<String>,
}

/// Facts that cannot be said in Cedar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the request cannot be put into Cedar: {0}")]
pub(crate) struct NotCedar(String);

impl CedarCondition {
    /// Prepares a checked policy.
    ///
    /// # Errors
    /// Cedar's own words.
    pub(crate) fn new(policy: &Policy, tree: &pst::Policy) -> Result<Self, String> {
        let mut set = PolicySet::new();
        set.add(policy.clone()).map_err(|error| error.to_string())?;
        let literals = text_literals(tree);
        let patterns = literals.iter().filter_map(|text| Pattern::parse(text).ok()).collect();
        let header_names: BTreeSet<String> = literals.iter().map(|text| (*text).to_owned()).collect();
        Ok(Self { set, patterns, header_names: header_names.into_iter().collect() })
    }

    /// Names that may be headers'.
    pub(crate) fn header_names(&self) -> Vec<&str> {
        self.header_names.iter().map(String::as_str).collect()
    }

    /// Whether the policy matches.
    pub(crate) fn eval(&self, view: &View<'_>) -> Outcome {
        self.try_eval(view).unwrap_or(Outcome::Error)
    }

    /// Whether the policy matches; `None` where the facts cannot be put into Cedar.
    pub(crate) fn try_eval(&self, view: &View<'_>) -> Option<Outcome> {
        if matches!(view.request, RequestState::Pending) {
            return Some(Outcome::Unknown);
        }
        let (request, entities) = cedar_request(view, &self.patterns, &self.header_names).ok()?;
        let response = Authorizer::new().is_authorized(&request, &self.set, &entities);
        if response.diagnostics().errors().next().is_some() {
            return Some(Outcome::Error);
        }
        let is_satisfied = response.diagnostics().reason().next().is_some();
        debug_assert!(is_satisfied || response.decision() == Decision::Deny);
        Some(Outcome::from(is_satisfied))
    }
}

/// A view as Cedar's request and entities. `patterns` and `header_names`: those that the policies to be asked mention.
///
/// # Errors
/// Texts that are not UTF-8, and whatever Cedar refuses.
pub(crate) fn cedar_request(
    view: &View<'_>,
    patterns: &[Pattern],
    header_names: &[String],
) -> Result<(Request, Entities), NotCedar> {
    let schema = mesh_schema().map_err(NotCedar)?;
    let mut entities = Vec::new();
    let principal = principal_entities(view, &mut entities)?;
    let resource = resource_entities(view, &mut entities)?;
    let connection = view.connection;
    let matched = |level: PatternLevel| {
        let of_level = patterns.iter().filter(move |p| p.level() == level);
        Expression::new_set(
            of_level.filter(|p| is_match(p, view) == Ok(true)).map(|p| Expression::new_string(p.to_string())),
        )
    };
    let (now, remote_ip) = match view.request {
        RequestState::Known(request) => (request.facts.now, request.remote_ip),
        // An opaque connection brings no clock along; the schema wants one.
        RequestState::Opaque | RequestState::Pending => (SystemTime::now(), connection.source_ip),
    };
    let mut pairs = vec![
        (
            "source".to_owned(),
            record([
                ("ip", Expression::new_ip(connection.source_ip.to_string())),
                ("port", Expression::new_long(i64::from(connection.source_port))),
                ("remoteIp", Expression::new_ip(remote_ip.to_string())),
            ])?,
        ),
        (
            "destination".to_owned(),
            record([
                ("ip", Expression::new_ip(connection.destination_ip.to_string())),
                ("port", Expression::new_long(i64::from(connection.destination_port))),
            ])?,
        ),
        ("now".to_owned(), datetime(now)),
        ("matched".to_owned(), matched(PatternLevel::Connection)),
    ];
    if connection.is_tls {
        let optional = [("sni", &connection.sni), ("alpn", &connection.alpn)];
        let version = ("version", Expression::new_string(connection.tls_version.to_string()));
        let present = optional
            .into_iter()
            .filter_map(|(name, value)| Some((name, Expression::new_string(value.as_deref()?.to_owned()))));
        pairs.push(("tls".to_owned(), record(present.chain([version]))?));
    }
    let is_egress = view.action.intersects(Actions::EGRESS);
    let mut action = if is_egress { "egressTcp" } else { "tcp" };
    if let RequestState::Known(request) = view.request {
        action = match view.action {
            Actions::GRPC => "grpc",
            _ if is_egress => "egressHttp",
            _ => "http",
        };
        let http = http_record(request, header_names, matched(PatternLevel::Request), &mut entities)?;
        pairs.push(("http".to_owned(), http));
        if view.action == Actions::GRPC {
            let path = text(request.path)?;
            let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((&path, ""));
            let grpc = [
                ("service", Expression::new_string(service.to_owned())),
                ("method", Expression::new_string(method.to_owned())),
            ];
            pairs.push(("grpc".to_owned(), record(grpc)?));
        }
        if request.facts.jwt.is_some() {
            pairs.push(("jwt".to_owned(), jwt_record(request, &mut entities)?));
        }
    }
    let context = Context::from_pairs(pairs).map_err(not_cedar)?;
    let request = Request::new(principal, uid("Mesh::Action", action)?, resource, context, Some(&schema.schema))
        .map_err(not_cedar)?;
    let entities = Entities::from_entities(entities, Some(&schema.schema)).map_err(not_cedar)?;
    Ok((request, entities))
}

fn principal_entities(view: &View<'_>, entities: &mut Vec<Entity>) -> Result<EntityUid, NotCedar> {
    let principal = &view.connection.principal;
    let Some((itself, groups)) = principal.entities.split_first() else {
        return Err(NotCedar("no principal".to_owned()));
    };
    let mut parents = Vec::new();
    for group in groups {
        let group_uid = name_uid(group)?;
        if group.kind == Kind::ServiceAccount {
            // A name of a foreign certificate that has a mesh workload's form; its own parents stand beside it.
            let parts: Vec<&str> = group.id.split('/').collect();
            let (trust_domain, namespace, name) = match parts.as_slice() {
                [trust_domain, _, namespace, _, name] => (*trust_domain, *namespace, *name),
                _ => return Err(NotCedar(format!("`{}` is not a service account", group.id))),
            };
            entities.push(account_entity(&group_uid, name, namespace, trust_domain, Vec::new())?);
        } else {
            entities.push(Entity::with_uid(group_uid.clone()));
        }
        parents.push(group_uid);
    }
    let itself_uid = name_uid(itself)?;
    entities.push(match (itself.kind, &principal.account) {
        (Kind::ServiceAccount, Some(account)) => {
            account_entity(&itself_uid, &account.name, &account.namespace, &account.trust_domain, parents)?
        }
        (Kind::ExternalPeer, _) => {
            let attributes = [("id".to_owned(), Expression::new_string(itself.id.to_string()))];
            Entity::new_with_tags(itself_uid.clone(), attributes, parents, []).map_err(not_cedar)?
        }
        _ => Entity::with_uid(itself_uid.clone()),
    });
    Ok(itself_uid)
}

fn account_entity(
    account: &EntityUid,
    name: &str,
    namespace: &str,
    trust_domain: &str,
    parents: Vec<EntityUid>,
) -> Result<Entity, NotCedar> {
    let attribute = |key: &str, value: &str| (key.to_owned(), Expression::new_string(value.to_owned()));
    let attributes =
        [attribute("name", name), attribute("namespace", namespace), attribute("trustDomain", trust_domain)];
    Entity::new_with_tags(account.clone(), attributes, parents, []).map_err(not_cedar)
}

fn resource_entities(view: &View<'_>, entities: &mut Vec<Entity>) -> Result<EntityUid, NotCedar> {
    let Some((itself, groups)) = view.target.entities.split_first() else {
        return Err(NotCedar("no resource".to_owned()));
    };
    let known: BTreeSet<String> = entities.iter().map(|e| e.uid().to_string()).collect();
    let mut parents = Vec::new();
    for group in groups {
        let group_uid = name_uid(group)?;
        if !known.contains(&group_uid.to_string()) {
            entities.push(Entity::with_uid(group_uid.clone()));
        }
        parents.push(group_uid);
    }
    let itself_uid = name_uid(itself)?;
    let attributes: Vec<(String, Expression)> = match itself.kind {
        Kind::ExternalHost => vec![("host".to_owned(), Expression::new_string(itself.id.to_string()))],
        _ => Vec::new(),
    };
    entities.push(Entity::new_with_tags(itself_uid.clone(), attributes, parents, []).map_err(not_cedar)?);
    Ok(itself_uid)
}

fn http_record(
    request: &RequestView<'_>,
    header_names: &[String],
    matched: Expression,
    entities: &mut Vec<Entity>,
) -> Result<Expression, NotCedar> {
    let mut tags = Vec::new();
    for name in header_names {
        let mut lines: Vec<Result<Expression, NotCedar>> = Vec::new();
        request.visit_lines(name, &mut |line| {
            lines.push(text(line).map(Expression::new_string));
            ControlFlow::Continue(())
        });
        if !lines.is_empty() {
            tags.push((name.clone(), Expression::new_set(lines.into_iter().collect::<Result<Vec<_>, _>>()?)));
        }
    }
    let headers = uid("Mesh::Headers", "request")?;
    entities.push(Entity::new_with_tags(headers.clone(), [], [], tags).map_err(not_cedar)?);
    let string = |bytes: &[u8]| text(bytes).map(Expression::new_string);
    let mut fields = vec![
        ("method", Expression::new_string(request.facts.method.to_owned())),
        ("scheme", Expression::new_string(request.facts.scheme.to_owned())),
        ("authority", string(request.authority)?),
        ("host", string(request.host())?),
        ("path", string(request.path)?),
        ("depth", Expression::new_long(request.depth())),
        ("headers", Expression::new_entity_uid(headers)),
        ("matched", matched),
    ];
    if let Some(query) = request.query {
        fields.push(("query", string(query)?));
    }
    record(fields)
}

fn jwt_record(request: &RequestView<'_>, entities: &mut Vec<Entity>) -> Result<Expression, NotCedar> {
    let Some(jwt) = request.facts.jwt else { return Err(NotCedar("no token".to_owned())) };
    let string = |text: &str| Expression::new_string(text.to_owned());
    let texts = |texts: &BTreeSet<String>| Expression::new_set(texts.iter().map(|t| string(t)));
    let principal = format!("{}/{}", jwt.issuer, jwt.subject);
    let (issuer, user, claims) =
        (uid("Mesh::Issuer", &jwt.issuer)?, uid("Mesh::User", &principal)?, uid("Mesh::Claims", "token")?);
    entities.push(Entity::with_uid(issuer.clone()));
    let attributes = [("issuer".to_owned(), string(&jwt.issuer)), ("subject".to_owned(), string(&jwt.subject))];
    entities.push(Entity::new_with_tags(user.clone(), attributes, [issuer], []).map_err(not_cedar)?);
    let tags: Vec<_> = jwt.claims.iter().map(|(key, values)| (key.to_owned(), texts(values))).collect();
    entities.push(Entity::new_with_tags(claims.clone(), [], [], tags).map_err(not_cedar)?);
    let mut fields = vec![
        ("user", Expression::new_entity_uid(user)),
        ("principal", string(&principal)),
        ("issuer", string(&jwt.issuer)),
        ("subject", string(&jwt.subject)),
        ("audiences", jwt.claims.at("aud").map_or_else(|| Expression::new_set([]), texts)),
        ("claims", Expression::new_entity_uid(claims)),
    ];
    if let Some(expires) = jwt.expires {
        fields.push(("expires", datetime(expires)));
    }
    record(fields)
}

fn record<'a>(fields: impl IntoIterator<Item = (&'a str, Expression)>) -> Result<Expression, NotCedar> {
    Expression::new_record(fields.into_iter().map(|(name, value)| (name.to_owned(), value))).map_err(not_cedar)
}

fn name_uid(name: &Name) -> Result<EntityUid, NotCedar> {
    let kind = match name.kind {
        Kind::ServiceAccount => "Mesh::ServiceAccount",
        Kind::ExternalPeer => "Mesh::ExternalPeer",
        Kind::Anonymous => "Mesh::Anonymous",
        Kind::Namespace => "Mesh::Namespace",
        Kind::TrustDomain => "Mesh::TrustDomain",
        Kind::Workload => "Mesh::Workload",
        Kind::Gateway => "Mesh::Gateway",
        Kind::ExternalHost => "Mesh::ExternalHost",
    };
    uid(kind, &name.id)
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, NotCedar> {
    let kind: EntityTypeName = kind.parse().map_err(|error: cedar_policy::ParseErrors| NotCedar(error.to_string()))?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn text(bytes: &[u8]) -> Result<String, NotCedar> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| NotCedar("a text is not UTF-8".to_owned()))
}

/// Whole milliseconds, as an offset from a fixed day: Cedar's text form of an instant knows no more.
fn datetime(time: SystemTime) -> Expression {
    let millis = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let (days, rest) = (millis / 86_400_000, millis % 86_400_000);
    let (year, month, day) = civil(i64::try_from(days).unwrap_or(i64::MAX / 2));
    let (hour, minute, second, millis) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60, rest % 1000);
    Expression::new_datetime(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"))
}

/// Days since 1970-01-01 as a date of the Gregorian calendar: years counted from March, in eras of 400 years (146,097 days).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days.saturating_add(719_468);
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn not_cedar(error: impl std::fmt::Display) -> NotCedar {
    NotCedar(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (20_778, (2026, 11, 21)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(civil(days), date, "{days}");
        }
    }
}
