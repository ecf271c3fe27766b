//! The link layer of a captured frame, down to IP.

use super::Frame;

/// VLAN tags, and headers of MPLS, that are followed.
const TAGS: usize = 8;

/// The IP packet in a frame.
pub(super) fn network<'a>(frame: &Frame<'a>) -> Option<&'a [u8]> {
    let bytes = frame.bytes;
    match frame.link {
        // Ethernet.
        1 => behind_type(u16_at(bytes, 12)?, bytes.get(14..)?),
        // A family in the byte order of whoever captured; its version is in the packet itself.
        0 | 108 => bytes.get(4..),
        // IP without anything before it.
        12 | 14 | 101 | 228 | 229 => Some(bytes),
        // PPP, with HDLC's two bytes before it or without them.
        9 | 50 => ppp(bytes.strip_prefix(&[0xff, 0x03]).unwrap_or(bytes)),
        51 => behind_type(0x8864, bytes),
        // Cisco's HDLC.
        104 => behind_type(u16_at(bytes, 2)?, bytes.get(4..)?),
        // Linux's "any" device, both forms.
        113 => behind_type(u16_at(bytes, 14)?, bytes.get(16..)?),
        276 => behind_type(u16_at(bytes, 0)?, bytes.get(20..)?),
        _ => None,
    }
}

/// Follows VLAN tags (802.1Q, 802.1ad), LLC with SNAP, PPPoE and MPLS down to IP.
pub(super) fn behind_type(mut kind: u16, mut rest: &[u8]) -> Option<&[u8]> {
    for _ in 0..TAGS {
        match kind {
            0x0800 | 0x86dd => return Some(rest),
            // A length: LLC follows (802.2), and a type where it says SNAP.
            0..=0x05dc => {
                let behind = rest.strip_prefix(&[0xaa, 0xaa, 0x03, 0, 0, 0])?;
                kind = u16_at(behind, 0)?;
                rest = behind.get(2..)?;
            }
            0x8100 | 0x88a8 | 0x9100 => {
                kind = u16_at(rest, 2)?;
                rest = rest.get(4..)?;
            }
            0x8864 => return ppp(rest.get(6..)?),
            0x8847 => {
                let bottom = rest.get(2)? & 1 == 1;
                rest = rest.get(4..)?;
                if bottom {
                    return Some(rest);
                }
            }
            _ => return None,
        }
    }
    None
}

/// Behind PPP's protocol (RFC 1661, 2), which may be written in one byte.
fn ppp(bytes: &[u8]) -> Option<&[u8]> {
    match bytes {
        [0x21 | 0x57, rest @ ..] | [0, 0x21 | 0x57, rest @ ..] => Some(rest),
        _ => None,
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}
