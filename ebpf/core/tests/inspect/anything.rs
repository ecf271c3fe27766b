//! Whatever is sent, in whatever order: nothing panics, nothing is refused below `require`, and what was
//! refused stays refused.

use bulkhead_abi::{Accept, App, Class, Conversation, Demand, Inspection, Tls};
use bulkhead_core::inspect::{self, Ruling, datagram, stream};
use proptest::{prelude::*, sample::Index};

use crate::flows;

/// Words of all protocols, to be cut and put together again.
fn words() -> Vec<Vec<u8>> {
    let mut flows: Vec<_> = flows::clear().into_iter().map(|(_, flow, _)| flow).collect();
    flows.extend(flows::upgraded().into_iter().map(|(_, flow, _)| flow));
    flows.extend(flows::encrypted().into_iter().map(|(_, flow, _)| flow));
    flows.extend(flows::unknown().into_iter().map(|(_, flow)| flow));
    flows.into_iter().flatten().map(|(_, bytes)| bytes).collect()
}

fn demands() -> impl Strategy<Value = Demand> {
    let level = prop_oneof![Just(Tls::Off), Just(Tls::Report), Just(Tls::Require), Just(Tls::Mutual)];
    (level, any::<u16>(), 0..5u8).prop_map(|(level, accept, floor)| Demand {
        level,
        accept: Accept(accept),
        floor,
    })
}

#[derive(Clone, Debug)]
struct Piece {
    sender: u8,
    word: Index,
    from: Index,
    len: usize,
    /// Where it is said to stand, from where it belongs.
    shift: i32,
    noise: Vec<u8>,
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let shift = prop_oneof![6 => Just(0), 1 => -20..20i32, 1 => any::<i32>()];
    let noise = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(any::<u8>(), 0..40)];
    let piece = (0..2u8, any::<Index>(), any::<Index>(), 0..700usize, shift, noise)
        .prop_map(|(sender, word, from, len, shift, noise)| Piece { sender, word, from, len, shift, noise });
    prop::collection::vec(piece, 1..24)
}

fn bytes(words: &[Vec<u8>], piece: &Piece) -> Vec<u8> {
    let word = piece.word.get(words);
    // Mostly from its beginning.
    let from = if piece.len.is_multiple_of(3) { piece.from.index(word.len()) } else { 0 };
    let to = word.len().min(from + piece.len.max(1));
    [&word[from..to], &piece.noise[..]].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn streams_of_anything(demand in demands(), pieces in pieces(), begun in 0..4u8, starts in any::<[u32; 2]>()) {
        let words = words();
        let mut inspection = Inspection::default();
        inspect::demand(&mut inspection, demand);
        for sender in 0..2 {
            if begun & (1 << sender) != 0 {
                stream::begin(&mut inspection, sender, starts[usize::from(sender)]);
            }
        }
        let mut next = starts;
        let mut refused = false;
        for piece in &pieces {
            let side = usize::from(piece.sender);
            let bytes = bytes(&words, piece);
            let seq = next[side].wrapping_add(piece.shift as u32);
            let ruling = stream::segment(&mut inspection, piece.sender, seq, &bytes.as_slice());
            match ruling {
                Ruling::Pass => {
                    prop_assert!(!refused || bytes.is_empty(), "what was refused stays refused");
                    if piece.shift == 0 {
                        next[side] = next[side].wrapping_add(bytes.len() as u32);
                    }
                }
                Ruling::Hold => prop_assert_eq!(demand.level, Tls::Require),
                Ruling::Refuse(_) => {
                    prop_assert_eq!(demand.level, Tls::Require);
                    refused = true;
                }
            }
            let class = Class::from_code(inspection.class);
            let app = App::from_code(inspection.app);
            prop_assert!(class != Class::Clear || !refused || inspection.phase == Inspection::REFUSED, "{app:?}");
        }
    }

    #[test]
    fn datagrams_of_anything(demand in demands(), pieces in pieces()) {
        let words = words();
        let mut conversation: Conversation = inspect::conversation(demand);
        let mut refused = false;
        for piece in &pieces {
            let bytes = bytes(&words, piece);
            match datagram::datagram(&mut conversation, piece.sender, &bytes.as_slice()) {
                Ruling::Pass => prop_assert!(!refused || bytes.is_empty()),
                Ruling::Hold => prop_assert!(false, "datagrams do not wait"),
                Ruling::Refuse(_) => {
                    prop_assert_eq!(demand.level, Tls::Require);
                    refused = true;
                }
            }
        }
    }
}
