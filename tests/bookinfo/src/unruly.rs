//! Unruly: a service that answers, stalls, refuses, breaks off, closes and dies, as a seed decides.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;

/// Header by which an answer is told from every other one: it comes back in the body.
pub(crate) const TOKEN: &str = "x-chaos-token";

/// How long a stalling answer waits.
const STALL: Duration = Duration::from_millis(300);

/// A connection on which no head arrives for so long is closed.
const HEAD_LIMIT: Duration = Duration::from_secs(60);

/// How one request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Answer,
    Stall,
    Refuse,
    /// Closes without a byte of an answer.
    Close,
    /// Half an answer, then the connection closes.
    BreakOff,
    /// The whole process ends.
    Die,
}

/// Moods in a fixed order that a seed decides; equal seeds misbehave alike.
#[derive(Debug)]
struct Moods {
    seed: u64,
    requests: AtomicU64,
}

impl Moods {
    fn next(&self) -> Mood {
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        // SplitMix64, so that neighbours differ.
        let mut mixed = self.seed.wrapping_add(request.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        match (mixed ^ (mixed >> 31)) % 10_000 {
            0..8_000 => Mood::Answer,
            8_000..8_500 => Mood::Stall,
            8_500..9_000 => Mood::Refuse,
            9_000..9_500 => Mood::Close,
            9_500..9_997 => Mood::BreakOff,
            _ => Mood::Die,
        }
    }
}

/// Accepts connections until the listener fails.
pub(crate) async fn serve(listener: TcpListener, service: String, seed: u64) -> std::io::Result<()> {
    println!("listening on {}", listener.local_addr()?);
    let service: Arc<str> = service.into();
    let moods = Arc::new(Moods { seed, requests: AtomicU64::new(0) });
    loop {
        let (stream, _) = listener.accept().await?;
        let (service, moods) = (Arc::clone(&service), Arc::clone(&moods));
        tokio::spawn(async move {
            let answer = service_fn(move |request| answer(Arc::clone(&service), moods.next(), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_LIMIT)
                .serve_connection(TokioIo::new(stream), answer);
            // What breaks here was meant to.
            if let Err(error) = connection.await {
                println!("connection: {error}");
            }
        });
    }
}

async fn answer(
    service: Arc<str>,
    mood: Mood,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, std::io::Error>>, std::io::Error> {
    let whole = whole(&service, request.headers(), request.uri().path());
    let full = |bytes: Bytes| Full::new(bytes).map_err(|never: Infallible| match never {}).boxed();
    match mood {
        Mood::Answer => Ok(Response::new(full(whole))),
        Mood::Stall => {
            tokio::time::sleep(STALL).await;
            Ok(Response::new(full(whole)))
        }
        Mood::Refuse => {
            let mut response = Response::new(full(whole));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            Ok(response)
        }
        Mood::Die => {
            println!("ends on purpose");
            std::process::exit(1)
        }
        Mood::Close => Err(std::io::Error::other("closed on purpose")),
        Mood::BreakOff => {
            let length = u64::try_from(whole.len()).unwrap_or(u64::MAX);
            let half = whole.slice(..whole.len() / 2);
            Ok(Response::new(Half { first: Some(half), length }.boxed()))
        }
    }
}

fn whole(service: &str, headers: &HeaderMap, path: &str) -> Bytes {
    let token = headers.get(TOKEN).map(|token| String::from_utf8_lossy(token.as_bytes()).into_owned());
    Bytes::from(json!({"service": service, "token": token, "path": path}).to_string())
}

/// A body that promises more than it gives.
struct Half {
    first: Option<Bytes>,
    length: u64,
}

impl Body for Half {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Ready(Some(match self.first.take() {
            Some(bytes) => Ok(Frame::data(bytes)),
            None => Err(std::io::Error::other("broken off on purpose")),
        }))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_misbehave_alike_and_mostly_well() {
        let moods = |seed| -> Vec<Mood> {
            let moods = Moods { seed, requests: AtomicU64::new(0) };
            (0..1_000).map(|_| moods.next()).collect()
        };
        assert_eq!(moods(7), moods(7));
        assert_ne!(moods(7), moods(8));
        let good = moods(7).iter().filter(|mood| **mood == Mood::Answer).count();
        assert!((700..900).contains(&good), "{good}");
    }
}
