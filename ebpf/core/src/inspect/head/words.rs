//! Arithmetic on eight bytes at once, without a branch.

use super::ROOM;

pub(super) const ONES: u64 = 0x0101_0101_0101_0101;
pub(super) const TOPS: u64 = 0x8080_8080_8080_8080;

/// What depends on a number of bytes.
#[derive(Clone, Copy)]
pub(super) struct By {
    /// All ones in so many first bytes.
    pub(super) high: u64,
    pub(super) low: u64,
    /// All ones where it is less than half of [`ROOM`].
    pub(super) few: u64,
    /// All ones where it is not, but less than all.
    pub(super) many: u64,
    /// Where the first of so many bytes stands that reach to the end, counted from 1; 0 of none.
    pub(super) place: u32,
}

/// Of so many bytes; above [`ROOM`] as that.
#[inline(always)]
pub(super) const fn by(count: u32) -> By {
    let count = count as u64;
    let over = ((count >> 4) + 0x0fff_ffff) >> 28;
    let bytes = (count & over.wrapping_sub(1)) | over << 4;
    let some = (bytes + 31) >> 5;
    By {
        high: !shifted_back(u64::MAX, bytes),
        low: shifted(u64::MAX, ROOM as u64 - bytes),
        few: (((bytes >> 3) + 3) >> 2).wrapping_sub(1),
        many: 0u64.wrapping_sub(bytes >> 3 & 1),
        place: (some * (ROOM as u64 + 1 - bytes)) as u32,
    }
}

/// So many bytes further to the front, up to [`ROOM`]: no shift is as long as a word.
#[inline(always)]
pub(super) const fn shifted(word: u64, bytes: u64) -> u64 {
    let (more, less) = ((3 * bytes) & 63, (2 * bytes) & 63);
    ((word << more) << more) << less
}

/// So many bytes further to the back, up to [`ROOM`].
#[inline(always)]
pub(super) const fn shifted_back(word: u64, bytes: u64) -> u64 {
    let (more, less) = ((3 * bytes) & 63, (2 * bytes) & 63);
    ((word >> more) >> more) >> less
}

/// How many bytes of a mask of whole bytes are set.
#[inline(always)]
pub(super) const fn count(mask: u64) -> u32 {
    ((mask >> 7 & ONES).wrapping_mul(ONES) >> 56) as u32
}

/// Two words, `count` bytes further to the front.
#[inline(always)]
pub(super) fn forward((high, low): (u64, u64), count: u32) -> (u64, u64) {
    let (by, bits) = (by(count), (count & 7) * 8);
    let (high, low) = (high << bits | low >> 1 >> (63 - bits), low << bits);
    (high & by.few | low & by.many, low & by.few)
}

/// Two words, `count` bytes further to the back.
#[inline(always)]
pub(super) fn back((high, low): (u64, u64), count: u32) -> (u64, u64) {
    let (by, bits) = (by(count), (count & 7) * 8);
    let (high, low) = (high >> bits, low >> bits | high << 1 << (63 - bits));
    (high & by.few, low & by.few | high & by.many)
}

/// From the first byte whose top bit is set on, the top bit of every one.
#[inline(always)]
pub(super) const fn onward(marks: u64) -> u64 {
    let marks = marks | marks >> 8;
    let marks = marks | marks >> 16;
    marks | marks >> 32
}

/// The top bit of each byte that is `wanted`.
#[inline(always)]
pub(super) const fn equal(bytes: u64, wanted: u8) -> u64 {
    let differ = bytes ^ (ONES * wanted as u64);
    // A byte is zero when neither its lower bits nor its top bit are set; no carry crosses a byte.
    !(((differ & !TOPS) + !TOPS) | differ) & TOPS
}

/// The top bit of each byte that lies between two.
#[inline(always)]
pub(super) const fn between(bytes: u64, first: u8, last: u8) -> u64 {
    let below = bytes & !TOPS;
    // Bytes of 7 bits that are at least so much reach the top bit when what is missing to it is added.
    let (from, above) = (below + ONES * (0x80 - first as u64), below + ONES * (0x7f - last as u64));
    from & !above & !bytes & TOPS
}

/// The top bit of each byte that is no digit.
#[inline(always)]
pub(super) const fn other_than_digits(bytes: u64) -> u64 {
    !between(bytes, b'0', b'9') & TOPS
}

/// The top bit of each byte that no line of addresses and ports holds.
#[inline(always)]
pub(super) const fn other_than_addresses(bytes: u64) -> u64 {
    let digits = between(bytes, b'0', b':') | between(bytes | (ONES * 0x20), b'a', b'f');
    let marks = equal(bytes, b'.') | equal(bytes, b' ') | equal(bytes, b'\r') | equal(bytes, b'\n');
    !(digits | marks) & TOPS
}

/// The top bit of each byte that is neither printable ASCII nor a tab, CR or LF.
#[inline(always)]
pub(super) const fn unprintable(bytes: u64) -> u64 {
    let below = bytes & !TOPS;
    // Bytes of 7 bits that are at least 0x20 reach the top bit when 0x60 is added.
    let control = !(below + ONES * 0x60) & TOPS;
    let white = equal(bytes, b'\t') | equal(bytes, b'\n') | equal(bytes, b'\r');
    (bytes & TOPS) | (control & !white) | equal(bytes, 0x7f)
}
