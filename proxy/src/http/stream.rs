//! What is kept of a request in progress, so that a new configuration can judge it again.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::HeaderMap;
use palisade_model::reason::Reason;

use crate::{
    index::RuntimeIndex,
    request::{
        self,
        authorize::Depth,
        external::Testimony,
        facts::{Chance, HttpVersion, Request},
        verdict::Authorization,
    },
    runtime::{Runtime, connection::ConnectionContext},
    transport::Revoker,
};

/// A request in progress.
#[derive(Debug)]
pub struct StreamSubject {
    /// Its connection.
    pub connection: Arc<ConnectionContext>,
    /// Its head as received.
    pub head: Arc<OwnedRequest>,
    /// What providers said of it, and when its tokens were judged: a stream outlives its token.
    pub testimony: Testimony,
    /// Ends it, once it is coupled with its upstream.
    pub revoker: OnceLock<Revoker>,
    /// What a later configuration said against it.
    pub denial: OnceLock<Authorization>,
}

/// The head of a request, owned.
#[derive(Debug, Clone)]
pub struct OwnedRequest {
    /// Method.
    pub method: http::Method,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Authority as received.
    pub authority: Bytes,
    /// Target as received.
    pub target: Bytes,
    /// Version.
    pub version: HttpVersion,
    /// Header lines.
    pub headers: HeaderMap,
}

impl OwnedRequest {
    /// The pipeline's view of it.
    pub fn facts(&self) -> Request<'_> {
        Request {
            method: self.method.as_str(),
            scheme: self.scheme,
            authority: &self.authority,
            target: &self.target,
            version: self.version,
            headers: &self.headers,
            jwt: None,
        }
    }
}

impl StreamSubject {
    /// Whether a configuration still lets this request go on: admission and authorization, not routing.
    ///
    /// # Errors
    /// The reason for which it ends.
    pub fn still_permitted(&self, runtime: &Runtime, index: &Arc<RuntimeIndex>) -> Result<(), Reason> {
        let standing = self.connection.standing(runtime, index).map_err(|refused| refused.reason)?;
        let mut chance = Chance::fixed(std::time::SystemTime::now(), 0.0).with_depth(Depth::Recheck);
        let (admitted, facts) = (&standing.admitted, self.head.facts());
        let verdict = request::decide_http_with(index, admitted, Some(&facts), &self.testimony, &mut chance);
        match verdict.authorization {
            Some(authorization) if !authorization.is_allowed => {
                // The first one counts.
                drop(self.denial.set(authorization));
                Err(verdict.reason)
            }
            // A provider that was not asked yet has not allowed it: the next request is put before it. Nor has an engine that was
            // not asked, because it is not known where the request leads.
            None => Err(verdict.reason),
            Some(_) => Ok(()),
        }
    }

    /// Ends the request where nothing may move on it for a long time: it, or the connection whose only load it is.
    pub fn end(&self, reason: Reason) {
        if self.revoker.get().is_some_and(Revoker::revoke) {
            return;
        }
        if self.connection.is_http1()
            && let Some(registration) = self.connection.registration()
        {
            registration.close(reason);
        }
    }
}
