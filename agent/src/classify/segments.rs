//! One direction of a TCP flow, in order: a capture has segments as they passed, late and repeated ones
//! among them.
//!
//! Segments that came too early wait for those before them, in bounded memory; where a gap is never
//! filled they are handed over behind it at the end, and the reader sees that something is missing.

use std::collections::BTreeMap;

/// Bytes that may wait.
const WAITING: usize = 64 << 10;
/// Bytes from the beginning that are kept.
pub(super) const KEPT: u32 = 16 << 10;

/// A direction.
#[derive(Debug, Default)]
pub(super) struct Segments {
    /// Sequence number of the first byte, once known.
    first: Option<u32>,
    /// How many bytes were handed over in order.
    next: u32,
    waiting: BTreeMap<u32, Vec<u8>>,
    waiting_bytes: usize,
    kept: Vec<u8>,
}

impl Segments {
    /// Tells where the direction begins; only the first telling counts.
    pub(super) fn begin(&mut self, first: u32) {
        self.first.get_or_insert(first);
    }

    /// Whether it is known where the direction begins.
    pub(super) const fn has_begun(&self) -> bool {
        self.first.is_some()
    }

    /// Sequence number of the first byte, once known.
    pub(super) const fn first(&self) -> Option<u32> {
        self.first
    }

    /// Takes a segment, and hands over what is in order now, each with its sequence number.
    pub(super) fn take(&mut self, seq: u32, payload: &[u8], hand_over: &mut dyn FnMut(u32, &[u8])) {
        let first = *self.first.get_or_insert(seq);
        let at = seq.wrapping_sub(first);
        // Numbers run in a circle: what is far ahead is behind.
        if at.wrapping_sub(self.next).cast_signed() > 0 {
            self.wait(at, payload);
            return;
        }
        self.in_order(at, payload, hand_over);
        while let Some((at, payload)) = self.waiting.pop_first() {
            if at > self.next {
                self.waiting.insert(at, payload);
                break;
            }
            self.waiting_bytes = self.waiting_bytes.saturating_sub(payload.len());
            self.in_order(at, &payload, hand_over);
        }
    }

    /// Hands over what waited in vain.
    pub(super) fn finish(&mut self, hand_over: &mut dyn FnMut(u32, &[u8])) {
        let Some(first) = self.first else { return };
        for (at, payload) in std::mem::take(&mut self.waiting) {
            hand_over(first.wrapping_add(at), &payload);
        }
    }

    /// The first bytes, as far as none is missing.
    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Sequence number behind the bytes that were handed over in order.
    pub(super) fn end(&self) -> Option<u32> {
        Some(self.first?.wrapping_add(self.next))
    }

    /// How many bytes were handed over in order.
    pub(super) const fn handed_over(&self) -> u32 {
        self.next
    }

    /// How many bytes wait for those before them.
    pub(super) const fn waiting(&self) -> usize {
        self.waiting_bytes
    }

    fn wait(&mut self, at: u32, payload: &[u8]) {
        if self.waiting_bytes + payload.len() > WAITING || self.waiting.contains_key(&at) {
            return;
        }
        self.waiting_bytes += payload.len();
        self.waiting.insert(at, payload.to_vec());
    }

    fn in_order(&mut self, at: u32, payload: &[u8], hand_over: &mut dyn FnMut(u32, &[u8])) {
        let known = usize::try_from(self.next.wrapping_sub(at)).unwrap_or(usize::MAX);
        hand_over(self.first.unwrap_or(0).wrapping_add(at), payload);
        let Some(new) = payload.get(known..) else { return };
        if usize::try_from(self.next).unwrap_or(usize::MAX) == self.kept.len() {
            let room = usize::try_from(KEPT).unwrap_or(0).saturating_sub(self.kept.len());
            self.kept.extend_from_slice(new.get(..room.min(new.len())).unwrap_or_default());
        }
        self.next = self.next.wrapping_add(u32::try_from(new.len()).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_order(segments: &mut Segments, arrivals: &[(u32, &[u8])]) -> Vec<(u32, Vec<u8>)> {
        let mut seen = Vec::new();
        for (seq, payload) in arrivals {
            segments.take(*seq, payload, &mut |seq, payload| seen.push((seq, payload.to_vec())));
        }
        seen
    }

    #[test]
    fn late_segments_are_waited_for_and_repeated_ones_add_nothing() {
        let mut segments = Segments::default();
        segments.begin(u32::MAX - 1);
        let first = u32::MAX - 1;
        let seen = in_order(
            &mut segments,
            &[(first.wrapping_add(4), b"ef"), (first, b"ab"), (first, b"ab"), (first.wrapping_add(2), b"cd")],
        );
        let order: Vec<&[u8]> = seen.iter().map(|(_, payload)| payload.as_slice()).collect();
        assert_eq!(order, [b"ab", b"ab", b"cd", b"ef"]);
        assert_eq!(segments.kept(), b"abcdef");
        assert_eq!(segments.end(), Some(first.wrapping_add(6)));
    }

    #[test]
    fn what_waited_in_vain_comes_at_the_end_and_is_not_kept() {
        let mut segments = Segments::default();
        segments.begin(100);
        assert!(in_order(&mut segments, &[(110, b"later")]).is_empty());
        let mut seen = Vec::new();
        segments.finish(&mut |seq, _| seen.push(seq));
        assert_eq!((seen, segments.kept()), (vec![110], &b""[..]));
    }

    #[test]
    fn waiting_is_bounded() {
        let mut segments = Segments::default();
        segments.begin(0);
        for at in 0..1000u32 {
            in_order(&mut segments, &[(10 + at * 1000, &[0; 1000])]);
        }
        assert!(segments.waiting_bytes <= WAITING);
    }
}
