//! An open loop: requests leave at fixed times whatever comes back, and latency counts from the intended time.
//!
//! One thread with bare sockets: a runtime's timers are too coarse for what is measured here.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::{TimeSpec, TimeValLike},
};

use super::{Load, PATHS, Seen};
use crate::bench::http1::Head;

/// Answers that may be missing at the end before the run counts as failed.
const PATIENCE: Duration = Duration::from_secs(5);

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Bytes of the answer so far.
    filled: usize,
    /// The intended time of the request in flight.
    asked: Option<Instant>,
}

pub(super) fn run(load: &Load) -> anyhow::Result<Seen> {
    ensure!(load.sni.is_none(), "an open loop speaks plaintext");
    let requests: Vec<Vec<u8>> = (0..PATHS).map(|path| load.http1_request(path)).collect();
    let mut clients = Vec::new();
    for _ in 0..load.connections {
        let stream = TcpStream::connect(load.target).with_context(|| load.target.to_string())?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        clients.push(Client { stream, buffer: vec![0; 16 * 1024], filled: 0, asked: None });
    }
    let pause = Duration::from_secs(1) / load.rate.max(1);
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(load.seconds);
    let mut next = begin;
    let mut waiting: VecDeque<Instant> = VecDeque::new();
    let mut idle: Vec<usize> = (0..clients.len()).collect();
    let mut sent = 0;
    let mut latencies: Vec<f64> = Vec::new();
    loop {
        let now = Instant::now();
        while next <= now && next < end {
            waiting.push_back(next);
            next += pause;
        }
        while let (Some(asked), Some(number)) = (waiting.front().copied(), idle.last().copied()) {
            waiting.pop_front();
            idle.pop();
            let client = clients.get_mut(number).context("no such client")?;
            let request = requests.get(sent % PATHS).context("no such request")?;
            // A request is shorter than any socket's buffer.
            client.stream.write_all(request)?;
            client.asked = Some(asked);
            sent += 1;
        }
        if next >= end && waiting.is_empty() && idle.len() == clients.len() {
            break;
        }
        ensure!(now < end + PATIENCE, "requests without an answer");
        let timeout = if next < end { next.saturating_duration_since(Instant::now()) } else { PATIENCE };
        for number in readable(&clients, timeout)? {
            let client = clients.get_mut(number).context("no such client")?;
            if let Some(latency) = client.read()? {
                latencies.push(latency.as_secs_f64() * 1e6);
                idle.push(number);
            }
        }
    }
    let answers = latencies.len() as u64;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Seen { answers, bytes: 0, seconds, latencies_us: quantiles(latencies) })
}

/// p50, p90 and p99.
pub(super) fn quantiles(mut latencies: Vec<f64>) -> Vec<f64> {
    latencies.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index below the length")]
        let index = (latencies.len() as f64 * share) as usize;
        latencies.get(index.min(latencies.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    vec![quantile(0.5), quantile(0.9), quantile(0.99)]
}

fn readable(clients: &[Client], timeout: Duration) -> anyhow::Result<Vec<usize>> {
    let asking: Vec<usize> =
        clients.iter().enumerate().filter(|(_, client)| client.asked.is_some()).map(|(number, _)| number).collect();
    let mut sockets: Vec<PollFd<'_>> = asking
        .iter()
        .filter_map(|number| clients.get(*number))
        .map(|client| PollFd::new(client.stream.as_fd(), PollFlags::POLLIN))
        .collect();
    let nanoseconds = i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX);
    ppoll(&mut sockets, Some(TimeSpec::nanoseconds(nanoseconds)), None)?;
    let is_ready = |socket: &PollFd<'_>| socket.revents().is_some_and(|events| !events.is_empty());
    Ok(asking.iter().zip(&sockets).filter(|(_, socket)| is_ready(socket)).map(|(number, _)| *number).collect())
}

impl Client {
    /// Reads what is there; a complete answer gives its latency.
    fn read(&mut self) -> anyhow::Result<Option<Duration>> {
        loop {
            let room = self.buffer.get_mut(self.filled..).context("too long an answer")?;
            match self.stream.read(room) {
                Ok(0) => anyhow::bail!("the server closed"),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            let filled = self.buffer.get(..self.filled).unwrap_or_default();
            let Some(head) = Head::parse(filled) else { continue };
            ensure!(head.status == 200, "status {}", head.status);
            if self.filled as u64 >= head.length as u64 + head.content_length {
                self.filled = 0;
                return Ok(self.asked.take().map(|asked| asked.elapsed()));
            }
        }
    }
}
