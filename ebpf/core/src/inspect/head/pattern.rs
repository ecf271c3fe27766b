//! What a head may begin with.

use super::ROOM;

/// What a [`Head`] may begin with: bytes, some of whose bits may not matter.
#[derive(Clone, Copy)]
pub(in crate::inspect) struct Pattern {
    pub(super) high: u64,
    pub(super) low: u64,
    pub(super) mask_high: u64,
    pub(super) mask_low: u64,
    pub(super) there_high: u64,
    pub(super) there_low: u64,
}

impl Pattern {
    /// Exactly these bytes.
    pub(in crate::inspect) const fn new(bytes: &[u8]) -> Self {
        Self::masked(bytes, 0xff)
    }

    /// These words, in capitals here, in any case there.
    pub(in crate::inspect) const fn word(bytes: &[u8]) -> Self {
        Self::masked(bytes, 0xdf)
    }

    const fn masked(bytes: &[u8], letters: u8) -> Self {
        let mut pattern = Self { high: 0, low: 0, mask_high: 0, mask_low: 0, there_high: 0, there_low: 0 };
        let (mut rest, mut len) = (bytes, 0);
        while let [first, behind @ ..] = rest {
            let mask = if first.is_ascii_alphabetic() { letters } else { 0xff };
            let shift = 56 - 8 * (len & 7);
            let (byte, mask) = (((*first & mask) as u64) << shift, (mask as u64) << shift);
            if len < 8 {
                pattern.high |= byte;
                pattern.mask_high |= mask;
                pattern.there_high |= 0xff << shift;
            } else {
                pattern.low |= byte;
                pattern.mask_low |= mask;
                pattern.there_low |= 0xff << shift;
            }
            len += 1;
            rest = behind;
        }
        assert!(len <= ROOM);
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

pub(in crate::inspect) use {begins, may_begin, may_say, says};
