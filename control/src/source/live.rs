//! The loop that all sources of documents share: compile when something changed, then rest for as long as it took.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use palisade_compile::{Inputs, Mesh, SourceOptions, compile, compile_after, key_sources};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    jwks::KeyFeed,
    mesh::CompiledMesh,
    metrics::Metrics,
    slices::{MeshWatch, Slices},
};

/// In a storm of changes there is as much rest as work, up to this long: what changes meanwhile is taken together.
const MAX_REST: Duration = Duration::from_millis(100);

/// Documents that change.
pub(crate) trait Source: Send + 'static {
    /// What may have changed.
    type Change: Send + 'static;

    /// Waits for the next changes; those that happened since the last look come at once. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Self::Change> + Send;

    /// Takes changes in; whether they make a difference. May take its time: never called on an async thread.
    fn take(&mut self, change: Self::Change) -> bool;

    /// Everything that there is to compile; `None` = something that was asked for is not there yet, and [`Source::next`] will
    /// tell of it.
    fn inputs(&mut self, options: &SourceOptions) -> Option<Inputs>;
}

/// A source with what is compiled from it.
pub(crate) struct Live<S> {
    pub(super) source: S,
    compiler: Compiler,
    sender: watch::Sender<Option<Arc<dyn Slices>>>,
}

/// Compiles, reusing what did not change.
struct Compiler {
    options: SourceOptions,
    metrics: Metrics,
    /// Keys of tokens; `None` = none are fetched.
    keys: Option<KeyFeed>,
    /// What was compiled last: the next mesh takes over what did not change.
    compiled: Option<Mesh>,
}

impl<S: Source> Live<S> {
    /// A source that nothing is compiled from yet.
    pub(crate) fn new(source: S, options: SourceOptions, metrics: Metrics, keys: Option<KeyFeed>) -> (Self, MeshWatch) {
        let (sender, receiver) = watch::channel(None);
        (Self { source, compiler: Compiler { options, metrics, keys, compiled: None }, sender }, receiver)
    }

    /// Compiles what there is.
    pub(crate) fn compile(&mut self) {
        if let Some(inputs) = self.source.inputs(&self.compiler.options) {
            let mesh = self.compiler.compile(inputs);
            self.sender.send_replace(Some(mesh));
        }
    }

    /// Compiles; where that panics, which is a defect, the mesh stays as it was and the next change is compiled again: one
    /// document must not keep all later ones, denials among them, from every proxy.
    fn compile_or_keep(&mut self) {
        // INVARIANT: what was compiled before is replaced whole, at the end.
        let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.compile()));
        if attempt.is_err() {
            self.compiler.metrics.compile_failures.inc();
            tracing::error!("compiling failed, a defect: the mesh stays as it is until the next change");
        }
    }

    /// Compiles after each change, until `stop`. The first change is taken at once; what changes while compiling, and for as
    /// long again, is taken together.
    pub(crate) async fn follow(mut self, stop: CancellationToken) {
        let mut rest_until = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(rest_until.into()) => {}
            }
            let changed = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = self.source.next() => Some(changed),
                () = self.compiler.fetched() => None,
            };
            // Reading and compiling take their time: off the async threads.
            let started = Instant::now();
            let work = tokio::task::spawn_blocking(move || {
                // Without a change of documents there are new keys.
                let is_new = changed.is_none_or(|changed| self.source.take(changed));
                if is_new {
                    self.compile_or_keep();
                }
                (self, is_new)
            });
            let is_new;
            (self, is_new) = match work.await {
                Ok(done) => done,
                Err(error) => {
                    tracing::error!(%error, "compiling failed, the mesh stays as it is");
                    return;
                }
            };
            if is_new {
                // The first change after a calm is never held up.
                rest_until = Instant::now() + started.elapsed().min(MAX_REST);
            }
        }
    }
}

impl Compiler {
    /// Waits for keys that were fetched. Cancel-safe.
    async fn fetched(&mut self) {
        let is_gone = match &mut self.keys {
            Some(feed) => feed.keys.changed().await.is_err(),
            None => true,
        };
        if is_gone {
            // A keeper that is gone changes nothing any more.
            std::future::pending().await
        }
    }

    fn compile(&mut self, mut inputs: Inputs) -> Arc<dyn Slices> {
        let started = Instant::now();
        if let Some(feed) = &self.keys {
            let sources = key_sources(&inputs);
            feed.wanted.send_if_modified(|wanted| {
                let is_new = *wanted != sources;
                if is_new {
                    *wanted = sources;
                }
                is_new
            });
            inputs.keys = (**feed.keys.borrow()).clone();
        }
        let compiled = match &self.compiled {
            Some(previous) => compile_after(previous, inputs),
            None => compile(&Arc::new(inputs)),
        };
        self.compiled = Some(compiled.mesh.clone());
        let mesh = CompiledMesh::new(compiled);
        let elapsed = started.elapsed();
        self.metrics.compile_seconds.observe(elapsed.as_secs_f64());
        tracing::info!(elapsed_us = elapsed.as_micros(), "compiled");
        Arc::new(mesh)
    }
}
