//! Durations of documents as the model's.

use std::time::Duration;

/// A duration, zero included; `None` = negative.
pub(crate) fn not_negative(written: palisade_crds::Duration) -> Option<Duration> {
    u64::try_from(written.as_nanos()).ok().map(Duration::from_nanos)
}

/// A duration above zero; `None` = zero or negative, which means unset wherever this is asked.
pub(crate) fn positive(written: palisade_crds::Duration) -> Option<Duration> {
    u64::try_from(written.as_nanos()).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos)
}
