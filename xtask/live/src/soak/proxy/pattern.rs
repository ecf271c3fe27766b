//! Bytes of which each is known by its connection, its direction and its place: whoever receives them finds
//! one that is wrong, missing, doubled or another connection's at once.

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// To the server.
    Up,
    /// To the client.
    Down,
}

/// The bytes of one direction of one connection, from a place on.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    seed: u64,
    at: u64,
    word: [u8; 8],
}

impl Pattern {
    /// From the beginning on.
    pub(crate) fn new(connection: u64, way: Way) -> Pattern {
        let seed = scatter(connection.wrapping_mul(2) + u64::from(way == Way::Down));
        Pattern { seed, at: 0, word: [0; 8] }
    }

    /// Writes the next bytes.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().zip(self.by_ref()).for_each(|(byte, next)| *byte = next);
    }

    /// How many of these bytes are the next ones; all of them, unless something is wrong.
    pub(crate) fn agrees(&mut self, bytes: &[u8]) -> usize {
        bytes.iter().zip(self.by_ref()).take_while(|(byte, next)| *byte == next).count()
    }
}

impl Iterator for Pattern {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let place = usize::try_from(self.at % 8).unwrap_or_default();
        if place == 0 {
            self.word = scatter(self.seed.wrapping_add(self.at)).to_le_bytes();
        }
        self.at += 1;
        self.word.get(place).copied()
    }
}

/// A number that has nothing in common with its neighbours' (the finaliser of SplitMix64).
pub(crate) fn scatter(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::{Pattern, Way};

    #[test]
    fn every_byte_has_its_place() {
        let mut bytes = [0; 1000];
        Pattern::new(7, Way::Up).fill(&mut bytes);
        // In pieces of any size.
        let mut reader = Pattern::new(7, Way::Up);
        assert_eq!(bytes.chunks(33).map(|part| reader.agrees(part)).sum::<usize>(), 1000);
        // One is missing, one is another's, and whole connections are others'.
        assert!(Pattern::new(7, Way::Up).agrees(&bytes[1..]) < 8);
        bytes[500] ^= 1;
        assert_eq!(Pattern::new(7, Way::Up).agrees(&bytes), 500);
        assert!(Pattern::new(7, Way::Down).agrees(&bytes) < 8);
        assert!(Pattern::new(8, Way::Up).agrees(&bytes) < 8);
    }
}
