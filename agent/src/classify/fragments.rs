//! Fragments of IP packets, put together again: what a program hears is the whole datagram, and a header
//! may be cut in two.
//!
//! Bounded: at most [`PARTIAL`] packets wait for their rest, and the oldest makes room. What overlaps is
//! never put together, as no kernel does it (RFC 5722). A first fragment whose rest never came is handed
//! over by itself, as a packet that the capture has only the front of.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// Packets that may wait for their rest.
const PARTIAL: usize = 256;
/// The longest packet (RFC 791, 3.1).
const LONGEST: usize = 0xffff;

/// Which packet a fragment is of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    /// Of what the packet carries.
    pub(super) protocol: u8,
    pub(super) number: u32,
}

/// A fragment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment<'a> {
    pub(super) key: Key,
    /// Where in the packet's body it belongs.
    pub(super) offset: usize,
    /// More follow.
    pub(super) more: bool,
    pub(super) body: &'a [u8],
}

/// Packets in pieces.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    partial: HashMap<Key, Partial>,
    order: BTreeMap<u64, Key>,
    next: u64,
}

#[derive(Debug, Default)]
struct Partial {
    number: u64,
    pieces: BTreeMap<usize, Vec<u8>>,
    /// Length of the whole, once its last fragment is there.
    len: Option<usize>,
    overlaps: bool,
}

impl Fragments {
    /// Takes a fragment; the whole body when it was the last one that was missing.
    pub(super) fn take(&mut self, fragment: &Fragment<'_>) -> Option<Vec<u8>> {
        let Fragment { key, offset, more, body } = *fragment;
        if body.is_empty() || offset + body.len() > LONGEST {
            return None;
        }
        if !self.partial.contains_key(&key) {
            if self.partial.len() >= PARTIAL
                && let Some((_, oldest)) = self.order.pop_first()
            {
                self.partial.remove(&oldest);
            }
            self.partial.insert(key, Partial { number: self.next, ..Partial::default() });
            self.order.insert(self.next, key);
            self.next += 1;
        }
        let partial = self.partial.get_mut(&key)?;
        partial.add(offset, more, body);
        let whole = partial.whole()?;
        self.order.remove(&partial.number);
        self.partial.remove(&key);
        Some(whole)
    }

    /// First fragments whose rest never came, in the order in which they came.
    pub(super) fn finish(&mut self) -> Vec<(Key, Vec<u8>)> {
        let order = std::mem::take(&mut self.order);
        let mut partial = std::mem::take(&mut self.partial);
        let first = |key| Some((key, partial.remove(&key)?.pieces.remove(&0)?));
        order.into_values().filter_map(first).collect()
    }
}

impl Partial {
    fn add(&mut self, offset: usize, more: bool, body: &[u8]) {
        let end = offset + body.len();
        // Captured twice.
        if self.pieces.get(&offset).is_some_and(|piece| piece == body) {
            return;
        }
        let before = self.pieces.range(..=offset).next_back().map_or(0, |(at, piece)| at + piece.len());
        let after = self.pieces.range(offset..).next().map_or(usize::MAX, |(at, _)| *at);
        self.overlaps |= before > offset || after < end || self.len.is_some_and(|len| end > len);
        self.pieces.insert(offset, body.to_vec());
        if !more {
            self.overlaps |= self.len.is_some_and(|len| len != end);
            self.len = Some(end);
        }
    }

    fn whole(&self) -> Option<Vec<u8>> {
        let len = self.len?;
        if self.overlaps || self.pieces.values().map(Vec::len).sum::<usize>() != len {
            return None;
        }
        Some(self.pieces.values().flatten().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn fragment(number: u32, offset: usize, more: bool, body: &[u8]) -> Fragment<'_> {
        let end = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Fragment { key: Key { src: end, dst: end, protocol: 17, number }, offset, more, body }
    }

    #[test]
    fn they_come_together_in_any_order() {
        let all = [(0, true, &b"abcdefgh"[..]), (8, true, b"ijklmnop"), (16, false, b"q")];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]] {
            let mut fragments = Fragments::default();
            let mut whole = None;
            for at in order {
                let (offset, more, body) = all.get(at).copied().unwrap_or_default();
                assert_eq!(whole, None, "{order:?}");
                whole = fragments.take(&fragment(1, offset, more, body));
                assert_eq!(fragments.take(&fragment(2, offset, more, body)).is_some(), whole.is_some());
            }
            assert_eq!(whole.as_deref(), Some(&b"abcdefghijklmnopq"[..]), "{order:?}");
            assert!(fragments.finish().is_empty());
        }
    }

    #[test]
    fn what_overlaps_is_no_packet_and_a_front_alone_is_told() {
        let mut fragments = Fragments::default();
        assert_eq!(fragments.take(&fragment(1, 0, true, b"abcdefgh")), None);
        assert_eq!(fragments.take(&fragment(1, 4, true, b"XXXX")), None);
        assert_eq!(fragments.take(&fragment(1, 8, false, b"ijkl")), None);
        let front = fragments.finish();
        assert_eq!(front.iter().map(|(_, body)| body.as_slice()).collect::<Vec<_>>(), [b"abcdefgh"]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut fragments = Fragments::default();
        for number in 0..10_000 {
            assert_eq!(fragments.take(&fragment(number, 0, true, &[0; 8])), None);
        }
        assert_eq!((fragments.partial.len(), fragments.finish().len()), (PARTIAL, PARTIAL));
    }
}
