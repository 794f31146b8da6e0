//! Finding what a name means: as it is, completed with a search domain, or without one that a client has added.

use std::net::IpAddr;

use hickory_proto::rr::Name;

use super::{Answer, Names};

/// Aliases followed for one query; a longer chain is a loop.
const ALIAS_LIMIT: usize = 8;

/// What became of a search.
pub(super) enum Sought {
    /// `name` owns the addresses; `chain` leads from the queried name to it, by pairs of a name and what it stands for.
    Here { chain: Vec<(Name, Name)>, name: Name, addresses: Vec<IpAddr> },
    /// The mesh does not have `name`.
    Elsewhere { chain: Vec<(Name, Name)>, name: Name },
    /// Nobody can tell yet.
    Unavailable,
}

/// Looks for a queried name, and follows its aliases.
pub(super) async fn seek<N: Names>(names: &N, search: &[String], queried: &Name) -> Sought {
    let mut chain = Vec::new();
    let mut owner = queried.clone();
    let mut answer = match spelled(queried) {
        Some(name) => {
            let Found { answer, without_domain } = find(names, search, &name).await;
            if let Some(name) = without_domain {
                let Some(name) = whole(&name) else { return Sought::Unavailable };
                chain.push((std::mem::replace(&mut owner, name.clone()), name));
            }
            answer
        }
        None => Answer::Unknown,
    };
    for _ in 0..ALIAS_LIMIT {
        let target = match answer {
            Answer::Addresses(addresses) => return Sought::Here { chain, name: owner, addresses },
            Answer::Unknown => return Sought::Elsewhere { chain, name: owner },
            Answer::Unavailable => return Sought::Unavailable,
            Answer::Alias(target) => target,
        };
        let Some(name) = whole(&target) else { return Sought::Unavailable };
        chain.push((std::mem::replace(&mut owner, name.clone()), name));
        answer = names.resolve(target.trim_end_matches('.')).await;
    }
    Sought::Unavailable
}

struct Found {
    answer: Answer,
    /// The client has added a search domain to this name, which is the one that is known.
    without_domain: Option<String>,
}

async fn find<N: Names>(names: &N, search: &[String], name: &str) -> Found {
    match completed(names, search, name).await {
        Answer::Unknown => {}
        answer => return Found { answer, without_domain: None },
    }
    for domain in search {
        let Some(short) = without(name, domain) else { continue };
        // `reviews.default.svc.cluster.local.default.svc.cluster.local` does not exist, as Kubernetes' DNS says.
        if without(short, domain).is_some() {
            continue;
        }
        match completed(names, search, short).await {
            Answer::Unknown => {}
            Answer::Unavailable => return Found { answer: Answer::Unavailable, without_domain: None },
            answer => return Found { answer, without_domain: Some(short.to_owned()) },
        }
    }
    Found { answer: Answer::Unknown, without_domain: None }
}

/// Looks for the name itself, then, for clients that do not complete names themselves, for a short one with each search domain:
/// `reviews`, `reviews.default`, `reviews.default.svc`, `db-0.db.data.svc`.
async fn completed<N: Names>(names: &N, search: &[String], name: &str) -> Answer {
    match names.resolve(name).await {
        Answer::Unknown => {}
        known => return known,
    }
    if name.split('.').count() <= 3 || name.ends_with(".svc") {
        for domain in search {
            match names.resolve(&format!("{name}.{domain}")).await {
                Answer::Unknown => {}
                known => return known,
            }
        }
    }
    Answer::Unknown
}

fn without<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    name.strip_suffix(domain).and_then(|name| name.strip_suffix('.')).filter(|name| !name.is_empty())
}

fn whole(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The name as the mesh spells names; `None` for one with bytes that no host name has.
fn spelled(name: &Name) -> Option<String> {
    let mut spelled = String::new();
    for label in name.iter() {
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)) {
            return None;
        }
        if !spelled.is_empty() {
            spelled.push('.');
        }
        spelled.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    (!spelled.is_empty()).then_some(spelled)
}
