//! `max_age` of a rule: a time, as a number and a unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// For how long a connection may outlive a certificate that it was made with: 1 second to 365 days, in
/// whole seconds. Written as a number and a unit (`s`, `m`, `h`, `d`), as in `12h`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MaxAge(u32);

/// Why a text is no [`MaxAge`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadAge {
    /// It is no number with a unit.
    #[error("not a number with a unit")]
    Form,
    /// It is less than a second.
    #[error("less than a second")]
    Short,
    /// It is more than 365 days.
    #[error("more than 365 days")]
    Long,
}

impl MaxAge {
    /// The longest, in seconds.
    const LONGEST: u64 = 365 * 86_400;

    /// As a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

/// Units in seconds, the longest first.
const UNITS: [(char, u32); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl FromStr for MaxAge {
    type Err = BadAge;

    fn from_str(text: &str) -> Result<Self, BadAge> {
        let unit = |(unit, seconds): (char, u32)| text.strip_suffix(unit).map(|number| (number, seconds));
        let (number, unit) = UNITS.into_iter().find_map(unit).ok_or(BadAge::Form)?;
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BadAge::Form);
        }
        // Digits only, so what does not fit is too much.
        let number: u64 = number.parse().map_err(|_| BadAge::Long)?;
        match number.checked_mul(u64::from(unit)) {
            Some(0) => Err(BadAge::Short),
            Some(seconds) if seconds <= Self::LONGEST => {
                u32::try_from(seconds).map(Self).map_err(|_| BadAge::Long)
            }
            _ => Err(BadAge::Long),
        }
    }
}

/// In the longest unit that leaves no rest; it reads back as the same.
impl fmt::Display for MaxAge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, seconds): &(char, u32)| self.0.is_multiple_of(*seconds);
        let (unit, seconds) = UNITS.into_iter().find(fits).unwrap_or(('s', 1));
        write!(f, "{}{unit}", self.0 / seconds)
    }
}

impl Serialize for MaxAge {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        for (text, seconds, shown) in [
            ("1s", 1, "1s"),
            ("90s", 90, "90s"),
            ("60s", 60, "1m"),
            ("12h", 43_200, "12h"),
            ("24h", 86_400, "1d"),
            ("0007m", 420, "7m"),
            ("365d", 365 * 86_400, "365d"),
        ] {
            let age: MaxAge = text.parse().unwrap();
            assert_eq!((age.duration().as_secs(), age.to_string().as_str()), (seconds, shown), "{text}");
            assert_eq!(shown.parse(), Ok(age));
        }
        for (text, why) in [
            ("", BadAge::Form),
            ("12", BadAge::Form),
            ("h", BadAge::Form),
            ("-1h", BadAge::Form),
            ("+1h", BadAge::Form),
            ("1.5h", BadAge::Form),
            ("1 h", BadAge::Form),
            ("1h30m", BadAge::Form),
            ("1w", BadAge::Form),
            ("0s", BadAge::Short),
            ("0d", BadAge::Short),
            ("366d", BadAge::Long),
            ("31536001s", BadAge::Long),
            ("99999999999999999999s", BadAge::Long),
            ("999999999999999999d", BadAge::Long),
        ] {
            assert_eq!(text.parse::<MaxAge>(), Err(why), "{text}");
        }
    }
}
