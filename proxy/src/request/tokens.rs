//! Verification of tokens: what RequestAuthentications ask for, judged on one request as Envoy's JWT filter does.
//!
//! A request without a token passes; a token that no rule verifies is refused. The first rule, by issuer, that verifies a token
//! speaks for the request. Everything that the rules write into headers is first taken away from what the client sent.

mod json;
mod jws;
mod keys;
mod locate;
mod outputs;
mod status;

use std::{
    borrow::Cow,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, header};
use palisade_model::authentication::{Authentication, TokenLocation, TokenRule};
use palisade_policy::JwtFacts;
use serde_json::{Map, Value};

pub use status::TokenStatus;

use self::{
    jws::{Jws, MAX_TOKEN_BYTES},
    keys::KeySet,
    locate::Located,
};
use super::{
    changes::HeaderChange,
    remembered::{Digesting, Remembered},
};

/// Clocks may differ by this much (Envoy's default).
const CLOCK_SKEW_SECONDS: u64 = 60;

/// The rules of one target, ready to judge.
#[derive(Debug)]
pub struct TokenVerifier {
    rules: Box<[CompiledRule]>,
    refuse_tokens: Option<Arc<str>>,
    /// Headers that only verified tokens may set.
    reserved: Box<[HeaderName]>,
    /// Tokens whose signatures were verified already, at about 2 KiB each. They die with the rules, so a change of keys or rules
    /// forgets everything.
    verified: Remembered<Arc<VerifiedToken>>,
}

#[derive(Debug)]
struct CompiledRule {
    rule: TokenRule,
    keys: KeySet,
}

/// A token whose signature was verified; time and audience are judged for each request.
#[derive(Debug)]
pub struct VerifiedToken {
    /// What policies and routes read.
    pub facts: JwtFacts,
    claims: Map<String, Value>,
    audiences: Box<[String]>,
    not_before: u64,
    /// 0 = never expires.
    expires: u64,
    payload: Box<str>,
}

/// What a request's tokens are judged on.
#[derive(Debug, Clone, Copy)]
pub struct TokenRequest<'a> {
    /// Method.
    pub method: &'a str,
    /// Header lines.
    pub headers: &'a HeaderMap,
    /// Query without `?`.
    pub query: Option<&'a [u8]>,
    /// The time at which tokens are valid or not.
    pub now: SystemTime,
}

/// What tokens make of a request.
#[derive(Debug, Default)]
pub struct Authenticated {
    /// The verified token; `None` = the request carries none.
    pub facts: Option<JwtFacts>,
    /// Changes to the request's headers, before any other.
    pub changes: Vec<HeaderChange>,
    /// The query without the token, empty where nothing else is in it; `None` = it stays as it is.
    pub query: Option<Vec<u8>>,
}

impl TokenVerifier {
    /// Rules with their keys read. Keys that cannot be used verify nothing.
    pub fn new(authentication: &Authentication) -> Self {
        let Authentication { key: _, rules, refuse_tokens } = authentication;
        let mut reserved: Vec<HeaderName> = Vec::new();
        for rule in rules.iter() {
            let names = rule.payload_header.iter().chain(rule.claim_headers.iter().map(|claim| &claim.header));
            // A name that no header can have cannot be sent by a client either.
            reserved.extend(names.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()));
        }
        reserved.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        reserved.dedup();
        let rules = rules.iter().map(|rule| {
            let mut locations = rule.locations.to_vec();
            locations.sort_by(locate::order);
            let rule = TokenRule { locations: locations.into(), ..rule.clone() };
            let keys = KeySet::parse(&rule.keys);
            CompiledRule { rule, keys }
        });
        Self {
            rules: rules.collect(),
            refuse_tokens: refuse_tokens.clone(),
            reserved: reserved.into(),
            verified: Remembered::default(),
        }
    }

    /// Judges the tokens of a request.
    ///
    /// # Errors
    /// Why the request is refused.
    pub fn judge(&self, request: &TokenRequest<'_>) -> Result<Authenticated, TokenStatus> {
        let mut authenticated = Authenticated { changes: self.cleared(request.headers), ..Authenticated::default() };
        if is_preflight(request) {
            return Ok(authenticated);
        }
        if self.refuse_tokens.is_some() && self.carries_token(request) {
            return Err(TokenStatus::NoMatchingKey);
        }
        let now = seconds(request.now);
        let mut worst = TokenStatus::Missing;
        for (index, compiled) in self.rules.iter().enumerate() {
            match self.judge_rule(index, compiled, request, now) {
                Ok((token, places)) => {
                    if !compiled.rule.forwards_token {
                        locate::remove(&places, request, &mut authenticated);
                    }
                    outputs::write(&compiled.rule, &token.claims, Some(&token.payload), &mut authenticated.changes);
                    authenticated.facts = Some(token.facts.clone());
                    return Ok(authenticated);
                }
                // As Envoy: what is wrong with a token says more than that it belongs to someone else, or is not there.
                Err(status) if worst == TokenStatus::Missing || status.is_specific() => worst = status,
                Err(_) => {}
            }
        }
        if worst != TokenStatus::Missing && self.rules.len() > 1 && self.judge_each(request, now, &mut authenticated) {
            return Ok(authenticated);
        }
        match worst {
            TokenStatus::Missing if !self.rules.iter().any(|compiled| compiled.rule.is_required) => Ok(authenticated),
            status => Err(status),
        }
    }

    /// What claims that count as a verified token's make of a request.
    pub fn vouched(&self, headers: &HeaderMap, claims: &Map<String, Value>) -> Authenticated {
        let mut authenticated = Authenticated { changes: self.cleared(headers), ..Authenticated::default() };
        let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        let rules = || self.rules.iter().map(|compiled| &compiled.rule);
        let rule = rules()
            .find(|rule| rule.issuer.as_deref() == Some(issuer))
            .or_else(|| rules().find(|rule| rule.issuer.is_none()));
        if let Some(rule) = rule {
            outputs::write(rule, claims, None, &mut authenticated.changes);
        }
        authenticated.facts = Some(facts_of(claims, rule));
        authenticated
    }

    fn cleared(&self, headers: &HeaderMap) -> Vec<HeaderChange> {
        self.reserved.iter().filter(|name| headers.contains_key(*name)).cloned().map(HeaderChange::Remove).collect()
    }

    fn carries_token(&self, request: &TokenRequest<'_>) -> bool {
        let named = self.rules.iter().flat_map(|compiled| compiled.rule.locations.iter());
        let defaults = default_locations();
        named.chain(&defaults).any(|location| locate::find(location, request) != Located::Nothing)
    }

    /// Whether each token of the request is good for some rule that looks where it stands: tokens of several issuers side by side. The
    /// first speaks for the request.
    fn judge_each(&self, request: &TokenRequest<'_>, now: u64, authenticated: &mut Authenticated) -> bool {
        let mut good: Vec<(&CompiledRule, &TokenLocation, Arc<VerifiedToken>)> = Vec::new();
        for location in self.rules.iter().flat_map(|rule| rule.rule.locations.iter()) {
            if good.iter().any(|(_, known, _)| *known == location) {
                continue;
            }
            let token: Cow<'_, str> = match locate::find(location, request) {
                Located::Nothing => continue,
                Located::Several => return false,
                Located::Token(token) => token,
            };
            let verified = self.rules.iter().enumerate().find_map(|(index, rule)| {
                let looks = rule.rule.locations.contains(location);
                let token = looks.then(|| self.verify(index, rule, &token, now).ok())??;
                Some((rule, location, token))
            });
            let Some(verified) = verified else { return false };
            good.push(verified);
        }
        let Some((speaking, _, first)) = good.first() else { return false };
        outputs::write(&speaking.rule, &first.claims, Some(&first.payload), &mut authenticated.changes);
        authenticated.facts = Some(first.facts.clone());
        let taken = good.iter().filter(|(rule, ..)| !rule.rule.forwards_token).map(|(_, location, _)| *location);
        locate::remove(&taken.collect::<Vec<_>>(), request, authenticated);
        true
    }

    /// Judges every token that stands where a rule looks. One that is not good spoils the others: which of them an application would
    /// read cannot be known. The first speaks for the request.
    fn judge_rule<'a>(
        &self,
        index: usize,
        compiled: &'a CompiledRule,
        request: &TokenRequest<'_>,
        now: u64,
    ) -> Result<(Arc<VerifiedToken>, Vec<&'a TokenLocation>), TokenStatus> {
        let (mut first, mut places) = (None, Vec::new());
        for location in compiled.rule.locations.iter() {
            let token: Cow<'_, str> = match locate::find(location, request) {
                Located::Nothing => continue,
                Located::Several => return Err(TokenStatus::Several),
                Located::Token(token) => token,
            };
            let verified = self.verify(index, compiled, &token, now)?;
            first.get_or_insert(verified);
            places.push(location);
        }
        first.map(|token| (token, places)).ok_or(TokenStatus::Missing)
    }

    fn verify(
        &self,
        index: usize,
        compiled: &CompiledRule,
        token: &str,
        now: u64,
    ) -> Result<Arc<VerifiedToken>, TokenStatus> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenStatus::BadFormat);
        }
        // As seen by one rule.
        let mut digesting = Digesting::default();
        digesting.count(index);
        digesting.add(token.as_bytes());
        let digest = digesting.finish();
        if let Some(known) = self.verified.find(&digest) {
            check(&compiled.rule, &known.audiences, known.not_before, known.expires, now)?;
            return Ok(known);
        }
        let jws = Jws::parse(token)?;
        if compiled.rule.issuer.as_deref().is_some_and(|issuer| issuer != jws.issuer) {
            return Err(TokenStatus::UnknownIssuer);
        }
        check(&compiled.rule, &jws.audiences, jws.not_before, jws.expires, now)?;
        compiled.keys.verify(&jws)?;
        let Jws { claims, audiences, not_before, expires, payload, .. } = jws;
        let token = Arc::new(VerifiedToken {
            facts: facts_of(&claims, Some(&compiled.rule)),
            claims,
            audiences: audiences.into(),
            not_before,
            expires,
            payload: payload.into(),
        });
        let earliest = now.saturating_sub(CLOCK_SKEW_SECONDS);
        let is_alive = |known: &Arc<VerifiedToken>| known.expiry().is_none_or(|expiry| expiry >= earliest);
        self.verified.remember(digest, Arc::clone(&token), is_alive);
        Ok(token)
    }
}

impl VerifiedToken {
    /// Unix seconds after which the token is worth nothing; `None` = it does not expire.
    fn expiry(&self) -> Option<u64> {
        (self.expires != 0).then_some(self.expires)
    }
}

/// Where a token is looked for if no rule says otherwise.
pub fn default_locations() -> [TokenLocation; 2] {
    [
        TokenLocation::Header { name: "authorization".into(), prefix: "Bearer ".into() },
        TokenLocation::Query("access_token".into()),
    ]
}

fn facts_of(claims: &Map<String, Value>, rule: Option<&TokenRule>) -> JwtFacts {
    let delimited: Vec<&str> =
        rule.map(|rule| rule.space_delimited.iter().map(|name| &**name).collect()).unwrap_or_default();
    JwtFacts::from_claims(claims, &delimited)
}

/// Time first, then audience, as Envoy.
fn check(rule: &TokenRule, audiences: &[String], not_before: u64, expires: u64, now: u64) -> Result<(), TokenStatus> {
    if now.saturating_add(CLOCK_SKEW_SECONDS) < not_before {
        return Err(TokenStatus::NotYetValid);
    }
    if expires != 0 && now > expires.saturating_add(CLOCK_SKEW_SECONDS) {
        return Err(TokenStatus::Expired);
    }
    let is_wanted = |audience: &String| rule.audiences.iter().any(|wanted| plain(wanted) == plain(audience));
    if rule.audiences.is_empty() || audiences.iter().any(is_wanted) {
        Ok(())
    } else {
        Err(TokenStatus::AudienceNotAllowed)
    }
}

/// An audience without scheme and final slash: Envoy compares them so.
fn plain(audience: &str) -> &str {
    let rest = audience.strip_prefix("http://").or_else(|| audience.strip_prefix("https://")).unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

/// A CORS preflight, which carries no credentials.
fn is_preflight(request: &TokenRequest<'_>) -> bool {
    let is_there = |name: HeaderName| request.headers.get(name).is_some_and(|value| !value.is_empty());
    request.method == "OPTIONS" && is_there(header::ORIGIN) && is_there(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
