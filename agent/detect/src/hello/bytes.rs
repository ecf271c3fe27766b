//! A cursor over bytes that strangers chose: everything it gives is an `Option`, nothing panics.

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Exactly `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// `count` bytes, or as many as there are; and whether all were there.
    pub(crate) fn take_some(&mut self, count: usize) -> (&'a [u8], bool) {
        match self.take(count) {
            Some(taken) => (taken, true),
            None => (self.rest(), false),
        }
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        let (taken, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*taken))
    }

    /// A number of three bytes.
    pub(crate) fn u24(&mut self) -> Option<usize> {
        let ([high, middle, low], rest) = self.0.split_first_chunk::<3>()?;
        self.0 = rest;
        Some(usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low))
    }

    /// Bytes behind their length of one byte.
    pub(crate) fn vec8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    /// Bytes behind their length of two bytes.
    pub(crate) fn vec16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// Numbers of two bytes, to the end; an odd byte is left out.
    pub(crate) fn u16s(self) -> impl Iterator<Item = u16> {
        self.0.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair))
    }
}
