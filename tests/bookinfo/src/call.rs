//! Call: sends requests and reports what came back.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use crate::client::Client;

/// One line of JSON per request: `status` (null if none arrived), `headers`, `body`, `error`, `milliseconds`; with
/// `--count` one line in all: how many answers had each status.
#[derive(Debug, clap::Args)]
pub(crate) struct Call {
    /// `http://HOST[:PORT]/PATH`
    url: String,
    /// A header `NAME: VALUE`; may be repeated.
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    #[arg(short = 'X', long, default_value = "GET")]
    method: Method,
    #[arg(short = 'd', long, default_value = "")]
    data: String,
    /// Requests to send, one after the other.
    #[arg(short = 'n', long, default_value_t = 1)]
    requests: u32,
    /// Print counts instead of the answers.
    #[arg(long)]
    count: bool,
    /// Milliseconds to wait for each answer.
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
    /// Open a connection for every request.
    #[arg(long)]
    no_keep_alive: bool,
}

impl Call {
    /// Exit code 0 if every request was answered, whatever the status.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let headers = parse_headers(&self.headers)?;
        let timeout = Duration::from_millis(self.timeout_ms);
        let mut client = Client::default();
        let mut counts = BTreeMap::<String, u32>::new();
        let mut is_complete = true;
        for _ in 0..self.requests {
            if self.no_keep_alive {
                client = Client::default();
            }
            let start = Instant::now();
            let body = Bytes::from(self.data.clone());
            let result = client.send(self.method.clone(), &self.url, headers.clone(), body, timeout).await;
            is_complete &= result.is_ok();
            if self.count {
                let key =
                    result.as_ref().map_or_else(|_| "error".to_owned(), |answer| answer.status().as_str().to_owned());
                *counts.entry(key).or_default() += 1;
            } else {
                println!("{}", line(result, start.elapsed()));
            }
        }
        if self.count {
            println!("{}", json!(counts));
        }
        Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn line(result: anyhow::Result<http::Response<Bytes>>, elapsed: Duration) -> Value {
    let milliseconds = elapsed.as_secs_f64() * 1_000.0;
    match result {
        Ok(answer) => {
            let mut headers = BTreeMap::<&str, Vec<String>>::new();
            for (name, value) in answer.headers() {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                headers.entry(name.as_str()).or_default().push(value);
            }
            let body = String::from_utf8_lossy(answer.body());
            json!({"status": answer.status().as_u16(), "headers": headers, "body": body, "error": null, "milliseconds": milliseconds})
        }
        Err(error) => {
            json!({"status": null, "headers": {}, "body": null, "error": format!("{error:#}"), "milliseconds": milliseconds})
        }
    }
}

fn parse_headers(lines: &[String]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').with_context(|| format!("`{line}` is not `NAME: VALUE`"))?;
        headers.append(HeaderName::from_bytes(name.trim().as_bytes())?, HeaderValue::from_str(value.trim())?);
    }
    Ok(headers)
}
