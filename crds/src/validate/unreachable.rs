//! Rules of a VirtualService that no request reaches: Istio warns.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::codes::Code;
use crate::istio::{HttpMatchRequest, StringMatch, VirtualService};
use crate::schema::Cursor;

const CODE: Code = Code::VirtualServiceWarning;

pub(super) fn check(service: &VirtualService, cursor: &mut Cursor<'_>) {
    let http: Vec<Vec<String>> = service
        .http
        .iter()
        .map(|route| {
            let unnamed = route.r#match.iter().map(|item| HttpMatchRequest { name: String::new(), ..item.clone() });
            unnamed.map(|item| text(&item)).collect()
        })
        .collect();
    let tls: Vec<Vec<String>> = service.tls.iter().map(|route| route.r#match.iter().map(text).collect()).collect();
    let tcp: Vec<Vec<String>> = service.tcp.iter().map(|route| route.r#match.iter().map(text).collect()).collect();
    for (field, rules) in [("http", http), ("tls", tls), ("tcp", tcp)] {
        cursor.within(field, |cursor| repeated(&rules, cursor));
    }
    cursor.within("http", |cursor| covered(service, cursor));
}

fn text(item: &impl Serialize) -> String {
    // Types that serialise without fail; if one did not, it would only not be recognised as a repetition.
    serde_json::to_string(item).unwrap_or_else(|error| error.to_string())
}

/// Rules behind one without matches, and matches that an earlier rule has too.
fn repeated(rules: &[Vec<String>], cursor: &mut Cursor<'_>) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut catch_all: Option<usize> = None;
    for (index, matches) in rules.iter().enumerate() {
        if let Some(earlier) = catch_all {
            cursor.report_at(index, CODE, format!("the rule is never reached: rule {earlier} matches everything"));
        }
        if matches.is_empty() {
            catch_all = Some(index);
            continue;
        }
        let mut repeated = 0;
        for (position, item) in matches.iter().enumerate().filter(|_| catch_all.is_none()) {
            match seen.get(item.as_str()) {
                Some(earlier) => {
                    repeated += 1;
                    cursor.within(index, |cursor| {
                        cursor.within("match", |cursor| {
                            cursor.report_at(
                                position,
                                CODE,
                                format!("the match is without effect: rule {earlier} has it too"),
                            )
                        });
                    });
                }
                None => {
                    seen.insert(item, index);
                }
            }
        }
        if repeated == matches.len() {
            cursor.report_at(index, CODE, "the rule is never reached: earlier rules have all its matches");
        }
    }
}

/// A prefix match that an earlier, shorter prefix takes everything from.
fn covered(service: &VirtualService, cursor: &mut Cursor<'_>) {
    let mut earlier: Vec<(usize, Prefix)> = Vec::new();
    for (index, route) in service.http.iter().enumerate() {
        for (position, item) in route.r#match.iter().enumerate() {
            let Some(prefix) = Prefix::of(item) else { continue };
            if let Some((by, shorter)) =
                earlier.iter().find(|(_, other)| other.prefix != prefix.prefix && other.covers(&prefix))
            {
                let message = format!(
                    "the match is without effect: the prefix `{}` of rule {by} takes its requests",
                    shorter.prefix
                );
                cursor
                    .within(index, |cursor| cursor.within("match", |cursor| cursor.report_at(position, CODE, message)));
            }
            earlier.push((index, prefix));
        }
    }
}

/// The parts of a match that Istio compares.
struct Prefix {
    prefix: String,
    port: u32,
    method: String,
    authority: String,
    headers: BTreeMap<String, String>,
    query_params: BTreeMap<String, String>,
    without_headers: BTreeMap<String, String>,
}

impl Prefix {
    fn of(item: &HttpMatchRequest) -> Option<Self> {
        let Some(StringMatch::Prefix(prefix)) = &item.uri else { return None };
        if prefix.is_empty() {
            return None;
        }
        let of_map = |conditions: &BTreeMap<String, StringMatch>| {
            conditions.iter().map(|(name, condition)| (name.clone(), tagged(Some(condition)))).collect()
        };
        let method = tagged(item.method.as_ref());
        Some(Self {
            prefix: prefix.clone(),
            port: item.port.unwrap_or(0),
            method: if method.is_empty() { "exact:GET".to_owned() } else { method },
            authority: tagged(item.authority.as_ref()),
            headers: of_map(&item.headers),
            query_params: of_map(&item.query_params),
            without_headers: of_map(&item.without_headers),
        })
    }

    fn covers(&self, other: &Self) -> bool {
        let all = |ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>| {
            ours.len() == theirs.len()
                && ours
                    .iter()
                    .all(|(name, ours)| theirs.get(name).is_some_and(|theirs| ours.starts_with(theirs.as_str())))
        };
        other.prefix.starts_with(&self.prefix)
            && self.port == other.port
            && self.method.starts_with(&other.method)
            && self.authority.starts_with(&other.authority)
            && all(&self.headers, &other.headers)
            && all(&self.query_params, &other.query_params)
            && all(&self.without_headers, &other.without_headers)
    }
}

fn tagged(condition: Option<&StringMatch>) -> String {
    match condition {
        Some(StringMatch::Exact(text)) if !text.is_empty() => format!("exact:{text}"),
        Some(StringMatch::Prefix(text)) if !text.is_empty() => format!("prefix:{text}"),
        _ => String::new(),
    }
}
