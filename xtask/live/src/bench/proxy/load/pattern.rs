//! What streams carry.

/// Largest piece that is written or looked at.
pub(super) const PIECE: usize = 128 * 1024;
/// After so many bytes it begins again: a prime, so that no piece of a power of two fits in the place of
/// another.
const PERIOD: usize = 65_521;
/// Ends a stream; the pattern does not have it.
pub(super) const LAST: u8 = 0xff;

/// Bytes that are known by their place.
pub(super) struct Pattern(Vec<u8>);

impl Pattern {
    pub(super) fn new() -> Pattern {
        let mut state = 0x9e37_79b9_u32;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                // xorshift32 (Marsaglia, 2003)
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state.to_le_bytes()[3] % LAST
            })
            .collect();
        Pattern(period.iter().copied().cycle().take(PERIOD + PIECE).collect())
    }

    /// The bytes from `place` on, `length` of them but no more than [`PIECE`].
    pub(super) fn at(&self, place: u64, length: usize) -> &[u8] {
        let start = usize::try_from(place % PERIOD as u64).unwrap_or_default();
        self.0.get(start..start + length.min(PIECE)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::{LAST, PERIOD, PIECE, Pattern};

    #[test]
    fn pieces_follow_one_another() {
        let pattern = Pattern::new();
        assert_eq!(pattern.at(0, PIECE)[PERIOD..], pattern.at(PERIOD as u64, PIECE)[..PIECE - PERIOD]);
        assert_eq!(pattern.at(10, PIECE)[7..], pattern.at(17, PIECE)[..PIECE - 7]);
        assert_ne!(pattern.at(0, 4096), pattern.at(4096, 4096));
        assert!(!pattern.at(0, PIECE).contains(&LAST));
    }
}
