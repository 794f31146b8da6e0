//! `palisade policy records`: decision records as the mesh makes them.

use std::{
    io::{self, Write},
    num::NonZeroU64,
    process::ExitCode,
};

use anyhow::bail;
use futures::StreamExt;
use palisade_control::decisions::client::{ReceivedRecords, listen};

use crate::{control::ControlOptions, options::ClusterOptions};

/// Follow decision records of the whole mesh as they are made: every denial, and a sample of permissions. One JSON object a line.
/// Where there are several replicas of the control plane: of the proxies that are connected to the one that is asked.
///
/// Records come over gRPC from the control plane, which asks its proxies for them only while somebody listens. What does not fit a queue
/// on the way is left out; how much is said on standard error. Ends with Ctrl-C.
#[derive(Debug, clap::Args)]
pub(crate) struct Records {
    /// Only records of proxies in this namespace.
    #[arg(short, long, default_value = "", hide_default_value = true)]
    namespace: String,
    /// End after so many records.
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroU64>,
    #[command(flatten)]
    control: ControlOptions,
    #[command(flatten)]
    cluster: ClusterOptions,
}

impl Records {
    /// Prints records until Ctrl-C, the limit, or the end of the control plane.
    ///
    /// # Errors
    /// When the control plane cannot be asked or goes away.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let control = self.control.reach(&self.cluster).await?;
            self.follow(&control.url).await
        })
    }

    async fn follow(&self, url: &str) -> anyhow::Result<ExitCode> {
        let mut batches = Box::pin(listen(url, &self.namespace).await?);
        eprintln!("listening");
        let mut left = self.limit.map(NonZeroU64::get);
        loop {
            let batch = tokio::select! {
                batch = batches.next() => batch,
                interrupted = tokio::signal::ctrl_c() => {
                    interrupted?;
                    return Ok(ExitCode::SUCCESS);
                }
            };
            let Some(batch) = batch else { bail!("the control plane has ended the stream") };
            let ReceivedRecords { pod: _, records, dropped } = batch?;
            if dropped > 0 {
                eprintln!("{dropped} records were left out");
            }
            let mut output = io::stdout().lock();
            for record in records {
                output.write_all(&record)?;
                output.write_all(b"\n")?;
                left = left.map(|left| left.saturating_sub(1));
                if left == Some(0) {
                    output.flush()?;
                    return Ok(ExitCode::SUCCESS);
                }
            }
            output.flush()?;
        }
    }
}
