//! The process's own log: JSON on standard error, with a filter that can be changed while it runs.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::{runtime::source::LogFilter, transport::LOG_DIRECTIVES};

/// The filter in force.
pub struct ReloadableFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    current: Mutex<String>,
}

/// Starts the log.
///
/// # Errors
/// When the directives cannot be read, or a log was started already.
pub fn start(directives: &str) -> Result<Arc<ReloadableFilter>, String> {
    let (filter, handle) = reload::Layer::new(parse(directives)?);
    let layer = tracing_subscriber::fmt::layer().json().with_writer(io::stderr).with_target(true);
    tracing_subscriber::registry().with(filter).with(layer).try_init().map_err(|error| error.to_string())?;
    Ok(Arc::new(ReloadableFilter { handle, current: Mutex::new(directives.to_owned()) }))
}

/// What Pingora reports twice is left out unless the directives name it.
fn parse(directives: &str) -> Result<EnvFilter, String> {
    let text = format!("{LOG_DIRECTIVES},{directives}");
    EnvFilter::builder().parse(&text).map_err(|error| format!("`{directives}` is not a log filter: {error}"))
}

impl LogFilter for ReloadableFilter {
    fn current(&self) -> String {
        self.current.lock().clone()
    }

    fn replace(&self, directives: &str) -> Result<(), String> {
        let filter = parse(directives)?;
        self.handle.reload(filter).map_err(|error| error.to_string())?;
        directives.clone_into(&mut self.current.lock());
        Ok(())
    }
}
