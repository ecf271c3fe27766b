//! "Have I seen this before?" in bounded memory: a Bloom filter that forgets.
//!
//! Two generations; what is asked for goes into the younger, and the elder is dropped when the younger
//! is as old as the span. So a thing is known for at least one span after it was last seen, and at most
//! two. It errs one way only: a new thing may be taken for a known one, the more often the more there
//! are (one in fifty at 400 things, one in five at 1200). Counts made with it are therefore never too
//! high.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::time::Time;

/// Bits of a generation.
const BITS: u64 = 4096;
const WORDS: usize = (BITS / 64) as usize;

/// The filter: 1 KiB, made when the first thing is seen.
#[derive(Clone, Debug)]
pub(crate) struct Novelty {
    span: Duration,
    since: Time,
    generations: [Option<Box<[u64; WORDS]>>; 2],
}

impl Novelty {
    /// Nothing is known yet.
    pub(crate) const fn new(span: Duration) -> Self {
        Self { span, since: Time::from_millis(0), generations: [None, None] }
    }

    /// Takes a thing in; whether it was new.
    pub(crate) fn is_new(&mut self, at: Time, thing: &impl Hash) -> bool {
        self.turn(at);
        let mut hasher = DefaultHasher::new();
        thing.hash(&mut hasher);
        let hash = hasher.finish();
        let places = [hash % BITS, (hash >> 32) % BITS, (hash >> 16) % BITS];
        let [younger, elder] = &mut self.generations;
        let holds = |generation: &Option<Box<[u64; WORDS]>>| {
            generation.as_ref().is_some_and(|bits| places.iter().all(|place| bit(bits.as_ref(), *place)))
        };
        let known = holds(younger) || holds(elder);
        let bits = younger.get_or_insert_with(|| Box::new([0; WORDS]));
        for place in places {
            if let Some(word) = bits.get_mut((place / 64) as usize) {
                *word |= 1 << (place % 64);
            }
        }
        !known
    }

    fn turn(&mut self, at: Time) {
        if at.since(self.since) < self.span {
            return;
        }
        let both = at.since(self.since) >= self.span.saturating_mul(2);
        let younger = self.generations[0].take();
        self.generations[1] = if both { None } else { younger };
        self.since = at;
    }
}

fn bit(bits: &[u64; WORDS], place: u64) -> bool {
    bits.get((place / 64) as usize).is_some_and(|word| word >> (place % 64) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::time::hours;

    #[test]
    fn new_once_and_again_when_forgotten() {
        let mut novelty = Novelty::new(hours(24));
        let at = |hour: u64| Time::from_secs(1_000_000 + hour * 3600);
        assert!(novelty.is_new(at(0), &443));
        assert!(!novelty.is_new(at(1), &443));
        assert!(!novelty.is_new(at(30), &443), "the elder generation still knows it");
        assert!(novelty.is_new(at(200), &443));
    }

    #[test]
    fn it_counts_low_never_high() {
        let mut novelty = Novelty::new(hours(24));
        let at = Time::from_secs(1_000_000);
        let mut counted =
            |range: std::ops::Range<u32>| range.filter(|thing| novelty.is_new(at, thing)).count();
        let first = counted(0..400);
        assert!((392..=400).contains(&first), "{first}");
        assert_eq!(counted(0..400), 0);
    }
}
