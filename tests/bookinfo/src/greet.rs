//! Greet: a protocol in which the server speaks first.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// How long a greeting may take.
const LIMIT: Duration = Duration::from_secs(15);

/// Greets every connection with the pod's name, and closes it when the client does.
pub(crate) async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let greeting = format!("220 {}\r\n", crate::productpage::pod_name());
            let greeted = stream.write_all(greeting.as_bytes()).await;
            let mut line = String::new();
            // Whatever the client says ends it.
            if greeted.is_ok() && BufReader::new(stream).read_line(&mut line).await.is_err() {
                eprintln!("a client broke off");
            }
        });
    }
}

/// Connects, says nothing, and prints the greeting.
#[derive(Debug, clap::Args)]
pub(crate) struct Greeting {
    /// `HOST:PORT`
    address: String,
}

impl Greeting {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let work = async {
            let stream = TcpStream::connect(&self.address).await?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).await?;
            anyhow::ensure!(!line.is_empty(), "`{}` closed without a greeting", self.address);
            print!("{line}");
            Ok(ExitCode::SUCCESS)
        };
        tokio::time::timeout(LIMIT, work).await.with_context(|| format!("`{}` is silent", self.address))?
    }
}
