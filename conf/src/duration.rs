//! Durations as Gateway API writes them (GEP-2257): one to four groups of 1–5 digits and a unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a string is no Gateway API duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration such as \"10s\", \"1m30s\" or \"500ms\" (up to four groups of h, m, s, ms)")]
pub struct DurationError(pub String);

/// A duration in whole milliseconds, written as in Gateway API: `1h2m3s4ms`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GatewayDuration(u64);

impl GatewayDuration {
    /// A duration of so many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// A duration of so many seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// The length in milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whether it is zero, which Gateway API reads as "none" for timeouts.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl From<GatewayDuration> for Duration {
    fn from(duration: GatewayDuration) -> Self {
        Self::from_millis(duration.0)
    }
}

impl FromStr for GatewayDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let wrong = || DurationError(text.to_owned());
        let mut rest = text;
        let mut total: u64 = 0;
        let mut groups = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 || digits > 5 || groups == 4 {
                return Err(wrong());
            }
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let (unit, len) = if rest.starts_with("ms") {
                (1, 2)
            } else if rest.starts_with('s') {
                (1000, 1)
            } else if rest.starts_with('m') {
                (60_000, 1)
            } else if rest.starts_with('h') {
                (3_600_000, 1)
            } else {
                return Err(wrong());
            };
            total += number * unit;
            rest = &rest[len..];
            groups += 1;
        }
        if groups == 0 { Err(wrong()) } else { Ok(Self(total)) }
    }
}

impl TryFrom<String> for GatewayDuration {
    type Error = DurationError;
    fn try_from(text: String) -> Result<Self, DurationError> {
        text.parse()
    }
}

impl From<GatewayDuration> for String {
    fn from(duration: GatewayDuration) -> Self {
        duration.to_string()
    }
}

impl fmt::Display for GatewayDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        // Each group has at most five digits, so hours beyond that (11 years) are cut there.
        let hours = (self.0 / 3_600_000).min(99_999);
        let rest = self.0 % 3_600_000;
        for (number, unit) in
            [(hours, "h"), (rest / 60_000, "m"), (rest / 1000 % 60, "s"), (rest % 1000, "ms")]
        {
            if number > 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for GatewayDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_follow_the_grammar_of_gateway_api() {
        for (text, millis) in
            [("10s", 10_000), ("1h2m3s4ms", 3_723_004), ("0s", 0), ("99999h", 359_996_400_000)]
        {
            assert_eq!(text.parse::<GatewayDuration>().unwrap().as_millis(), millis);
        }
        for bad in ["", "10", "s", "1.5s", "-1s", "1d", "123456s", "1s1s1s1s1s", "1 s", "10S"] {
            assert!(bad.parse::<GatewayDuration>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_survives_being_written_and_read(millis in 0u64..359_996_400_000) {
            let duration = GatewayDuration::from_millis(millis);
            prop_assert_eq!(duration.to_string().parse::<GatewayDuration>().unwrap(), duration);
        }
    }
}
