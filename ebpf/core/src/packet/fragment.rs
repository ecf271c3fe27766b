//! What a fragment says of itself (RFC 791, 3.2; RFC 8200, 4.5).

use bulkhead_abi::{Addr, Protocol, flow::FragmentKey};

use super::{Bytes, Kind, Packet, Segment, TRANSPORT, Transport, read_transport};

/// A fragment of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// What it is a fragment of.
    pub key: FragmentKey,
    /// Where its data begins in the whole packet's, in bytes.
    pub offset: u32,
    /// Where it ends.
    pub end: u32,
    /// The packet that a first fragment begins; of a later one only the addresses.
    pub packet: Packet,
}

/// Reads the fragment's headers. `None` for what is none, for a first one that is too short for its
/// transport header or not a multiple of eight bytes long, and for one behind other extension headers,
/// which nobody sends.
#[inline(always)]
pub fn read_fragment(bytes: &impl Bytes) -> Option<Fragment> {
    let mut head = [0u8; HEAD];
    let read = bytes.load(0, &mut head);
    let [first, ..] = head;
    let (mut packet, id, at, end, units) = match first >> 4 {
        4 if read >= 20 && first & 0x0f == 5 => read_v4(&head),
        6 if read >= 48 => read_v6(&head)?,
        _ => return None,
    };
    let offset = u32::from(units) * 8;
    let len = end.saturating_sub(at);
    let protocol = if packet.src.is_v4() { packet.protocol.0 } else { 0 };
    let key = FragmentKey { src: packet.src, dst: packet.dst, id, protocol, _reserved: [0; 3] };
    if offset == 0 {
        if len == 0 || len % 8 != 0 {
            return None;
        }
        let mut transport: Transport = [0; TRANSPORT];
        let have = bytes.load(at, &mut transport);
        packet.transport = at;
        read_transport(&mut packet, end, &transport, have.min(len)).ok()?;
        // More data follows, whatever this one's length says.
        if let Kind::Segment(segment) = packet.kind {
            packet.kind = Kind::Segment(Segment { resets: false, ..segment });
        }
    }
    Some(Fragment { key, offset, end: offset + len, packet })
}

/// An IPv6 header and a fragment header.
const HEAD: usize = 48;

#[inline(always)]
fn read_v4(head: &[u8; HEAD]) -> (Packet, u32, u32, u32, u16) {
    let [_, _, len_hi, len_lo, id_hi, id_lo, frag_hi, frag_lo, _, protocol, _, _, rest @ ..] = head;
    let [s0, s1, s2, s3, d0, d1, d2, d3, ..] = rest;
    let packet = Packet {
        src: Addr::v4([*s0, *s1, *s2, *s3]),
        dst: Addr::v4([*d0, *d1, *d2, *d3]),
        protocol: Protocol(*protocol),
        ..Packet::BLANK
    };
    let total = u32::from(u16::from_be_bytes([*len_hi, *len_lo]));
    let id = u32::from(u16::from_be_bytes([*id_hi, *id_lo]));
    (packet, id, 20, total, u16::from_be_bytes([frag_hi & 0x1f, *frag_lo]))
}

#[inline(always)]
fn read_v6(head: &[u8; HEAD]) -> Option<(Packet, u32, u32, u32, u16)> {
    let [_, _, _, _, len_hi, len_lo, next, _, rest @ ..] = head;
    let [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15, rest @ ..] = rest;
    let [d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12, d13, d14, d15, fragment @ ..] = rest;
    let [protocol, _, frag_hi, frag_lo, i0, i1, i2, i3] = fragment;
    if *next != 44 {
        return None;
    }
    let src = [*s0, *s1, *s2, *s3, *s4, *s5, *s6, *s7, *s8, *s9, *s10, *s11, *s12, *s13, *s14, *s15];
    let dst = [*d0, *d1, *d2, *d3, *d4, *d5, *d6, *d7, *d8, *d9, *d10, *d11, *d12, *d13, *d14, *d15];
    let packet = Packet {
        src: Addr::from_octets(src),
        dst: Addr::from_octets(dst),
        protocol: Protocol(*protocol),
        ..Packet::BLANK
    };
    let end = u32::from(u16::from_be_bytes([*len_hi, *len_lo])) + 40;
    let units = u16::from_be_bytes([*frag_hi, *frag_lo]) >> 3;
    Some((packet, u32::from_be_bytes([*i0, *i1, *i2, *i3]), 48, end, units))
}
