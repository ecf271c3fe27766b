//! Pieces in every order, twice, with gaps; memory that stays bounded; flows that are told once.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use bulkhead_abi::Addr;
use zerocopy::FromZeros;

use super::*;
use crate::hello::Version;

/// A ServerHello of TLS 1.2 and a ServerHelloDone.
fn answer(version: u16) -> Vec<u8> {
    let mut hello = version.to_be_bytes().to_vec();
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend([0xc0, 0x2f, 0]);
    let mut messages = vec![2, 0, 0, u8::try_from(hello.len()).unwrap()];
    messages.extend(hello);
    messages.extend([14, 0, 0, 0]);
    let mut record = vec![22, 3, 3, 0, u8::try_from(messages.len()).unwrap()];
    record.extend(messages);
    record
}

fn piece(cookie: u64, offset: usize, bytes: &[u8]) -> Piece {
    let mut piece = Piece::new_zeroed();
    piece.cookie = cookie;
    piece.src = Addr::v4([10, 0, 0, 1]);
    piece.dst = Addr::v4([10, 0, 0, 2]);
    (piece.src_port, piece.dst_port) = (40000, 443);
    (piece.sender, piece.protocol) = (1, Protocol::TCP.0);
    piece.offset = u32::try_from(offset).unwrap();
    piece.len = u16::try_from(bytes.len()).unwrap();
    piece.bytes[..bytes.len()].copy_from_slice(bytes);
    piece
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn pieces_in_any_order_and_size_make_one_handshake() {
    let bytes = answer(0x0303);
    for size in 1..=bytes.len() {
        for backwards in [false, true] {
            let mut pieces: Vec<Piece> =
                bytes.chunks(size).enumerate().map(|(at, part)| piece(1, at * size, part)).collect();
            if backwards {
                pieces.reverse();
                // More ranges than are kept.
                if pieces.len() > RANGES {
                    continue;
                }
            }
            let mut openings = Reassembly::new(Limits::default());
            let mut told = Vec::new();
            for piece in pieces.iter().chain(&pieces) {
                told.extend(openings.take(piece, at(0)));
            }
            let settled: Vec<&Opening> = told.iter().filter(|told| told.stage == Stage::Settled).collect();
            assert_eq!(settled.len(), 1, "size {size}, backwards {backwards}: {told:?}");
            assert_eq!(settled[0].handshake.version(), Some(Version::TLS1_2));
            assert_eq!(openings.bytes(), 0, "what is settled keeps nothing");
        }
    }
}

#[test]
fn what_was_negotiated_is_told_before_the_rest_comes() {
    let bytes = answer(0x0301);
    let (first, rest) = bytes.split_at(bytes.len() - 4);
    let mut openings = Reassembly::new(Limits::default());
    let told = openings.take(&piece(1, 0, first), at(0));
    assert_eq!((told.len(), told[0].stage, told[0].again), (1, Stage::Negotiated, false));
    let told = openings.take(&piece(1, first.len(), rest), at(0));
    assert_eq!((told.len(), told[0].stage, told[0].again), (1, Stage::Settled, true));
}

#[test]
fn the_first_word_on_a_byte_holds() {
    let (honest, other) = (answer(0x0303), answer(0x0301));
    let mut openings = Reassembly::new(Limits::default());
    assert!(openings.take(&piece(1, 5, &honest[5..20]), at(0)).is_empty());
    let told = openings.take(&piece(1, 0, &other), at(0));
    assert_eq!(told[0].handshake.version(), Some(Version::TLS1_2));
}

#[test]
fn a_gap_hides_what_is_behind_it_until_its_time_is_over() {
    let bytes = answer(0x0303);
    let mut openings = Reassembly::new(Limits::default());
    assert!(openings.take(&piece(1, 0, &bytes[..10]), at(0)).is_empty());
    assert!(openings.take(&piece(1, 12, &bytes[12..]), at(1)).is_empty());
    assert!(openings.expire(at(9)).is_empty());
    assert!(openings.expire(at(10)).is_empty(), "nothing was understood, so nothing is told");
    assert_eq!((openings.bytes(), openings.flows.len(), openings.order.len()), (0, 0, 0));
}

#[test]
fn memory_is_bounded_by_flows_and_by_bytes() {
    let limits = Limits { flows: 8, bytes: 2000, age: at(10) };
    let mut openings = Reassembly::new(limits);
    for cookie in 0..1000 {
        openings.take(&piece(cookie, 0, &[22; 500]), at(0));
        assert!(openings.flows.len() <= 8 && openings.bytes() <= 2000, "{openings:?}");
    }
    assert_eq!(openings.evicted(), 1000 - 4);
    let mut openings = Reassembly::new(Limits::default());
    // Beyond what is told of a stream.
    openings.take(&piece(1, 4090, &[1; 100]), at(0));
    openings.take(&piece(1, usize::try_from(u32::MAX).unwrap(), &[1; 100]), at(0));
    assert!(openings.bytes() <= 4096);
}

#[test]
fn a_piece_that_lies_about_itself_is_left_out() {
    let mut openings = Reassembly::new(Limits::default());
    let mut wrong = piece(1, 0, &answer(0x0303));
    wrong.sender = 7;
    assert!(openings.take(&wrong, at(0)).is_empty());
    let mut wrong = piece(2, 0, &answer(0x0303));
    wrong.len = 5000;
    assert!(openings.take(&wrong, at(0)).is_empty());
}
