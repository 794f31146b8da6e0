//! A closed loop over HTTP/1.1: a prepared request, the whole answer, the next request.

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::{ClientStream, Load, PATHS, Seen};
use crate::bench::http1::Head;

/// One connection.
pub(super) struct Client {
    stream: ClientStream,
    buffer: Vec<u8>,
    /// Requests made, begun elsewhere on each connection so that the paths mix.
    number: usize,
}

impl Client {
    pub(super) fn new(stream: ClientStream, number: usize) -> Self {
        Self { stream, buffer: Vec::with_capacity(16 * 1024), number }
    }

    pub(super) async fn run(&mut self, load: &Load, end: Instant) -> anyhow::Result<Seen> {
        let requests: Vec<Vec<u8>> = (0..PATHS).map(|path| load.http1_request(path)).collect();
        let mut seen = Seen::default();
        while Instant::now() < end {
            self.number += 1;
            let request = requests.get(self.number % PATHS).context("no such request")?;
            self.stream.write_all(request).await?;
            seen.bytes += read_answer(&mut self.stream, &mut self.buffer).await?;
            seen.answers += 1;
        }
        Ok(seen)
    }
}

/// Reads one answer and nothing after it; gives the length of its body.
pub(super) async fn read_answer(stream: &mut ClientStream, buffer: &mut Vec<u8>) -> anyhow::Result<u64> {
    buffer.clear();
    let head = loop {
        ensure!(stream.read_buf(buffer).await? > 0, "the server closed");
        if let Some(head) = Head::parse(buffer) {
            break head;
        }
    };
    ensure!(head.status == 200, "status {}: {}", head.status, String::from_utf8_lossy(buffer));
    let whole = head.length + usize::try_from(head.content_length)?;
    while buffer.len() < whole {
        ensure!(stream.read_buf(buffer).await? > 0, "the server closed");
    }
    ensure!(buffer.len() == whole, "more than one answer");
    Ok(head.content_length)
}
