//! What an edge is used to at each hour of the day, in 1.5 KiB: for each hour the last eight days' quarters
//! of an hour, as logarithms in a byte.
//!
//! Median and median absolute deviation do not mind a few wild samples, so yesterday's incident does not
//! become today's habit; a lasting change does within four days. The clock is UTC: a job that moves with
//! summer time moves by an hour, which is why the neighbouring hours are asked as well.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::time::minutes;

/// Length of one sample.
pub(crate) const SAMPLE: Duration = minutes(15);
/// Samples kept for each hour: eight days'.
const KEPT: usize = 32;
/// Samples without which nothing is said: three days'.
const ENOUGH: usize = 12;
const HOURS: usize = 24;
/// Step of the logarithm: 255 of it reach 10^12.
const STEP: f64 = 0.1083;
/// Least spread: habits are never taken for more regular than this.
const LEAST_SPREAD: f64 = 0.2;
/// So many spreads above the median are unusual.
const SPREADS: f64 = 6.0;

/// What one number of one edge usually is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Habit {
    rings: [Ring; HOURS],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ring {
    samples: [u8; KEPT],
    len: u8,
    next: u8,
}

impl Default for Habit {
    fn default() -> Self {
        Self { rings: [Ring { samples: [0; KEPT], len: 0, next: 0 }; HOURS] }
    }
}

impl Habit {
    /// What it was in one quarter of that hour.
    pub(crate) fn learn(&mut self, hour: usize, value: u64) {
        if let Some(ring) = self.rings.get_mut(hour) {
            ring.push(quantize(value));
        }
    }

    /// The usual at that hour and the most that still is usual; `None` while too little is known.
    pub(crate) fn limit(&self, hour: usize) -> Option<(u64, u64)> {
        let near = [hour + HOURS - 1, hour, hour + 1].map(|hour| self.rings.get(hour % HOURS));
        let this = self.rings.get(hour)?;
        if usize::from(this.len) < ENOUGH {
            return None;
        }
        let limits = near.into_iter().flatten().filter_map(Ring::limit);
        let limit = limits.fold(0.0, f64::max);
        Some((expand(this.median()?), expand(limit)))
    }
}

impl Ring {
    fn push(&mut self, sample: u8) {
        if let Some(slot) = self.samples.get_mut(usize::from(self.next)) {
            *slot = sample;
        }
        self.next = (self.next + 1) % KEPT as u8;
        self.len = (self.len + 1).min(KEPT as u8);
    }

    fn sorted(&self) -> Vec<u8> {
        let mut sorted: Vec<u8> = self.samples.iter().take(usize::from(self.len)).copied().collect();
        sorted.sort_unstable();
        sorted
    }

    fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        sorted.get(sorted.len() / 2).map(|step| f64::from(*step) * STEP)
    }

    /// In logarithms: the widest of "so many spreads above the median", "four times the median", and "half
    /// as much again as the third largest", which lets weekly jobs be.
    fn limit(&self) -> Option<f64> {
        let sorted = self.sorted();
        let median = self.median()?;
        let mut distances: Vec<f64> =
            sorted.iter().map(|step| (f64::from(*step) * STEP - median).abs()).collect();
        distances.sort_by(f64::total_cmp);
        let spread = 1.4826 * distances.get(distances.len() / 2).copied().unwrap_or(0.0);
        let third = sorted.iter().rev().nth(2).map_or(0.0, |step| f64::from(*step) * STEP);
        let wide = median + SPREADS * spread.max(LEAST_SPREAD);
        Some(wide.max(median + 4_f64.ln()).max(third + 1.5_f64.ln()))
    }
}

fn quantize(value: u64) -> u8 {
    ((value as f64).ln_1p() / STEP).round().clamp(0.0, 255.0) as u8
}

fn expand(log: f64) -> u64 {
    log.exp_m1() as u64
}

/// One string of hexadecimal digits: for each ring its length, its next place and its samples.
impl Serialize for Habit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(HOURS * (KEPT + 2) * 2);
        for ring in &self.rings {
            let samples = ring.samples.iter().take(usize::from(ring.len));
            for byte in [&ring.len, &ring.next].into_iter().chain(samples) {
                text.push_str(&format!("{byte:02x}"));
            }
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Habit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        decode(&text).ok_or_else(|| serde::de::Error::custom("no habit"))
    }
}

fn decode(text: &str) -> Option<Habit> {
    let mut bytes = (0..text.len() / 2).map(|at| u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok());
    let mut habit = Habit::default();
    for ring in &mut habit.rings {
        ring.len = bytes.next()??;
        ring.next = bytes.next()??;
        if usize::from(ring.len) > KEPT || usize::from(ring.next) >= KEPT {
            return None;
        }
        for slot in ring.samples.iter_mut().take(usize::from(ring.len)) {
            *slot = bytes.next()??;
        }
    }
    bytes.next().is_none().then_some(habit)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn office() -> Habit {
        let mut habit = Habit::default();
        for day in 0..6 {
            for hour in 0..24 {
                for quarter in 0..4 {
                    let base = if (8..18).contains(&hour) { 10_000 } else { 500 };
                    habit.learn(hour, base + (day * 37 + quarter * 101) % 300);
                }
            }
        }
        habit
    }

    #[test]
    fn the_same_number_is_usual_at_noon_and_unusual_at_night() {
        let habit = office();
        let (_, noon) = habit.limit(12).unwrap();
        let (usual, night) = habit.limit(2).unwrap();
        assert!(noon > 30_000 && noon < 60_000, "{noon}");
        assert!((400..900).contains(&usual) && night < 3000, "{usual} {night}");
        assert!(habit.limit(7).unwrap().1 > 30_000, "the hour before the office opens is asked as well");
    }

    #[test]
    fn one_wild_day_is_not_a_habit() {
        let mut habit = office();
        habit.learn(2, 1_000_000);
        habit.learn(2, 1_000_000);
        assert!(habit.limit(2).unwrap().1 < 3000);
    }

    #[test]
    fn little_is_known_at_first() {
        let mut habit = Habit::default();
        (0..11).for_each(|_| habit.learn(3, 10));
        assert_eq!(habit.limit(3), None);
        habit.learn(3, 10);
        assert!(habit.limit(3).is_some());
    }

    #[test]
    fn it_survives_the_way_into_a_file_and_back() {
        let habit = office();
        let text = serde_json::to_string(&habit).unwrap();
        assert_eq!(serde_json::from_str::<Habit>(&text).unwrap(), habit);
        for bad in ["\"\"", "\"zz\"", "\"ff00\"", &text.replace('"', "\"00")] {
            assert!(serde_json::from_str::<Habit>(bad).is_err());
        }
    }
}
