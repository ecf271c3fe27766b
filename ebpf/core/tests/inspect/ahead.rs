//! Segments that come before their turn, under `require`: what goes on early, and that a program gets nothing
//! that was not judged.

use bulkhead_abi::{Demand, Inspection, Reason, inspect::Ahead};
use bulkhead_core::inspect::{Ruling, stream};
use proptest::prelude::*;

use crate::{
    flows,
    talk::{self, Talk},
};

const UNCLASSIFIED: Ruling = Ruling::Refuse(Reason::Unclassified);

/// A record of application data, so long with its header.
fn record(len: usize, fill: u8) -> Vec<u8> {
    let body = len - 5;
    let mut bytes = vec![0x17, 3, 3, (body >> 8) as u8, body as u8];
    bytes.resize(len, fill);
    bytes
}

fn records(lens: &[usize]) -> Vec<u8> {
    lens.iter().flat_map(|len| record(*len, 0xa5)).collect()
}

/// A TLS connection whose server has sent one record of `len` bytes.
fn talking(len: usize) -> Talk {
    let mut talk = Talk::new(Demand::REQUIRE);
    for (sender, bytes) in flows::tls() {
        assert_eq!(talk.say(sender, &bytes), Ruling::Pass);
    }
    assert_eq!(talk.say(1, &record(len, 0x5a)), Ruling::Pass);
    talk
}

/// Plays segments of `bytes`, by their offsets, in the order given.
fn out_of_order(talk: &mut Talk, bytes: &[u8], order: &[(usize, usize)]) -> Vec<Ruling> {
    let next = talk.next(1);
    let say = |&(from, to): &(usize, usize)| talk.say_at(1, next.wrapping_add(from as u32), &bytes[from..to]);
    order.iter().map(say).collect()
}

#[test]
fn a_bulk_transfer_goes_on_while_segments_are_missing() {
    let bytes = records(&[16_406; 16]);
    let segment = |number: usize| (number * 40_000, (number * 40_000 + 40_000).min(bytes.len()));
    let mut talk = talking(16_406);
    // Two holes, filled by the later one first.
    let order: Vec<_> = [1, 2, 4, 5, 6, 3, 0].into_iter().map(segment).collect();
    assert_eq!(out_of_order(&mut talk, &bytes, &order), [Ruling::Pass; 7]);
    assert_eq!(talk.inspection.flags & Inspection::FLAG_AHEAD, 0, "nothing is ahead any more");
    let end = talk.next(1).wrapping_add(bytes.len() as u32);
    assert_eq!(talk.say_at(1, end, b"GET / HTTP/1.1"), Ruling::Refuse(Reason::ClearText));
}

#[test]
fn frames_without_a_header_go_on_whatever_length_records_have() {
    let bytes = records(&[5_000, 9_000, 3_000, 16_000, 700, 16_000]);
    let mut talk = talking(300);
    let segment = |number: usize| (number * 1448, (number * 1448 + 1448).min(bytes.len()));
    let last = bytes.len() / 1448;
    let order: Vec<_> = (1..=last).chain([0]).map(segment).collect();
    let rulings = out_of_order(&mut talk, &bytes, &order);
    let held = rulings.iter().filter(|ruling| **ruling == Ruling::Hold).count();
    assert!(!rulings.contains(&UNCLASSIFIED));
    assert!((1..=6).contains(&held), "only where a header stands that nobody expects: {held}");
    // What was held comes again.
    let again: Vec<_> =
        order.iter().zip(&rulings).filter(|(_, r)| **r == Ruling::Hold).map(|(s, _)| *s).collect();
    assert_eq!(out_of_order(&mut talk, &bytes, &again), vec![Ruling::Pass; held]);
    let end = talk.next(1).wrapping_add(bytes.len() as u32);
    assert_eq!(talk.say_at(1, end, b"GET / HTTP/1.1"), Ruling::Refuse(Reason::ClearText));
}

#[test]
fn a_claim_that_does_not_hold_ends_the_connection_before_its_bytes_are_delivered() {
    // Where a header is expected one stands; the one that comes in its turn leads elsewhere.
    let bytes = [records(&[1_000]), records(&[1_000]), b"GET / HTTP/1.1\r\n".repeat(4)].concat();
    let mut lie = bytes.clone();
    lie[3..5].copy_from_slice(&1_011u16.to_be_bytes());
    let mut talk = talking(1_000);
    let next = talk.next(1);
    assert_eq!(talk.say_at(1, next.wrapping_add(900), &bytes[900..1_950]), Ruling::Pass);
    assert_eq!(talk.say_at(1, next, &lie[..900]), UNCLASSIFIED);

    // Clear text where nobody expects a header.
    let mut talk = talking(1_000);
    let next = talk.next(1);
    assert_eq!(talk.say_at(1, next.wrapping_add(100), &[b'a'; 400]), Ruling::Pass);
    assert_eq!(talk.say_at(1, next, &record(100, 0)), UNCLASSIFIED);

    // A header that begins before the stretch and ends in it.
    for cut in 1..4 {
        let bytes = records(&[700, 600]);
        for (broken, expected) in [(false, Ruling::Pass), (true, UNCLASSIFIED)] {
            let mut bytes = bytes.clone();
            if broken {
                bytes[700 + cut] = 0xff;
            }
            let mut talk = talking(300);
            let next = talk.next(1);
            let at = 700 + cut;
            assert_eq!(talk.say_at(1, next.wrapping_add(at as u32), &bytes[at..1_200]), Ruling::Pass);
            assert_eq!(talk.say_at(1, next, &bytes[..at]), expected, "{cut}");
        }
    }
}

#[test]
fn what_overlaps_a_stretch_is_held_back() {
    let bytes = records(&[1_000; 4]);
    let mut talk = talking(1_000);
    let next = talk.next(1);
    let at = |offset: u32| next.wrapping_add(offset);
    assert_eq!(talk.say_at(1, at(1_500), &bytes[1_500..2_500]), Ruling::Pass);
    for (from, to) in [(1_500, 2_500), (1_500, 3_500), (1_400, 1_600), (1_600, 1_700), (1_200, 3_000)] {
        assert_eq!(talk.say_at(1, at(from), &bytes[from as usize..to]), Ruling::Hold, "{from} {to}");
        assert_eq!(talk.say_at(1, at(from), &vec![b'x'; to - from as usize]), Ruling::Hold, "{from} {to}");
    }
    // In its turn, it is read instead of what it overlaps.
    let mut other = bytes[..1_700].to_vec();
    other[1_000] = b'G';
    assert_eq!(talk.say_at(1, next, &other), Ruling::Refuse(Reason::ClearText));
}

#[test]
fn what_is_not_followed_yet_waits() {
    let mut talk = Talk::new(Demand::REQUIRE);
    let hello = flows::tls().remove(0).1;
    assert_eq!(talk.say_at(0, talk.next(0).wrapping_add(20), &hello[20..]), Ruling::Hold);
    // And so do more stretches than there is room for.
    let bytes = records(&[100; 200]);
    let mut talk = talking(100);
    let order: Vec<_> =
        (0..Ahead::SPANS + 1).map(|number| (number * 200 + 100, number * 200 + 200)).collect();
    let rulings = out_of_order(&mut talk, &bytes, &order);
    assert_eq!(rulings.iter().filter(|ruling| **ruling == Ruling::Pass).count(), Ahead::SPANS);
    assert_eq!(rulings.last(), Some(&Ruling::Hold));
}

/// TCP's receiving end: a byte that is there already stays, or gives way, but for what comes in its turn.
struct Receiver {
    waiting: Vec<Option<u8>>,
    delivered: usize,
    newer_wins: bool,
}

impl Receiver {
    fn new(newer_wins: bool) -> Self {
        Self { waiting: Vec::new(), delivered: 0, newer_wins }
    }

    fn take(&mut self, at: usize, bytes: &[u8]) {
        let in_turn = at <= self.delivered;
        self.waiting.resize(self.waiting.len().max(at + bytes.len()), None);
        for (place, byte) in (at..).zip(bytes) {
            if place >= self.delivered && (in_turn || self.newer_wins || self.waiting[place].is_none()) {
                self.waiting[place] = Some(*byte);
            }
        }
        while self.waiting.get(self.delivered).is_some_and(Option::is_some) {
            self.delivered += 1;
        }
    }

    fn program(&self) -> Vec<u8> {
        self.waiting[..self.delivered].iter().map(|byte| byte.unwrap()).collect()
    }
}

/// A server's direction behind its hello.
fn opened() -> (Inspection, u32) {
    let mut talk = Talk::new(Demand::REQUIRE);
    for (sender, bytes) in flows::tls() {
        assert_eq!(talk.say(sender, &bytes), Ruling::Pass);
    }
    (talk.inspection, talk.next(1))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever comes in whatever order: what the program gets is what the inspection would have let pass in
    /// order.
    #[test]
    fn a_program_gets_nothing_but_records(
        lens in prop::collection::vec(prop_oneof![Just(400usize), 20..900usize], 4..14),
        clear in prop::collection::vec((0..14usize, 0..2usize), 0..3),
        segments in prop::collection::vec((0..5_000usize, 1..900usize, any::<bool>()), 1..60),
        newer_wins in any::<bool>(),
    ) {
        let honest = records(&lens);
        // The same with clear text in place of some records, or of their length.
        let mut other = honest.clone();
        for (number, how) in clear {
            let at: usize = lens.iter().take(number).sum();
            let Some(place) = other.get_mut(at + how * 4) else { continue };
            *place ^= 0x40;
        }
        let (mut inspection, first) = opened();
        let (in_order, _) = opened();
        let mut ahead = Default::default();
        let mut receiver = Receiver::new(newer_wins);
        for (from, len, lies) in segments {
            let from = from.min(honest.len() - 1);
            let to = (from + len).min(honest.len());
            let bytes = if lies { &other[from..to] } else { &honest[from..to] };
            if talk::read(&mut inspection, &mut ahead, 1, first.wrapping_add(from as u32), bytes) == Ruling::Pass {
                receiver.take(from, bytes);
            }
        }
        let mut judge = in_order;
        let program = receiver.program();
        prop_assert!(
            program.is_empty() || stream::segment(&mut judge, 1, first, &program.as_slice()) == Ruling::Pass,
            "{program:x?}"
        );
    }

    /// An honest sender that repeats what was held back is never refused, and gets everything through.
    #[test]
    fn an_honest_sender_is_never_refused(
        lens in prop::collection::vec(prop_oneof![Just(400usize), 20..900usize], 4..40),
        cut in 50..700usize,
        order in prop::collection::vec(any::<prop::sample::Index>(), 200),
    ) {
        let bytes = records(&lens);
        let (mut inspection, first) = opened();
        let mut ahead = Default::default();
        let mut receiver = Receiver::new(false);
        let mut left: Vec<usize> = (0..bytes.len()).step_by(cut).collect();
        let mut order = order.into_iter();
        while !left.is_empty() {
            // In the end in order.
            let which = order.next().map_or(0, |index| index.index(left.len()));
            let from = left[which];
            let segment = &bytes[from..(from + cut).min(bytes.len())];
            match talk::read(&mut inspection, &mut ahead, 1, first.wrapping_add(from as u32), segment) {
                Ruling::Pass => {
                    receiver.take(from, segment);
                    left.remove(which);
                }
                Ruling::Hold => {}
                refused => prop_assert!(false, "{refused:?} at {from}"),
            }
        }
        prop_assert_eq!(receiver.program(), bytes);
        prop_assert_eq!(inspection.flags & Inspection::FLAG_AHEAD, 0);
    }
}
