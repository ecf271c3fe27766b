//! The headers of a captured frame: link layer, IP, transport.
//!
//! More lenient than the kernel's own reader, which judges: a capture may hold only the front of a packet,
//! padding behind it, or lengths that the network card had not filled in yet. What is read is what is
//! there; a packet without its ports is none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_abi::Protocol;

use super::Frame;

/// Extension headers of IPv6 that are followed.
const EXTENSIONS: usize = 8;
/// VLAN tags, and headers of MPLS, that are followed.
const TAGS: usize = 8;

/// Why a frame is not told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unread {
    /// It is not IP.
    NotIp,
    /// It has no ports to know its flow by.
    Damaged,
}

/// A packet of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Packet<'a> {
    pub(super) src: (IpAddr, u16),
    pub(super) dst: (IpAddr, u16),
    pub(super) protocol: Protocol,
    pub(super) tcp: Option<Tcp>,
    /// What it carries, as far as the capture has it.
    pub(super) payload: &'a [u8],
}

/// What TCP says of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tcp {
    /// Sequence number of the first byte of the payload.
    pub(super) seq: u32,
    pub(super) syn: bool,
    pub(super) ack: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
}

/// Reads a frame.
pub(super) fn read<'a>(frame: &Frame<'a>) -> Result<Packet<'a>, Unread> {
    let packet = network(frame).ok_or(Unread::NotIp)?;
    match packet.first().map(|first| first >> 4) {
        Some(4) => v4(packet),
        Some(6) => v6(packet),
        _ => Err(Unread::NotIp),
    }
}

/// The IP packet in a frame.
fn network<'a>(frame: &Frame<'a>) -> Option<&'a [u8]> {
    let bytes = frame.bytes;
    match frame.link {
        // Ethernet.
        1 => behind_type(u16_at(bytes, 12)?, bytes.get(14..)?),
        // A family in the byte order of whoever captured; its version is in the packet itself.
        0 | 108 => bytes.get(4..),
        // IP without anything before it.
        12 | 14 | 101 | 228 | 229 => Some(bytes),
        // Linux's "any" device, both forms.
        113 => behind_type(u16_at(bytes, 14)?, bytes.get(16..)?),
        276 => behind_type(u16_at(bytes, 0)?, bytes.get(20..)?),
        _ => None,
    }
}

/// Follows VLAN tags (802.1Q, 802.1ad), PPPoE and MPLS down to IP.
fn behind_type(mut kind: u16, mut rest: &[u8]) -> Option<&[u8]> {
    for _ in 0..TAGS {
        match kind {
            0x0800 | 0x86dd => return Some(rest),
            0x8100 | 0x88a8 | 0x9100 => {
                kind = u16_at(rest, 2)?;
                rest = rest.get(4..)?;
            }
            0x8864 => {
                kind = match u16_at(rest, 6)? {
                    0x0021 => 0x0800,
                    0x0057 => 0x86dd,
                    _ => return None,
                };
                rest = rest.get(8..)?;
            }
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

fn v4(packet: &[u8]) -> Result<Packet<'_>, Unread> {
    let head: &[u8; 20] = packet.first_chunk().ok_or(Unread::Damaged)?;
    let [first, _, len_hi, len_lo, _, _, frag_hi, frag_lo, _, protocol, _, _, addresses @ ..] = head;
    let [s0, s1, s2, s3, d0, d1, d2, d3] = *addresses;
    let header = usize::from(first & 0x0f) * 4;
    if u16::from_be_bytes([frag_hi & 0x1f, *frag_lo]) != 0 {
        return Err(Unread::Damaged);
    }
    let total = usize::from(u16::from_be_bytes([*len_hi, *len_lo]));
    // Without a length: the card was to cut it into segments.
    let end = if total == 0 { packet.len() } else { total.min(packet.len()) };
    let body = packet.get(header.max(20)..end).ok_or(Unread::Damaged)?;
    let (src, dst) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
    transport(src.into(), dst.into(), *protocol, body)
}

fn v6(packet: &[u8]) -> Result<Packet<'_>, Unread> {
    let head: &[u8; 40] = packet.first_chunk().ok_or(Unread::Damaged)?;
    let [_, _, _, _, len_hi, len_lo, next, _, addresses @ ..] = head;
    let (src, dst) = addresses.split_at(16);
    let address = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map(Ipv6Addr::from).map_err(|_| Unread::Damaged);
    let length = usize::from(u16::from_be_bytes([*len_hi, *len_lo]));
    let end = if length == 0 { packet.len() } else { (40 + length).min(packet.len()) };
    let mut body = packet.get(40..end).ok_or(Unread::Damaged)?;
    let mut next = *next;
    for _ in 0..EXTENSIONS {
        let header = match next {
            // Hop by hop, routing, destination, mobility, HIP, shim6.
            0 | 43 | 60 | 135 | 139 | 140 => (usize::from(*body.get(1).ok_or(Unread::Damaged)?) + 1) * 8,
            44 if u16_at(body, 2).ok_or(Unread::Damaged)? & 0xfff8 == 0 => 8,
            44 => return Err(Unread::Damaged),
            _ => break,
        };
        next = *body.first().ok_or(Unread::Damaged)?;
        body = body.get(header..).ok_or(Unread::Damaged)?;
    }
    transport(address(src)?.into(), address(dst)?.into(), next, body)
}

fn transport(src: IpAddr, dst: IpAddr, protocol: u8, body: &[u8]) -> Result<Packet<'_>, Unread> {
    let protocol = Protocol(protocol);
    let mut packet = Packet { src: (src, 0), dst: (dst, 0), protocol, tcp: None, payload: body };
    if protocol != Protocol::TCP && protocol != Protocol::UDP {
        return Ok(packet);
    }
    packet.src.1 = u16_at(body, 0).ok_or(Unread::Damaged)?;
    packet.dst.1 = u16_at(body, 2).ok_or(Unread::Damaged)?;
    if protocol == Protocol::UDP {
        let length = usize::from(u16_at(body, 4).ok_or(Unread::Damaged)?);
        let end = if length < 8 { body.len() } else { length.min(body.len()) };
        packet.payload = body.get(8..end).ok_or(Unread::Damaged)?;
        return Ok(packet);
    }
    let seq = body.get(4..).and_then(<[u8]>::first_chunk).ok_or(Unread::Damaged)?;
    let [offset, flags] = body.get(12..).and_then(<[u8]>::first_chunk).copied().ok_or(Unread::Damaged)?;
    let syn = flags & 0x02 != 0;
    packet.payload = body.get((usize::from(offset >> 4) * 4).max(20)..).unwrap_or_default();
    packet.tcp = Some(Tcp {
        // A SYN takes a number of its own.
        seq: u32::from_be_bytes(*seq).wrapping_add(u32::from(syn)),
        syn,
        ack: flags & 0x10 != 0,
        fin: flags & 0x01 != 0,
        rst: flags & 0x04 != 0,
    });
    Ok(packet)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}
