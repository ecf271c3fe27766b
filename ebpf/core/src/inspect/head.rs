//! Sixteen bytes at once: the beginning of a direction, of a line, or a piece of a payload.
//!
//! Kept in two registers, so that looking for a pattern is a mask and a compare and no loop, and no byte
//! is ever reached by an index.

use bulkhead_abi::inspect::Stream;

/// Up to sixteen bytes, the first one in the highest bits; what is not there is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Head {
    high: u64,
    low: u64,
    have: u32,
}

/// How many bytes a [`Head`] holds.
pub(super) const ROOM: u32 = 16;

impl Head {
    /// The first `have` of `bytes`.
    #[inline(always)]
    pub(super) fn new(bytes: [u8; 16], have: u32) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self {
            high: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            low: u64::from_be_bytes([i, j, k, l, m, n, o, p]),
            have: ROOM,
        }
        .first(have)
    }

    /// These bytes.
    pub(super) const fn text(bytes: &[u8]) -> Self {
        let pattern = Pattern::new(bytes);
        Self { high: pattern.high, low: pattern.low, have: pattern.len }
    }

    /// Whether nothing but zeros stands here.
    #[inline(always)]
    pub(super) const fn is_zero(self) -> bool {
        self.high | self.low == 0
    }

    /// What is kept of a direction.
    #[inline(always)]
    pub(super) fn of(stream: &Stream) -> Self {
        Self::new(stream.bytes, stream.have.into())
    }

    /// Keeps it in a direction.
    #[inline(always)]
    pub(super) fn keep(self, stream: &mut Stream) {
        let [a, b, c, d, e, f, g, h] = self.high.to_be_bytes();
        let [i, j, k, l, m, n, o, p] = self.low.to_be_bytes();
        stream.bytes = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
        stream.have = self.have as u8;
    }

    /// How many bytes there are.
    #[inline(always)]
    pub(super) const fn have(self) -> u32 {
        self.have
    }

    /// Whether there is no room for more.
    #[inline(always)]
    pub(super) const fn is_full(self) -> bool {
        self.have >= ROOM
    }

    /// The first `count` bytes, or all.
    #[inline(always)]
    pub(super) const fn first(self, count: u32) -> Self {
        let have = if count < self.have { count } else { self.have };
        let (high, low) = upto(have);
        Self { high: self.high & high, low: self.low & low, have }
    }

    /// What stands behind the first `count` bytes.
    #[inline(always)]
    pub(super) const fn behind(self, count: u32) -> Self {
        if count >= self.have {
            return Self { high: 0, low: 0, have: 0 };
        }
        let have = self.have - count;
        let bits = (count & 7) * 8;
        let (high, low) = if count >= 8 { (self.low, 0) } else { (self.high, self.low) };
        if bits == 0 {
            return Self { high, low, have };
        }
        Self { high: (high << bits) | (low >> (64 - bits)), low: low << bits, have }
    }

    /// Itself, and behind it as much of `more` as there is room for.
    #[inline(always)]
    pub(super) const fn with(self, more: Self) -> Self {
        let moved = more.moved(self.have);
        let have = self.have + more.have;
        let have = if have < ROOM { have } else { ROOM };
        Self { high: self.high | moved.high, low: self.low | moved.low, have }
    }

    /// Its bytes `count` places further back.
    #[inline(always)]
    const fn moved(self, count: u32) -> Self {
        if count >= ROOM {
            return Self { high: 0, low: 0, have: 0 };
        }
        let bits = (count & 7) * 8;
        let (high, low) = if count >= 8 { (0, self.high) } else { (self.high, self.low) };
        if bits == 0 {
            return Self { high, low, have: self.have };
        }
        Self { high: high >> bits, low: (low >> bits) | (high << (64 - bits)), have: self.have }
    }

    /// Whether `other`, whose first byte belongs `at` places behind the first one here, agrees with it
    /// wherever both have a byte.
    #[inline(always)]
    pub(super) const fn agrees(self, other: Self, at: u32) -> bool {
        let moved = other.moved(at);
        let end = at + other.have;
        let (high, low) = upto(if end < self.have { end } else { self.have });
        let (skip_high, skip_low) = upto(at);
        let high = (self.high ^ moved.high) & high & !skip_high;
        let low = (self.low ^ moved.low) & low & !skip_low;
        high | low == 0
    }

    /// The byte at `I`; 0 where there is none.
    #[inline(always)]
    pub(super) const fn byte<const I: u32>(self) -> u8 {
        if I < 8 { (self.high >> (56 - 8 * (I & 7))) as u8 } else { (self.low >> (56 - 8 * (I & 7))) as u8 }
    }

    /// The two bytes at `I` as a number in network order.
    #[inline(always)]
    pub(super) const fn u16_at<const I: u32>(self) -> u32 {
        (self.behind_const(I).high >> 48) as u32
    }

    /// The four bytes at `I` as a number in network order.
    #[inline(always)]
    pub(super) const fn u32_at<const I: u32>(self) -> u32 {
        (self.behind_const(I).high >> 32) as u32
    }

    /// The eight bytes at `I` as a number in network order.
    #[inline(always)]
    pub(super) const fn u64_at<const I: u32>(self) -> u64 {
        self.behind_const(I).high
    }

    /// As [`behind`](Self::behind), of a constant, whatever is there.
    #[inline(always)]
    const fn behind_const(self, count: u32) -> Self {
        Self { high: self.high, low: self.low, have: ROOM }.behind(count)
    }

    /// Whether it begins with the pattern.
    #[inline(always)]
    pub(super) const fn is(self, pattern: Pattern) -> bool {
        self.have >= pattern.len
            && ((self.high ^ pattern.high) & pattern.mask_high)
                | ((self.low ^ pattern.low) & pattern.mask_low)
                == 0
    }

    /// Whether it may yet begin with the pattern, or does.
    #[inline(always)]
    pub(super) const fn may_be(self, pattern: Pattern) -> bool {
        let (high, low) = upto(self.have);
        ((self.high ^ pattern.high) & pattern.mask_high & high)
            | ((self.low ^ pattern.low) & pattern.mask_low & low)
            == 0
    }

    /// Where the first `wanted` stands, counted from 1; 0 where there is none.
    #[inline(always)]
    pub(super) const fn find(self, wanted: u8) -> u32 {
        let (have_high, have_low) = upto(self.have);
        let high = equal(self.high, wanted) & have_high;
        if high != 0 {
            return first_marked(high);
        }
        let low = equal(self.low, wanted) & have_low;
        if low != 0 { 8 + first_marked(low) } else { 0 }
    }

    /// Whether every byte is printable ASCII, a tab or the end of a line.
    #[inline(always)]
    pub(super) const fn is_text(self) -> bool {
        let (high, low) = upto(self.have);
        (unprintable(self.high) & high) | (unprintable(self.low) & low) == 0
    }
}

/// What a [`Head`] may begin with: bytes, some of whose bits may not matter.
#[derive(Clone, Copy)]
pub(super) struct Pattern {
    high: u64,
    low: u64,
    mask_high: u64,
    mask_low: u64,
    len: u32,
}

impl Pattern {
    /// Exactly these bytes.
    pub(super) const fn new(bytes: &[u8]) -> Self {
        Self::masked(bytes, 0xff)
    }

    /// These words, in capitals here, in any case there.
    pub(super) const fn word(bytes: &[u8]) -> Self {
        Self::masked(bytes, 0xdf)
    }

    const fn masked(bytes: &[u8], letters: u8) -> Self {
        let mut pattern = Self { high: 0, low: 0, mask_high: 0, mask_low: 0, len: 0 };
        let mut rest = bytes;
        while let [first, behind @ ..] = rest {
            let mask = if first.is_ascii_alphabetic() { letters } else { 0xff };
            let shift = 56 - 8 * (pattern.len & 7);
            let (byte, mask) = (((*first & mask) as u64) << shift, (mask as u64) << shift);
            if pattern.len < 8 {
                pattern.high |= byte;
                pattern.mask_high |= mask;
            } else {
                pattern.low |= byte;
                pattern.mask_low |= mask;
            }
            pattern.len += 1;
            rest = behind;
        }
        assert!(pattern.len <= ROOM);
        pattern
    }
}

/// Whether a head begins with any of these.
macro_rules! begins {
    ($head:expr, $($bytes:literal),+ $(,)?) => {
        $($head.is(const { $crate::inspect::head::Pattern::new($bytes) }))||+
    };
}

/// Whether a head begins with any of these words, in any case.
macro_rules! says {
    ($head:expr, $($bytes:literal),+ $(,)?) => {
        $($head.is(const { $crate::inspect::head::Pattern::word($bytes) }))||+
    };
}

/// Whether a head may yet begin with any of these words, in any case.
macro_rules! may_say {
    ($head:expr, $($bytes:literal),+ $(,)?) => {
        $($head.may_be(const { $crate::inspect::head::Pattern::word($bytes) }))||+
    };
}

/// Whether a head may yet begin with any of these.
macro_rules! may_begin {
    ($head:expr, $($bytes:literal),+ $(,)?) => {
        $($head.may_be(const { $crate::inspect::head::Pattern::new($bytes) }))||+
    };
}

pub(super) use {begins, may_begin, may_say, says};

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = 0x8080_8080_8080_8080;

/// The first `count` bytes, in both halves.
#[inline(always)]
const fn upto(count: u32) -> (u64, u64) {
    if count >= ROOM {
        (u64::MAX, u64::MAX)
    } else if count >= 8 {
        (u64::MAX, !(u64::MAX >> ((count & 7) * 8)))
    } else {
        (!(u64::MAX >> ((count & 7) * 8)), 0)
    }
}

/// The top bit of each byte that is `wanted`.
#[inline(always)]
const fn equal(bytes: u64, wanted: u8) -> u64 {
    let differ = bytes ^ (ONES * wanted as u64);
    // A byte is zero when neither its lower bits nor its top bit are set; no carry crosses a byte.
    !(((differ & !TOPS) + !TOPS) | differ) & TOPS
}

/// The top bit of each byte that is neither printable ASCII nor a tab, CR or LF.
#[inline(always)]
const fn unprintable(bytes: u64) -> u64 {
    let below = bytes & !TOPS;
    // Bytes of 7 bits that are at least 0x20 reach the top bit when 0x60 is added.
    let control = !(below + ONES * 0x60) & TOPS;
    let white = equal(bytes, b'\t') | equal(bytes, b'\n') | equal(bytes, b'\r');
    (bytes & TOPS) | (control & !white) | equal(bytes, 0x7f)
}

/// The place, from 1, of the first byte whose top bit is set.
#[inline(always)]
const fn first_marked(marks: u64) -> u32 {
    // By halving: the kernel's target has no instruction that counts zeros.
    let (mut place, mut marks) = (1, marks);
    if marks >> 32 == 0 {
        (place, marks) = (place + 4, marks << 32);
    }
    if marks >> 48 == 0 {
        (place, marks) = (place + 2, marks << 16);
    }
    if marks >> 56 == 0 {
        place += 1;
    }
    place
}

#[cfg(test)]
mod tests {
    use super::{Head, Pattern};

    fn head(bytes: &[u8]) -> Head {
        let mut all = [0; 16];
        for (to, from) in all.iter_mut().zip(bytes) {
            *to = *from;
        }
        Head::new(all, bytes.len() as u32)
    }

    const ALL: &[u8; 16] = b"0123456789abcdef";

    #[test]
    fn pieces_come_together_again() {
        for cut in 0..=16 {
            let (front, back) = ALL.split_at(cut);
            assert_eq!(head(front).with(head(back)), head(ALL), "{cut}");
            assert_eq!(head(ALL).behind(cut as u32), head(back), "{cut}");
            assert_eq!(head(ALL).first(cut as u32), head(front), "{cut}");
            assert!(head(ALL).agrees(head(back), cut as u32));
            assert!(head(front).agrees(head(ALL), 0));
        }
    }

    #[test]
    fn any_other_byte_disagrees() {
        for at in 0..16 {
            for len in 1..=16 - at {
                for wrong in 0..len {
                    let mut piece = ALL
                        .get(at..at + len)
                        .unwrap_or_default()
                        .iter()
                        .copied()
                        .collect::<std::vec::Vec<_>>();
                    assert!(head(ALL).agrees(head(&piece), at as u32));
                    if let Some(byte) = piece.get_mut(wrong) {
                        *byte ^= 0x40;
                    }
                    assert!(!head(ALL).agrees(head(&piece), at as u32), "{at} {len} {wrong}");
                    assert!(head(&[]).agrees(head(&piece), at as u32));
                }
            }
        }
    }

    #[test]
    fn numbers_and_bytes_stand_where_they_stand() {
        let all = head(ALL);
        assert_eq!(
            (all.byte::<0>(), all.byte::<7>(), all.byte::<8>(), all.byte::<15>()),
            (b'0', b'7', b'8', b'f')
        );
        assert_eq!(all.u16_at::<7>(), 0x3738);
        assert_eq!(all.u32_at::<12>(), 0x6364_6566);
        assert_eq!(all.u64_at::<8>(), 0x3839_6162_6364_6566);
    }

    #[test]
    fn a_pattern_is_there_or_may_come() {
        let word = Pattern::word(b"STARTTLS\r\n");
        assert!(head(b"startTLS\r\nx").is(word));
        assert!(!head(b"startTLS\r").is(word) && head(b"startTLS\r").may_be(word));
        assert!(!head(b"startTLX").may_be(word));
        assert!(head(b"").may_be(word));
        assert!(!Head::default().is(word));
    }

    #[test]
    fn every_byte_is_found_and_judged() {
        for byte in 0..=255u8 {
            for at in 0..16 {
                let mut bytes = *ALL;
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
                let first = bytes.iter().position(|other| *other == byte).map_or(0, |place| place as u32 + 1);
                assert_eq!(head(&bytes).find(byte), first, "{byte} {at}");
                let text = matches!(byte, b'\t' | b'\r' | b'\n' | 0x20..=0x7e);
                assert_eq!(head(&bytes).is_text(), text, "{byte} {at}");
                assert!(head(ALL.get(..at).unwrap_or_default()).find(byte) <= at as u32);
            }
        }
        assert_eq!(head(b"abc").find(0), 0);
    }
}
