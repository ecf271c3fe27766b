//! What the kernel counted, by the words of the metrics, so that a test can say which counter moved
//! and that no other did.

use std::collections::BTreeMap;
use std::fmt;

use bulkhead_abi::{Counter, CounterKey, Identity, Reason, Verdict};

/// What a counter is about: the zones of both ends (several joined by `+`), verdict and reason.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pair {
    /// The opener's zones.
    pub from: String,
    /// The receiver's zones.
    pub to: String,
    /// `allow`, `audit` or `deny`.
    pub verdict: String,
    /// `default`, `deny-rule`, …
    pub reason: String,
}

/// Counters by what they are about; those at zero are left out.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Counters(BTreeMap<Pair, Counter>);

impl Pair {
    /// From zone, to zone, verdict, reason.
    #[must_use]
    pub fn new(from: &str, to: &str, verdict: &str, reason: &str) -> Pair {
        let [from, to, verdict, reason] = [from, to, verdict, reason].map(str::to_owned);
        Pair { from, to, verdict, reason }
    }
}

impl Counters {
    /// Names the kernel's rows; rows of one name are added up.
    pub fn new(rows: Vec<(CounterKey, Counter)>, label: impl Fn(Identity) -> String) -> Counters {
        let mut counters = Counters::default();
        for (key, row) in rows {
            let verdict = Verdict::from_code(key.verdict).as_str();
            let reason = Reason::from_code(key.reason).as_str();
            let pair = Pair::new(&label(key.from), &label(key.to), verdict, reason);
            let sum = counters.0.entry(pair).or_default();
            sum.flows += row.flows;
            sum.packets += row.packets;
            sum.bytes += row.bytes;
        }
        counters
    }

    /// One counter; zero when it never moved.
    #[must_use]
    pub fn get(&self, pair: &Pair) -> Counter {
        self.0.get(pair).copied().unwrap_or_default()
    }

    /// What moved since `earlier`, and by how much.
    #[must_use]
    pub fn since(&self, earlier: &Counters) -> Counters {
        let moved = |(pair, now): (&Pair, &Counter)| {
            let before = earlier.get(pair);
            let delta = Counter {
                flows: now.flows.wrapping_sub(before.flows),
                packets: now.packets.wrapping_sub(before.packets),
                bytes: now.bytes.wrapping_sub(before.bytes),
            };
            (delta != Counter::default()).then(|| (pair.clone(), delta))
        };
        Counters(self.0.iter().filter_map(moved).collect())
    }

    /// The flows of each, without those that moved in packets and bytes only.
    #[must_use]
    pub fn flows(&self) -> BTreeMap<Pair, u64> {
        let flows = self.0.iter().map(|(pair, counter)| (pair.clone(), counter.flows));
        flows.filter(|(_, flows)| *flows > 0).collect()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Pair, &Counter)> {
        self.0.iter()
    }

    /// Whether nothing moved.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pair { from, to, verdict, reason } = self;
        write!(f, "{from} -> {to} {verdict} {reason}")
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (index, (pair, counter)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{pair}: {} flows, {} packets", counter.flows, counter.packets)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(flows: u64, packets: u64) -> Counters {
        let counter = Counter { flows, packets, bytes: packets * 40 };
        Counters([(Pair::new("a", "b", "deny", "default"), counter)].into())
    }

    #[test]
    fn only_what_moved_is_left() {
        assert!(counters(1, 2).since(&counters(1, 2)).is_empty());
        let moved = counters(1, 3).since(&counters(1, 2));
        assert_eq!(format!("{moved:?}"), "a -> b deny default: 0 flows, 1 packets");
        assert!(moved.flows().is_empty());
        assert_eq!(counters(2, 4).since(&Counters::default()).flows().len(), 1);
    }
}
