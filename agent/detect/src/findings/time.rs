//! Moments, handed in by whoever feeds: nothing here asks a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    /// From milliseconds since 1970.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// From seconds since 1970.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since 1970.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Seconds since 1970, as the answers show them.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// Time from `earlier` to this; nothing if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This much later.
    #[must_use]
    pub fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(millis(time)))
    }

    /// Hour of the day, 0 to 23, UTC.
    pub const fn hour(self) -> usize {
        (self.0 / 3_600_000 % 24) as usize
    }

    /// Number of whole spans since 1970: two moments are in the same span if it is the same.
    pub fn span(self, span: Duration) -> u64 {
        self.0 / millis(span).max(1)
    }
}

impl From<SystemTime> for Time {
    /// A moment before 1970 reads as 1970.
    fn from(time: SystemTime) -> Self {
        Self(millis(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
    }
}

/// So many whole milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// So many minutes.
pub(crate) const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// So many hours.
pub(crate) const fn hours(count: u64) -> Duration {
    minutes(count * 60)
}

/// So many days.
pub(crate) const fn days(count: u64) -> Duration {
    hours(count * 24)
}
