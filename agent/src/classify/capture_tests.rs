//! Captures in both formats and both byte orders, whole, cut and damaged.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use super::*;

/// Link type, time, bytes.
type Seen = (u32, Duration, Vec<u8>);

fn frames(bytes: &[u8]) -> (Vec<Seen>, Option<CaptureError>) {
    let mut found = Vec::new();
    let mut capture = match Capture::new(bytes, Path::new("x.pcap")) {
        Ok(capture) => capture,
        Err(error) => return (found, Some(error)),
    };
    loop {
        match capture.frame() {
            Ok(Some(frame)) => found.push((frame.link, frame.time, frame.bytes.to_vec())),
            Ok(None) => return (found, None),
            Err(error) => return (found, Some(error)),
        }
    }
}

fn number(order: Order, value: u32) -> [u8; 4] {
    if order == Order::Big { value.to_be_bytes() } else { value.to_le_bytes() }
}

fn pcap(order: Order, magic: u32, link: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in [magic, 0x0004_0002, 0, 0, 65535, link] {
        bytes.extend(number(order, value));
    }
    for (seconds, body) in [(1u32, &b"one"[..]), (2, b"three")] {
        let length = u32::try_from(body.len()).unwrap();
        for value in [seconds, 500, length, length] {
            bytes.extend(number(order, value));
        }
        bytes.extend(body);
    }
    bytes
}

fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let length = number(order, u32::try_from(padded + 12).unwrap());
    let mut bytes = [number(order, kind).to_vec(), length.to_vec(), body.to_vec()].concat();
    bytes.resize(8 + padded, 0);
    bytes.extend(length);
    bytes
}

fn pcapng(order: Order) -> Vec<u8> {
    let numbers = |values: &[u32]| values.iter().flat_map(|value| number(order, *value)).collect::<Vec<u8>>();
    let half = |value: u16| if order == Order::Big { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut bytes = block(order, SECTION, &numbers(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
    // Nanoseconds.
    let resolution = [&half(9)[..], &half(1), &[9, 0, 0, 0]].concat();
    let interface = [&half(113)[..], &half(0), &number(order, 0), &resolution].concat();
    bytes.extend(block(order, INTERFACE, &interface));
    bytes.extend(block(order, 0x0bad, b"unknown blocks are passed over"));
    let packet = [&numbers(&[0, 0, 1_500, 3, 3])[..], b"one"].concat();
    bytes.extend(block(order, ENHANCED_PACKET, &packet));
    bytes.extend(block(order, SIMPLE_PACKET, &[&numbers(&[5])[..], b"three"].concat()));
    bytes
}

#[test]
fn both_byte_orders_and_both_clocks_of_pcap() {
    for order in [Order::Little, Order::Big] {
        for (magic, nanoseconds) in [(0xa1b2_c3d4, 500_000), (0xa1b2_3c4d, 500)] {
            // Checksums behind frames are told in the link type's upper bits.
            let (found, error) = frames(&pcap(order, magic, 1 | 0x1400_0000));
            assert!(error.is_none(), "{error:?}");
            assert_eq!(found[0], (1, Duration::new(1, nanoseconds), b"one".to_vec()));
            assert_eq!(found[1].2, b"three");
        }
    }
}

#[test]
fn both_byte_orders_of_pcapng_and_a_second_section() {
    for order in [Order::Little, Order::Big] {
        let other = if order == Order::Big { Order::Little } else { Order::Big };
        let (found, error) = frames(&[pcapng(order), pcapng(other)].concat());
        assert!(error.is_none(), "{error:?}");
        assert_eq!(found.len(), 4);
        assert_eq!(found[0], (113, Duration::from_nanos(1_500), b"one".to_vec()));
        assert_eq!(found[3], (113, Duration::ZERO, b"three".to_vec()));
    }
}

#[test]
fn a_cut_capture_gives_what_is_whole_and_says_where_it_ends() {
    for whole in [pcap(Order::Little, 0xa1b2_c3d4, 1), pcapng(Order::Big)] {
        let (all, _) = frames(&whole);
        for end in 0..whole.len() {
            let (found, error) = frames(&whole[..end]);
            assert!(all.starts_with(&found), "cut at {end}");
            // Between two frames a cut leaves a smaller capture, and nobody can see it.
            match error {
                None | Some(CaptureError::NoCapture { .. }) => {}
                Some(CaptureError::CutOff { offset, frames, .. }) => {
                    assert!(usize::try_from(offset).unwrap() <= end);
                    assert_eq!(usize::try_from(frames).unwrap(), found.len());
                }
                Some(error) => panic!("cut at {end}: {error}"),
            }
        }
    }
    let whole = pcap(Order::Little, 0xa1b2_c3d4, 1);
    let (_, error) = frames(&whole[..whole.len() - 1]);
    let text = error.unwrap().to_string();
    assert!(text.contains("cut off: it ends inside a frame at byte 43, after 1 whole frames"), "{text}");
}

#[test]
fn a_damaged_capture_says_what_and_where() {
    let mut bytes = pcap(Order::Little, 0xa1b2_c3d4, 1);
    bytes[24 + 19 + 11] = 0xff;
    let (found, error) = frames(&bytes);
    assert_eq!(found.len(), 1);
    let text = error.unwrap().to_string();
    assert!(text.contains("damaged at byte 43, after 1 whole frames: a frame is said to be"), "{text}");
    let mut bytes = pcapng(Order::Little);
    let last = bytes.len() - 1;
    bytes[last] = 1;
    let (found, error) = frames(&bytes);
    assert_eq!(found.len(), 1);
    assert!(error.unwrap().to_string().contains("a block's two lengths differ"));
}

#[test]
fn what_is_no_capture_is_named() {
    let cases: [(&[u8], &str); 3] =
        [(b"", "nothing"), (b"\x1f\x8b\x08\0", "gunzip"), (b"GET / HTTP", "neither pcap nor pcapng")];
    for (bytes, part) in cases {
        let (_, error) = frames(bytes);
        let text = error.unwrap().to_string();
        assert!(text.contains(part), "{text}");
    }
}
