//! The access log: one JSON object a line on a writer thread that requests never wait for.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use prometheus_client::metrics::counter::Counter;

use super::record::Record;

/// Lines that may wait for the writer. At about 600 bytes a line this bounds the memory of a stalled reader to 5 MiB.
const QUEUE: usize = 8192;

/// Handle for writing records. Cheap to clone.
///
/// When the reader of the log stalls, lines are dropped and counted; traffic does not wait for a log.
#[derive(Debug, Clone)]
pub struct AccessLog {
    lines: SyncSender<Message>,
    dropped: Counter,
}

/// Keeps the writer thread; [`AccessLogWriter::close`] writes what is queued and ends it.
#[derive(Debug)]
pub struct AccessLogWriter {
    lines: SyncSender<Message>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    Close,
}

impl AccessLog {
    /// Starts the writer thread over `output`; `dropped` counts lines that did not fit.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(output: impl Write + Send + 'static, dropped: Counter) -> io::Result<(Self, AccessLogWriter)> {
        let (lines, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&queue, output))?;
        Ok((Self { lines: lines.clone(), dropped }, AccessLogWriter { lines, thread }))
    }

    /// Queues one record. Never blocks.
    pub fn write(&self, record: &Record) {
        // INVARIANT: a record holds no map with non-text keys, so it always serialises.
        let Ok(mut line) = serde_json::to_vec(record) else {
            self.dropped.inc();
            return;
        };
        line.push(b'\n');
        match self.lines.try_send(Message::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.inc();
            }
        }
    }
}

impl AccessLogWriter {
    /// Writes what is queued, then ends the thread.
    pub fn close(self) {
        // The thread is gone only when its output failed; there is nothing left to flush then.
        if self.lines.send(Message::Close).is_ok() && self.thread.join().is_err() {
            tracing::error!("the access log writer panicked");
        }
    }
}

fn write_all(queue: &Receiver<Message>, output: impl Write) {
    let mut output = io::BufWriter::with_capacity(64 * 1024, output);
    // Flush when the queue runs empty: full buffers under load, no delay without.
    while let Ok(first) = queue.recv() {
        let mut message = Some(first);
        while let Some(next) = message {
            let Message::Line(line) = next else {
                report(output.flush());
                return;
            };
            if !report(output.write_all(&line)) {
                return;
            }
            message = queue.try_recv().ok();
        }
        if !report(output.flush()) {
            return;
        }
    }
}

fn report(result: io::Result<()>) -> bool {
    if let Err(error) = &result {
        tracing::error!(%error, "writing the access log failed; no further lines are written");
    }
    result.is_ok()
}

/// Shared bytes as an output, for tests and the in-process mesh.
#[derive(Debug, Clone, Default)]
pub struct Capture(Arc<parking_lot::Mutex<Vec<u8>>>);

impl Capture {
    /// What has been written so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use jiff::Timestamp;

    use super::*;
    use crate::telemetry::record::Direction;

    fn record() -> Record {
        Record::new(Timestamp::UNIX_EPOCH, "default/web-0".into(), Direction::Outbound)
    }

    #[test]
    fn closing_writes_every_queued_line() {
        let capture = Capture::default();
        let (log, writer) = AccessLog::start(capture.clone(), Counter::default()).unwrap();
        (0..100).for_each(|_| log.write(&record()));
        writer.close();
        assert_eq!(capture.text().lines().count(), 100);
    }

    /// An output that waits for permission before every write.
    struct Stalled(Receiver<()>);

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stalled_reader_costs_lines_not_requests() {
        let (release, gate) = channel();
        let dropped = Counter::default();
        let (log, writer) = AccessLog::start(Stalled(gate), dropped.clone()).unwrap();
        // More than the queue and the writer's buffer hold together.
        (0..2 * QUEUE).for_each(|_| log.write(&record()));
        assert!(dropped.get() > 0);
        drop(release);
        writer.close();
    }
}
