//! The packets that RFC 9001 and RFC 9369 print, and what is made of others.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use rustls::quic::Keys;

use super::*;
use crate::hello::{Handshake, Summary, Version as TlsVersion};

/// The connection identifier of RFC 9001, appendix A.
const ID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
/// The ClientHello of RFC 9001, A.2, as a CRYPTO frame.
const HELLO: &str = "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e000500050100000000003300260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e0403050306030203080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ffff0801100104800075300901100f088394c8f03e51570806048000ffff";
/// The server's Initial packet of RFC 9001, A.3, as it is sent.
const ANSWER: &str = "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf73c3ec2493a1839b3dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456cbc42158407dd074ee";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// An Initial packet with these frames, padded to 1,200 bytes, as a client that wrote to `original` first
/// sends it to `id`.
fn initial(original: &[u8], id: &[u8], number: u8, frames: &[u8], token: &[u8]) -> Vec<u8> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().unwrap().quic_suite().unwrap();
    let Keys { local, .. } = suite.keys(original, Side::Client, Version::V1);
    let mut packet = vec![0xc0, 0, 0, 0, 1, u8::try_from(id.len()).unwrap()];
    packet.extend_from_slice(id);
    packet.extend_from_slice(&[0, u8::try_from(token.len()).unwrap()]);
    packet.extend_from_slice(token);
    let length = 1200 - packet.len() - 2;
    packet.extend_from_slice(&(0x4000 | u16::try_from(length).unwrap()).to_be_bytes());
    let at = packet.len();
    packet.push(number);
    let mut payload = frames.to_vec();
    payload.resize(length - 1 - local.packet.tag_len(), 0);
    let tag = local.packet.encrypt_in_place(number.into(), &packet, &mut payload).unwrap();
    packet.extend_from_slice(&payload);
    packet.extend_from_slice(tag.as_ref());
    let (front, rest) = packet.split_at_mut(at);
    let (number, behind) = rest.split_at_mut(1);
    local.header.encrypt_in_place(&behind[3..19], &mut front[0], number).unwrap();
    packet
}

/// The hello's bytes from `from` to `to`, as a frame of their own.
fn part(from: usize, to: usize) -> Vec<u8> {
    let hello = bytes(HELLO)[4..].to_vec();
    let number = |number: usize| (0x4000 | u16::try_from(number).unwrap()).to_be_bytes();
    [&[6][..], &number(from), &number(to - from), &hello[from..to]].concat()
}

fn summary(opener: &[Vec<u8>], receiver: &[Vec<u8>]) -> Summary {
    Summary::from(&Handshake::read_datagrams(opener, receiver))
}

#[test]
fn the_rfcs_packets_say_what_the_rfc_says() {
    let handshake = Handshake::read_datagrams(&[initial(&ID, &ID, 2, &bytes(HELLO), &[])], &[bytes(ANSWER)]);
    assert_eq!(handshake.version(), Some(TlsVersion::TLS1_3));
    assert!(handshake.settled);
    let summary = Summary::from(&handshake);
    assert_eq!(summary.server_name.as_deref(), Some("example.com"));
    assert_eq!(summary.cipher.as_deref(), Some("TLS_AES_128_GCM_SHA256"));
    assert_eq!(summary.group.as_deref(), Some("x25519"));
    assert_eq!(summary.alpn_offered, ["alpn"]);
    assert_eq!(summary.groups_offered, ["x25519", "secp256r1", "secp384r1"]);
    assert!(summary.ja4.unwrap().starts_with("q13d0211an_"));
}

#[test]
fn a_hello_in_pieces_and_out_of_order_is_one() {
    let whole = summary(&[initial(&ID, &ID, 0, &bytes(HELLO), &[])], &[]);
    assert!(whole.ja4.is_some());
    for cut in [1, 4, 100, 240] {
        let (first, second) = (part(0, cut), part(cut, 241));
        for frames in [[&first, &second], [&second, &first]] {
            let both: Vec<Vec<u8>> =
                (0..).zip(frames).map(|(number, frame)| initial(&ID, &ID, number, frame, &[])).collect();
            assert_eq!(summary(&both, &[]), whole, "two datagrams cut at {cut}");
            assert_eq!(
                summary(&[initial(&ID, &ID, 0, &frames.map(|frame| &frame[..]).concat(), &[])], &[]),
                whole
            );
        }
        let alone = Handshake::read_datagrams(&[initial(&ID, &ID, 0, &second, &[])], &[]);
        assert!(alone.is_empty(), "behind a gap there is nothing");
    }
}

#[test]
fn after_a_retry_the_keys_are_new_ones() {
    let again = [9; 8];
    let opener =
        [initial(&ID, &ID, 0, &part(0, 100), &[]), initial(&again, &again, 1, &bytes(HELLO), b"token")];
    assert_eq!(summary(&opener, &[]).server_name.as_deref(), Some("example.com"));
    // And an acknowledgement to the server's own identifier keeps them.
    let opener = [initial(&ID, &ID, 0, &bytes(HELLO), &[]), initial(&ID, &[7; 8], 1, &[2, 0, 0, 0, 0], &[])];
    assert_eq!(summary(&opener, &[bytes(ANSWER)]).group.as_deref(), Some("x25519"));
}

#[test]
fn a_refusal_is_an_alert() {
    // CONNECTION_CLOSE with crypto error 0x128 (RFC 9000, 19.19).
    let close = [0x1c, 0x41, 0x28, 6, 0];
    let opener = [initial(&ID, &ID, 0, &[bytes(HELLO), close.to_vec()].concat(), &[])];
    assert_eq!(summary(&opener, &[]).alerts, ["handshake_failure"]);
}

#[test]
fn what_does_not_open_says_nothing() {
    let good = initial(&ID, &ID, 0, &bytes(HELLO), &[]);
    for at in [0, 3, 8, 20, 40, 600, 1199] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(Handshake::read_datagrams(&[bad], &[bytes(ANSWER)]).client.is_none(), "byte {at}");
    }
    for end in 0..good.len() {
        let cut = Handshake::read_datagrams(&[good[..end].to_vec()], &[bytes(ANSWER)]);
        assert!(cut.is_empty(), "cut at {end}");
    }
}
