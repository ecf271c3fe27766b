//! Sixteen bytes at once: the beginning of a direction, of a line, or a piece of a payload.
//!
//! Kept in two registers, so that looking for a pattern is a mask and a compare and no loop, and no byte
//! is ever reached by an index. Whatever depends on how many bytes there are is computed without a branch:
//! the kernel's verifier walks all that follows once more for every branch, and learns a number's value in
//! each.

mod pattern;
mod words;

use bulkhead_abi::inspect::Stream;

pub(super) use pattern::{Pattern, begins, may_begin, may_say, says};
use words::{
    ONES, TOPS, back, by, count, equal, forward, onward, other_than_addresses, other_than_digits, unprintable,
};

/// Up to sixteen bytes, the first one in the highest bits; what is not there is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Head {
    high: u64,
    low: u64,
    /// All ones in the bytes that are there.
    there_high: u64,
    there_low: u64,
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
            there_high: u64::MAX,
            there_low: u64::MAX,
        }
        .first(have)
    }

    /// These bytes.
    pub(super) const fn text(bytes: &[u8]) -> Self {
        let pattern = Pattern::new(bytes);
        Self {
            high: pattern.high,
            low: pattern.low,
            there_high: pattern.there_high,
            there_low: pattern.there_low,
        }
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
        stream.have = self.have() as u8;
    }

    /// How many bytes there are.
    #[inline(always)]
    pub(super) const fn have(self) -> u32 {
        count(self.there_high) + count(self.there_low)
    }

    /// Whether there is no room for more.
    #[inline(always)]
    pub(super) const fn is_full(self) -> bool {
        self.there_low & 1 != 0
    }

    /// The first `count` bytes, or all.
    #[inline(always)]
    pub(super) fn first(self, count: u32) -> Self {
        let by = by(count);
        Self {
            high: self.high & by.high,
            low: self.low & by.low,
            there_high: self.there_high & by.high,
            there_low: self.there_low & by.low,
        }
    }

    /// What stands behind the first `count` bytes.
    #[inline(always)]
    pub(super) fn behind(self, count: u32) -> Self {
        let (high, low) = forward((self.high, self.low), count);
        let (there_high, there_low) = forward((self.there_high, self.there_low), count);
        Self { high, low, there_high, there_low }
    }

    /// Itself, and behind it as much of `more` as there is room for.
    #[inline(always)]
    pub(super) fn with(self, more: Self) -> Self {
        let moved = more.moved(self.have());
        Self {
            high: self.high | moved.high,
            low: self.low | moved.low,
            there_high: self.there_high | moved.there_high,
            there_low: self.there_low | moved.there_low,
        }
    }

    /// Its bytes `count` places further back.
    #[inline(always)]
    fn moved(self, count: u32) -> Self {
        let (high, low) = back((self.high, self.low), count);
        let (there_high, there_low) = back((self.there_high, self.there_low), count);
        Self { high, low, there_high, there_low }
    }

    /// Whether `other`, whose first byte belongs `at` places behind the first one here, agrees with it
    /// wherever both have a byte.
    #[inline(always)]
    pub(super) fn agrees(self, other: Self, at: u32) -> bool {
        let moved = other.moved(at);
        let high = (self.high ^ moved.high) & self.there_high & moved.there_high;
        let low = (self.low ^ moved.low) & self.there_low & moved.there_low;
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
        (self.u64_at::<I>() >> 48) as u32
    }

    /// The four bytes at `I` as a number in network order.
    #[inline(always)]
    pub(super) const fn u32_at<const I: u32>(self) -> u32 {
        (self.u64_at::<I>() >> 32) as u32
    }

    /// The eight bytes at `I` as a number in network order.
    #[inline(always)]
    pub(super) const fn u64_at<const I: u32>(self) -> u64 {
        let bits = (I & 7) * 8;
        let (high, low) = if I < 8 { (self.high, self.low) } else { (self.low, 0) };
        high << bits | low >> 1 >> (63 - bits)
    }

    /// Whether it begins with the pattern.
    #[inline(always)]
    pub(super) const fn is(self, pattern: Pattern) -> bool {
        let missing = (pattern.there_high & !self.there_high) | (pattern.there_low & !self.there_low);
        let high = (self.high ^ pattern.high) & pattern.mask_high;
        let low = (self.low ^ pattern.low) & pattern.mask_low;
        missing | high | low == 0
    }

    /// Whether it may yet begin with the pattern, or does.
    #[inline(always)]
    pub(super) const fn may_be(self, pattern: Pattern) -> bool {
        let high = (self.high ^ pattern.high) & pattern.mask_high & self.there_high;
        let low = (self.low ^ pattern.low) & pattern.mask_low & self.there_low;
        high | low == 0
    }

    /// Where the first `wanted` stands, counted from 1; 0 where there is none.
    #[inline(always)]
    pub(super) fn find(self, wanted: u8) -> u32 {
        let high = onward(equal(self.high, wanted) & self.there_high);
        let low = onward((equal(self.low, wanted) & self.there_low) | (high & 0x80) << 56);
        by(count(high) + count(low)).place
    }

    /// Whether every byte is a digit.
    #[inline(always)]
    pub(super) const fn is_digits(self) -> bool {
        (other_than_digits(self.high) & self.there_high) | (other_than_digits(self.low) & self.there_low) == 0
    }

    /// Whether only addresses and ports stand here, and the end of a line.
    #[inline(always)]
    pub(super) const fn is_of_addresses(self) -> bool {
        let (high, low) = (other_than_addresses(self.high), other_than_addresses(self.low));
        (high & self.there_high) | (low & self.there_low) == 0
    }

    /// Where an empty line ends, counted from 1, or 0; `before` are the bytes that stand before these.
    #[inline(always)]
    pub(super) fn blank_line(self, before: u32) -> u32 {
        let feeds = (equal(self.high, b'\n') & self.there_high, equal(self.low, b'\n') & self.there_low);
        let returns = (equal(self.high, b'\r') & self.there_high, equal(self.low, b'\r') & self.there_low);
        let (feed, back) = (equal(before as u64, b'\n'), equal(before as u64, b'\r'));
        // Of each byte, whether the one that many places before it is marked.
        let earlier = |(high, low): (u64, u64), before: u64, places: u32| {
            let bits = places * 8;
            (high >> bits | before << (64 - bits), low >> bits | high << (64 - bits))
        };
        let (feed_1, return_1) = (earlier(feeds, feed, 1), earlier(returns, back, 1));
        let (feed_2, return_3) = (earlier(feeds, feed, 2), earlier(returns, back, 3));
        let high = onward(feeds.0 & (feed_1.0 | (return_1.0 & feed_2.0 & return_3.0)));
        let low = onward(feeds.1 & (feed_1.1 | (return_1.1 & feed_2.1 & return_3.1)) | (high & 0x80) << 56);
        by(count(high) + count(low)).place
    }

    /// The first of the first `count` bytes at which a TLS record may begin, counted from 1, by its type and its
    /// version, as far as they are there; 0 where none may.
    #[inline(always)]
    pub(super) fn likely_record(self, count: u32) -> u32 {
        let kinds = |word: u64| equal(word & (ONES * 0xfc), 0x14) | equal(word, 0x18);
        let majors = |word: u64, there: u64| equal(word, 3) | (!there & TOPS);
        let minors = |word: u64| equal(word & (ONES * 0xf8), 0);
        let seen = by(count);
        let kind_high = kinds(self.high) & self.there_high & seen.high;
        let kind_low = kinds(self.low) & self.there_low & seen.low;
        let (major_high, major_low) = (majors(self.high, self.there_high), majors(self.low, self.there_low));
        // What is not there is zero, which is a version's second half.
        let (minor_high, minor_low) = (minors(self.high), minors(self.low));
        let high = kind_high & (major_high << 8 | major_low >> 56) & (minor_high << 16 | minor_low >> 48);
        let low = kind_low & (major_low << 8 | 0x80) & (minor_low << 16 | 0x8080);
        let high = onward(high);
        let low = onward(low | (high & 0x80) << 56);
        by(self::count(high) + self::count(low)).place
    }

    /// The last four bytes, with `before` before them.
    #[inline(always)]
    pub(super) fn last(self, before: u32) -> u32 {
        let have = self.have();
        if have >= 4 {
            return self.behind(have - 4).u32_at::<0>();
        }
        let all = (before as u64) << 32 | self.high >> 32;
        ((all << (have * 8)) >> 32) as u32
    }

    /// Whether every byte is printable ASCII, a tab or the end of a line.
    #[inline(always)]
    pub(super) const fn is_text(self) -> bool {
        (unprintable(self.high) & self.there_high) | (unprintable(self.low) & self.there_low) == 0
    }
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
    fn more_than_there_is_room_for_is_all() {
        for count in [17, 31, 32, 33, 255, 256, 65_551, 1 << 28, u32::MAX] {
            assert_eq!(head(ALL).first(count), head(ALL), "{count}");
            assert_eq!(head(ALL).behind(count), head(b""), "{count}");
        }
    }

    #[test]
    fn any_other_byte_disagrees() {
        for at in 0..16 {
            for len in 1..=16 - at {
                for wrong in 0..len {
                    let mut piece = ALL.get(at..at + len).unwrap_or_default().to_vec();
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
    fn an_empty_line_ends_where_it_ends() {
        let lines: [(&[u8], bool); 5] =
            [(b"\n\n", true), (b"\r\n\r\n", true), (b"\r\n", false), (b"\n\r\n", false), (b"\nx\n", false)];
        for (line, ends) in lines {
            for at in 0..=16 - line.len() {
                let mut bytes = *ALL;
                for (to, from) in bytes.iter_mut().skip(at).zip(line) {
                    *to = *from;
                }
                let end = at + line.len();
                let expected = if ends { end as u32 } else { 0 };
                assert_eq!(head(&bytes).blank_line(0), expected, "{line:?} {at}");
                // In two pieces.
                for cut in 1..16 {
                    let (front, back) = bytes.split_at(cut);
                    let before = head(front).last(0);
                    let found = [head(front).blank_line(0), head(back).blank_line(before)];
                    let place =
                        if end <= cut { [expected, 0] } else { [0, expected.saturating_sub(cut as u32)] };
                    assert!(
                        found == place || (end <= cut && found.first() == place.first()),
                        "{line:?} {at} {cut}"
                    );
                }
            }
        }
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
                let address =
                    matches!(byte, b'0'..=b':' | b'a'..=b'f' | b'A'..=b'F' | b'.' | b' ' | b'\r' | b'\n');
                assert_eq!(head(&bytes).is_of_addresses(), address, "{byte} {at}");
                assert!(head(ALL.get(..at).unwrap_or_default()).find(byte) <= at as u32);
            }
        }
        assert_eq!(head(b"abc").find(0), 0);
    }
}
