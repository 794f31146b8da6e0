//! Variables of the environment that look like settings of this program and are none.

use std::collections::BTreeSet;

use palisade_model::variables::unread;

/// Says at the start which they are: a limit that is mistyped is no limit.
pub fn warn_of_unread(command: &clap::Command) {
    let names = command.get_arguments().filter_map(|argument| argument.get_env());
    let known: BTreeSet<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    let set = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    for problem in unread(&known, set) {
        tracing::warn!("{problem}");
    }
}
