//! Answers that count again: kept for a while by what they depend on, and asked for once where equal requests come together.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use palisade_model::external_authorization::{CheckCache, KeyPart};
use parking_lot::Mutex;

use super::{Allowance, CheckAnswer, QuestionHead, Refusal};
use crate::request::{
    changes::HeaderChange,
    connection::Admitted,
    remembered::{Digest, Digesting, Remembered},
};

/// Bytes of an answer that is kept.
const MAX_ANSWER_BYTES: usize = 8 * 1024;
/// Questions in flight that others may join; further ones are asked by themselves.
const MAX_FLIGHTS: usize = 1024;

/// The answers of one check. They die with it, so a change of its policies or its provider's settings forgets everything.
pub struct KeptAnswers {
    cache: CheckCache,
    kept: Remembered<Kept>,
    flights: Mutex<AHashMap<Digest, WeakShared<BoxFuture<'static, Told>>>>,
}

#[derive(Debug, Clone)]
struct Kept {
    answer: Arc<CheckAnswer>,
    until: Instant,
}

/// What came of a call, with what the provider says about keeping it.
#[derive(Debug, Clone)]
pub struct Told {
    /// Its word.
    pub answer: CheckAnswer,
    /// For how long it may be kept.
    pub freshness: Freshness,
}

/// What a provider says about keeping an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing against it.
    Unsaid,
    /// Not longer than this.
    AtMost(Duration),
    /// It stands for one request.
    Never,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSource {
    /// The provider was asked.
    Provider,
    /// It was kept.
    Cache,
    /// An equal request had asked already, and its answer counts for both.
    Flight,
    /// The provider was asked beside the request.
    DryRun,
}

enum Joined {
    Kept(Arc<CheckAnswer>),
    First(Shared<BoxFuture<'static, Told>>),
    Other(Shared<BoxFuture<'static, Told>>),
}

impl KeptAnswers {
    /// Nothing yet.
    pub(crate) fn new(cache: CheckCache) -> Arc<Self> {
        Arc::new(Self { cache, kept: Remembered::default(), flights: Mutex::default() })
    }

    /// What an answer to this question depends on: the caller, where the request goes, and the parts that the policies name.
    pub(crate) fn key(&self, admitted: &Admitted, head: &QuestionHead) -> Digest {
        let mut key = Digesting::default();
        let facts = &admitted.facts;
        let certificate = facts.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
        match certificate {
            Some(certificate) => {
                key.add(format!("{:?}", certificate.trust).as_bytes());
                let names = &certificate.names;
                for list in [&names.uris, &names.dns] {
                    key.count(list.len());
                    list.iter().for_each(|name| key.add(name.as_bytes()));
                }
                key.add(names.subject.as_bytes());
                key.add(
                    certificate.fingerprint.as_deref().filter(|_| names.uris.is_empty()).unwrap_or_default().as_bytes(),
                );
            }
            // Nobody in particular: equal addresses are all that callers have in common.
            None => key.add(facts.source.ip().to_canonical().to_string().as_bytes()),
        }
        key.add(facts.destination.to_string().as_bytes());
        key.add(facts.tls.as_ref().and_then(|tls| tls.sni.as_deref()).unwrap_or_default().as_bytes());
        let (path, query) = match head.target.iter().position(|byte| *byte == b'?') {
            Some(at) => head.target.split_at_checked(at).unwrap_or((&head.target, &[])),
            None => (&*head.target, &[][..]),
        };
        for part in self.cache.key.iter() {
            match part {
                KeyPart::Method => key.add(head.method.as_bytes()),
                KeyPart::Scheme => key.add(head.scheme.as_bytes()),
                KeyPart::Host => key.add(head.authority.as_bytes()),
                KeyPart::Path => key.add(path),
                KeyPart::Query => key.add(query),
                KeyPart::SourceIp => key.add(facts.source.ip().to_canonical().to_string().as_bytes()),
                KeyPart::Header(name) => {
                    let lines = head.headers.get_all(&**name);
                    key.count(lines.iter().count());
                    lines.iter().for_each(|line| key.add(line.as_bytes()));
                }
            }
        }
        key.finish()
    }

    /// The answer that is kept, else the one that an equal request waits for, else the provider's.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        digest: Digest,
        now: Instant,
        ask: impl Fn() -> BoxFuture<'static, Told> + Send,
    ) -> (CheckAnswer, AnswerSource) {
        let is_usable = |kept: &Kept| kept.until > now;
        if let Some(kept) = self.kept.find(&digest).filter(is_usable) {
            return (CheckAnswer::clone(&kept.answer), AnswerSource::Cache);
        }
        match self.join(digest, now, &ask) {
            Joined::Kept(answer) => (CheckAnswer::clone(&answer), AnswerSource::Cache),
            Joined::First(flight) => (flight.await.answer, AnswerSource::Provider),
            Joined::Other(flight) => {
                let told = flight.await;
                // Whoever waited for a call that failed has seen it fail; an answer for one request is nobody else's.
                let is_failure = matches!(told.answer, CheckAnswer::Unavailable(_) | CheckAnswer::BodyTooLarge);
                if is_failure || self.keeps(&told).is_some() {
                    return (told.answer, AnswerSource::Flight);
                }
                (ask().await.answer, AnswerSource::Provider)
            }
        }
    }

    fn join(
        self: &Arc<Self>,
        digest: Digest,
        now: Instant,
        ask: &(impl Fn() -> BoxFuture<'static, Told> + Send),
    ) -> Joined {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(&digest).and_then(WeakShared::upgrade) {
            return Joined::Other(flight);
        }
        // A flight keeps its answer before it ends: between the first look and this one it may have.
        if let Some(kept) = self.kept.find(&digest).filter(|kept| kept.until > now) {
            return Joined::Kept(kept.answer);
        }
        let (call, keeper) = (ask(), Arc::clone(self));
        let flight = async move {
            let told = call.await;
            if let Some(lifetime) = keeper.keeps(&told) {
                // From when it was asked, so that no answer is ever older than that.
                let kept = Kept { answer: Arc::new(told.answer.clone()), until: now + lifetime };
                keeper.kept.remember(digest, kept, |kept| kept.until > now);
            }
            keeper.flights.lock().remove(&digest);
            told
        };
        let flight = flight.boxed().shared();
        if flights.len() >= MAX_FLIGHTS {
            // Those whose callers have all gone.
            flights.retain(|_, flight| flight.upgrade().is_some());
        }
        if flights.len() < MAX_FLIGHTS
            && let Some(weak) = flight.downgrade()
        {
            flights.insert(digest, weak);
        }
        Joined::First(flight)
    }

    /// For how long an answer is kept; `None` = not at all.
    fn keeps(&self, told: &Told) -> Option<Duration> {
        let Told { answer, freshness } = told;
        if size(answer)? > MAX_ANSWER_BYTES || sets_cookies(answer) {
            return None;
        }
        match freshness {
            Freshness::Never => None,
            Freshness::Unsaid => Some(self.cache.lifetime),
            Freshness::AtMost(limit) => Some(self.cache.lifetime.min(*limit)).filter(|lifetime| !lifetime.is_zero()),
        }
    }

    /// What the headers of a provider's answer say about keeping it (RFC 9111), as far as it may narrow.
    pub(crate) fn freshness(&self, headers: &HeaderMap) -> Freshness {
        let named: BTreeSet<&str> = self
            .cache
            .key
            .iter()
            .filter_map(|part| if let KeyPart::Header(name) = part { Some(&**name) } else { None })
            .collect();
        let varies = words(headers, header::VARY).any(|name| !named.contains(name.as_str()));
        let mut freshness = if varies { Freshness::Never } else { Freshness::Unsaid };
        for directive in words(headers, header::CACHE_CONTROL) {
            let (name, value) = directive.split_once('=').unwrap_or((&directive, ""));
            freshness = match (name, freshness) {
                (_, Freshness::Never) | ("no-store" | "no-cache" | "private", _) => Freshness::Never,
                ("max-age" | "s-maxage", said) => match value.trim_matches('"').parse().map(Duration::from_secs) {
                    Ok(limit) => match said {
                        Freshness::AtMost(other) => Freshness::AtMost(other.min(limit)),
                        Freshness::Unsaid | Freshness::Never => Freshness::AtMost(limit),
                    },
                    Err(_) => Freshness::Never,
                },
                (_, said) => said,
            };
        }
        freshness
    }
}

/// The comma-separated words of all lines of a header, in lower case.
fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = String> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| {
            String::from_utf8_lossy(line.as_bytes())
                .split(',')
                .map(|w| w.trim().to_ascii_lowercase())
                .collect::<Vec<_>>()
        })
        .filter(|word| !word.is_empty())
}

/// About how many bytes an answer holds; `None` for what is none.
fn size(answer: &CheckAnswer) -> Option<usize> {
    let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    let changes = |changes: &[HeaderChange]| -> usize {
        let of = |change: &HeaderChange| match change {
            HeaderChange::Remove(name) => name.as_str().len(),
            HeaderChange::Set(name, value) | HeaderChange::Append(name, value) => line((name, value)),
        };
        changes.iter().map(of).sum()
    };
    match answer {
        CheckAnswer::Allowed(Allowance { request, response, parameters, removed_parameters }) => {
            let parameters: usize = parameters.iter().map(|(name, value)| name.len() + value.len()).sum();
            let removed: usize = removed_parameters.iter().map(String::len).sum();
            Some(changes(request) + changes(response) + parameters + removed)
        }
        CheckAnswer::Denied(Refusal { status: _, headers, body }) => {
            Some(body.len() + headers.iter().map(|(name, value)| line((name, value))).sum::<usize>())
        }
        CheckAnswer::Unavailable(_) | CheckAnswer::BodyTooLarge => None,
    }
}

/// A cookie is for whoever was asked about.
fn sets_cookies(answer: &CheckAnswer) -> bool {
    match answer {
        CheckAnswer::Allowed(allowance) => allowance.response.iter().any(|change| match change {
            HeaderChange::Set(name, _) | HeaderChange::Append(name, _) => *name == header::SET_COOKIE,
            HeaderChange::Remove(_) => false,
        }),
        CheckAnswer::Denied(refusal) => refusal.headers.iter().any(|(name, _)| *name == header::SET_COOKIE),
        CheckAnswer::Unavailable(_) | CheckAnswer::BodyTooLarge => false,
    }
}

impl Told {
    /// An answer about which nothing is said.
    pub(crate) fn plainly(answer: CheckAnswer) -> Self {
        Self { answer, freshness: Freshness::Unsaid }
    }
}

impl std::fmt::Debug for KeptAnswers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptAnswers").field("cache", &self.cache).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
