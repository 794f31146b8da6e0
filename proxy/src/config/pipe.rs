//! A control plane in the same process: connections are pipes, everything above them is the same.

use std::io;

use tokio::{io::DuplexStream, sync::mpsc};

/// Bytes that a pipe holds in each direction.
const CAPACITY: usize = 256 * 1024;

/// Opens pipes to a control plane in this process.
#[derive(Debug, Clone)]
pub struct Pipe(mpsc::Sender<DuplexStream>);

impl Pipe {
    /// Whoever receives from the other end serves the pipes.
    pub fn new(control: mpsc::Sender<DuplexStream>) -> Self {
        Self(control)
    }

    pub(super) async fn dial(&self) -> io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(CAPACITY);
        let gone = |_| io::Error::new(io::ErrorKind::ConnectionRefused, "the control plane is gone");
        self.0.send(theirs).await.map_err(gone)?;
        Ok(ours)
    }
}
