//! The access log: one JSON object a line, gathered in memory and written by a thread that requests never wait for.

use std::{
    cell::RefCell,
    io::{self, Write},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;

use super::{line, record::Record};

/// Bytes that may wait for the writer; at about 600 bytes a line, 8,000 lines. Bounds the memory of a stalled reader.
const QUEUE: usize = 5 * 1024 * 1024;

/// How long the writer gathers lines after the first: one wake-up and one write for all of them.
const GATHER: Duration = Duration::from_millis(10);

/// Room that the writer keeps between batches.
const KEPT: usize = 256 * 1024;

/// Handle for writing records. Cheap to clone.
///
/// When the reader of the log stalls, lines are dropped and counted; traffic does not wait for a log.
#[derive(Debug, Clone)]
pub struct AccessLog {
    queue: Arc<Queue>,
    dropped: Counter,
}

/// Keeps the writer thread; [`AccessLogWriter::close`] writes what is queued and ends it.
#[derive(Debug)]
pub struct AccessLogWriter {
    queue: Arc<Queue>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Mutex<Lines>,
    /// Tells the writer of the first line, or of the end.
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
    /// No further lines are taken: closed, or the output failed.
    is_closed: bool,
}

thread_local! {
    /// Where this thread writes a line before it is queued, so that the lock is held for a copy only.
    static LINE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(1024));
}

impl AccessLog {
    /// Starts the writer thread over `output`; `dropped` counts lines that did not fit.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(output: impl Write + Send + 'static, dropped: Counter) -> io::Result<(Self, AccessLogWriter)> {
        let queue = Arc::<Queue>::default();
        let theirs = Arc::clone(&queue);
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || theirs.write_all(output))?;
        Ok((Self { queue: Arc::clone(&queue), dropped }, AccessLogWriter { queue, thread }))
    }

    /// Queues one record. Never waits for the output.
    pub fn write(&self, record: &Record) {
        self.write_with(|text| line::write(record, text));
    }

    /// Queues anything as one line of JSON. Never waits for the output.
    pub fn write_line(&self, record: &impl serde::Serialize) {
        // INVARIANT: a record holds no map with non-text keys, so it always serialises.
        self.write_with(|text| {
            let is_written = serde_json::to_writer(&mut *text, record).is_ok();
            text.push(b'\n');
            is_written
        });
    }

    fn write_with(&self, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        let is_queued = LINE.with_borrow_mut(|line| {
            line.clear();
            write(line) && self.queue.push(line)
        });
        if !is_queued {
            self.dropped.inc();
        }
    }
}

impl AccessLogWriter {
    /// Writes what is queued, then ends the thread.
    pub fn close(self) {
        let Self { queue, thread } = self;
        queue.lines.lock().is_closed = true;
        queue.filled.notify_one();
        if thread.join().is_err() {
            tracing::error!("the access log writer panicked");
        }
    }
}

impl Queue {
    /// Adds a line; `false` where it does not fit.
    fn push(&self, line: &[u8]) -> bool {
        let mut lines = self.lines.lock();
        if lines.is_closed || lines.text.len() + line.len() > QUEUE {
            return false;
        }
        let is_first = lines.text.is_empty();
        lines.text.extend_from_slice(line);
        drop(lines);
        if is_first {
            self.filled.notify_one();
        }
        true
    }

    fn write_all(&self, mut output: impl Write) {
        // Two buffers change places, so that neither is allocated anew.
        let mut batch = Vec::new();
        loop {
            let mut lines = self.lines.lock();
            while lines.text.is_empty() {
                if lines.is_closed {
                    return;
                }
                self.filled.wait(&mut lines);
            }
            if !lines.is_closed {
                // Only the end is announced now: lines are not the first any more.
                self.filled.wait_for(&mut lines, GATHER);
            }
            std::mem::swap(&mut lines.text, &mut batch);
            drop(lines);
            if !report(output.write_all(&batch).and_then(|()| output.flush())) {
                let mut lines = self.lines.lock();
                *lines = Lines { text: Vec::new(), is_closed: true };
                return;
            }
            batch.clear();
            batch.shrink_to(KEPT);
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
pub struct Capture(Arc<Mutex<Vec<u8>>>);

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
    use std::sync::mpsc::{Receiver, channel};

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
        let line = serde_json::to_vec(&record()).unwrap().len();
        (0..3 * QUEUE / line).for_each(|_| log.write(&record()));
        assert!(dropped.get() > 0);
        drop(release);
        writer.close();
    }
}
