//! Durations as Istio and the Gateway API write them: `1.5s`, `300ms`, `1h30m`.

use std::fmt;

use serde::{Serialize, Serializer};

/// A span of time in whole nanoseconds, at most about 292 years. May be negative; only validation knows whether that is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration {
    nanos: i64,
}

/// Why a text is no [`Duration`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a duration such as `1.5s`, `300ms` or `1h30m`")]
pub struct InvalidDuration {
    /// As written.
    pub text: String,
}

impl Duration {
    /// No time at all; what it means depends on the field (often: no limit).
    pub const ZERO: Self = Self { nanos: 0 };

    /// A duration from nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self { nanos }
    }

    /// A duration from milliseconds; saturates.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self { nanos: millis.saturating_mul(1_000_000) }
    }

    /// The exact length in nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> i64 {
        self.nanos
    }

    /// For timers. A negative duration is none.
    #[must_use]
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_nanos(u64::try_from(self.nanos).unwrap_or(0))
    }

    /// Whether it is exactly zero.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it has a part below one second.
    #[must_use]
    pub const fn has_subseconds(self) -> bool {
        self.nanos % 1_000_000_000 != 0
    }

    /// Reads Go's duration syntax: an optional sign, then numbers with optional fractions, each with a unit `ns us µs ms s m h`; or `0`.
    ///
    /// # Errors
    /// [`InvalidDuration`] for any other text, and for spans that do not fit.
    pub fn parse(text: &str) -> Result<Self, InvalidDuration> {
        parse_nanos(text).map(|nanos| Self { nanos }).ok_or_else(|| InvalidDuration { text: text.to_owned() })
    }

    /// Reads the Gateway API's subset (GEP-2257): one to four groups of one to five digits with `h`, `m`, `s` or `ms`.
    ///
    /// # Errors
    /// [`InvalidDuration`] for any other text.
    pub fn parse_gateway_api(text: &str) -> Result<Self, InvalidDuration> {
        let invalid = || InvalidDuration { text: text.to_owned() };
        let (mut rest, mut groups) = (text, 0);
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let after = rest.get(digits..).ok_or_else(invalid)?;
            let unit = ["ms", "h", "m", "s"].into_iter().find(|unit| after.starts_with(unit)).ok_or_else(invalid)?;
            if !(1..=5).contains(&digits) {
                return Err(invalid());
            }
            groups += 1;
            rest = after.get(unit.len()..).ok_or_else(invalid)?;
        }
        if (1..=4).contains(&groups) { Self::parse(text) } else { Err(invalid()) }
    }
}

fn parse_nanos(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let after_whole = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let whole = rest.get(..rest.len() - after_whole.len())?;
        let (fraction, after) = match after_whole.strip_prefix('.') {
            Some(after_dot) => {
                let after = after_dot.trim_start_matches(|c: char| c.is_ascii_digit());
                (after_dot.get(..after_dot.len() - after.len())?, after)
            }
            None => ("", after_whole),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        const UNITS: [(&str, i128); 8] = [
            ("ns", 1),
            ("us", 1_000),
            ("µs", 1_000),
            ("μs", 1_000),
            ("ms", 1_000_000),
            ("s", 1_000_000_000),
            ("m", 60_000_000_000),
            ("h", 3_600_000_000_000),
        ];
        let unit_length = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (name, remaining) = after.split_at_checked(unit_length)?;
        let unit = UNITS.into_iter().find_map(|(unit, nanos)| (unit == name).then_some(nanos))?;
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        // Digits below a nanosecond of the largest unit cannot count.
        let mut scale = unit;
        for digit in fraction.chars().filter_map(|c| c.to_digit(10)).take(18) {
            total = total.checked_add(i128::from(digit).checked_mul(scale)?.checked_div(10)?)?;
            scale = scale.checked_div(10)?;
        }
        if total > i128::from(i64::MAX) {
            return None;
        }
        rest = remaining;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// Seconds with as many decimals as needed, the form that protobuf's JSON mapping writes.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.nanos.unsigned_abs();
        let (seconds, nanos) = (magnitude / 1_000_000_000, magnitude % 1_000_000_000);
        if self.nanos < 0 {
            f.write_str("-")?;
        }
        if nanos == 0 {
            return write!(f, "{seconds}s");
        }
        let fraction = format!("{nanos:09}");
        write!(f, "{seconds}.{}s", fraction.trim_end_matches('0'))
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_of_istio_are_read() {
        let rows = [
            ("1.5s", 1_500_000_000),
            ("10s", 10_000_000_000),
            ("300ms", 300_000_000),
            ("1h30m", 5_400_000_000_000),
            ("0", 0),
            ("0s", 0),
            ("-1s", -1_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1us", 1_000),
            ("1µs", 1_000),
            ("0.000000001s", 1),
            ("1.1m", 66_000_000_000),
        ];
        for (text, nanos) in rows {
            assert_eq!(Duration::parse(text).map(Duration::as_nanos), Ok(nanos), "{text}");
        }
        for text in ["", "5", "s", "1x", "1s2", "1 s", "--1s", "1e3s", "9999999999999h", "."] {
            assert!(Duration::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn gateway_api_takes_only_its_subset() {
        for text in ["10s", "1h2m3s4ms", "0s", "99999h"] {
            assert!(Duration::parse_gateway_api(text).is_ok(), "{text}");
        }
        for text in ["", "0", "1.5s", "-1s", "100000s", "1us", "1h1h1h1h1h"] {
            assert!(Duration::parse_gateway_api(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(nanos in any::<i64>().prop_filter("no magnitude", |nanos| *nanos != i64::MIN)) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(Duration::parse(&duration.to_string()), Ok(duration));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = Duration::parse(&text);
            let _ = Duration::parse_gateway_api(&text);
        }
    }
}
