//! The headers of a captured frame: link layer, IP, transport, and tunnels that are IP in IP.
//!
//! More lenient than the kernel's own reader, which judges: a capture may hold only the front of a packet,
//! padding behind it, or lengths that the network card had not filled in yet. What is read is what is
//! there; a packet without its ports is none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_abi::Protocol;

use super::Frame;
use super::fragments::{Fragment, Fragments, Key};
use super::link::{behind_type, network, u16_at};

/// Extension headers of IPv6 that are followed.
const EXTENSIONS: usize = 8;
/// Tunnels in tunnels that are followed.
const TUNNELS: usize = 4;

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
    /// How much it carried on the wire.
    pub(super) len: u32,
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

/// Reads frames.
#[derive(Debug, Default)]
pub(super) struct Packets {
    fragments: Fragments,
}

impl Packets {
    /// Reads a frame, and hands over the packet in it; of a fragment, once all of its packet is there.
    pub(super) fn read(
        &mut self,
        frame: &Frame<'_>,
        take: &mut dyn FnMut(&Packet<'_>),
    ) -> Result<(), Unread> {
        let packet = network(frame).ok_or(Unread::NotIp)?;
        self.ip(packet, TUNNELS, take)
    }

    /// Hands over what can be read of packets whose rest never came.
    pub(super) fn finish(&mut self, take: &mut dyn FnMut(&Packet<'_>)) {
        for (key, body) in self.fragments.finish() {
            let body = Body { bytes: &body, len: usize::MAX };
            // What cannot be read was in no capture.
            let _ = self.transport(key.src, key.dst, key.protocol, body, TUNNELS, take);
        }
    }

    fn ip(&mut self, packet: &[u8], depth: usize, take: &mut dyn FnMut(&Packet<'_>)) -> Result<(), Unread> {
        match packet.first().map(|first| first >> 4) {
            Some(4) => self.v4(packet, depth, take),
            Some(6) => self.v6(packet, depth, take),
            _ => Err(Unread::NotIp),
        }
    }

    fn v4(&mut self, packet: &[u8], depth: usize, take: &mut dyn FnMut(&Packet<'_>)) -> Result<(), Unread> {
        let head: &[u8; 20] = packet.first_chunk().ok_or(Unread::Damaged)?;
        let [first, _, len_hi, len_lo, id_hi, id_lo, frag_hi, frag_lo, _, protocol, _, _, addresses @ ..] =
            head;
        let [s0, s1, s2, s3, d0, d1, d2, d3] = *addresses;
        let header = (usize::from(first & 0x0f) * 4).max(20);
        let total = usize::from(u16::from_be_bytes([*len_hi, *len_lo]));
        let body = Body::of(packet, header, total)?;
        let (src, dst) = (Ipv4Addr::new(s0, s1, s2, s3).into(), Ipv4Addr::new(d0, d1, d2, d3).into());
        let number = u16::from_be_bytes([*id_hi, *id_lo]).into();
        let key = Key { src, dst, protocol: *protocol, number };
        let offset = usize::from(u16::from_be_bytes([frag_hi & 0x1f, *frag_lo])) * 8;
        self.piece(key, offset, frag_hi & 0x20 != 0, body, depth, take)
    }

    fn v6(&mut self, packet: &[u8], depth: usize, take: &mut dyn FnMut(&Packet<'_>)) -> Result<(), Unread> {
        let head: &[u8; 40] = packet.first_chunk().ok_or(Unread::Damaged)?;
        let [_, _, _, _, len_hi, len_lo, next, _, addresses @ ..] = head;
        let (src, dst) = addresses.split_at(16);
        let address =
            |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map(Ipv6Addr::from).map_err(|_| Unread::Damaged);
        let (src, dst) = (address(src)?.into(), address(dst)?.into());
        let length = usize::from(u16::from_be_bytes([*len_hi, *len_lo]));
        let mut body = Body::of(packet, 40, if length == 0 { 0 } else { 40 + length })?;
        let mut next = *next;
        for _ in 0..EXTENSIONS {
            let header = match next {
                // Hop by hop, routing, destination, mobility, HIP, shim6.
                0 | 43 | 60 | 135 | 139 | 140 => {
                    (usize::from(*body.bytes.get(1).ok_or(Unread::Damaged)?) + 1) * 8
                }
                44 => {
                    let [first, _, hi, lo, number @ ..] =
                        *body.bytes.first_chunk::<8>().ok_or(Unread::Damaged)?;
                    let place = u16::from_be_bytes([hi, lo]);
                    let key = Key { src, dst, protocol: first, number: u32::from_be_bytes(number) };
                    let offset = usize::from(place & 0xfff8);
                    return self.piece(key, offset, place & 1 != 0, body.behind(8)?, depth, take);
                }
                _ => break,
            };
            next = *body.bytes.first().ok_or(Unread::Damaged)?;
            body = body.behind(header)?;
        }
        self.transport(src, dst, next, body, depth, take)
    }

    /// A packet, or a piece of one.
    fn piece(
        &mut self,
        key: Key,
        offset: usize,
        more: bool,
        body: Body<'_>,
        depth: usize,
        take: &mut dyn FnMut(&Packet<'_>),
    ) -> Result<(), Unread> {
        let Key { src, dst, protocol, .. } = key;
        if offset == 0 && !more {
            return self.transport(src, dst, protocol, body, depth, take);
        }
        if body.is_cut() {
            // It cannot be put together any more.
            let front = Body { len: usize::MAX, ..body };
            return if offset == 0 {
                self.transport(src, dst, protocol, front, depth, take)
            } else {
                Err(Unread::Damaged)
            };
        }
        let fragment = Fragment { key, offset, more, body: body.bytes };
        match self.fragments.take(&fragment) {
            Some(whole) => {
                let body = Body { bytes: &whole, len: whole.len() };
                self.transport(src, dst, protocol, body, depth, take)
            }
            None => Ok(()),
        }
    }

    fn transport(
        &mut self,
        src: IpAddr,
        dst: IpAddr,
        protocol: u8,
        body: Body<'_>,
        depth: usize,
        take: &mut dyn FnMut(&Packet<'_>),
    ) -> Result<(), Unread> {
        if let Some(inner) = tunnelled(protocol, body.bytes)
            && depth > 0
        {
            return self.ip(inner, depth - 1, take);
        }
        take(&packet(src, dst, protocol, body)?);
        Ok(())
    }
}

/// What an IP packet carries: as far as it was captured, and how long it was.
#[derive(Clone, Copy)]
struct Body<'a> {
    bytes: &'a [u8],
    len: usize,
}

impl<'a> Body<'a> {
    /// Of a packet that says that it is `total` bytes long, or 0: the network card was to cut it up.
    fn of(packet: &'a [u8], header: usize, total: usize) -> Result<Self, Unread> {
        let total = if total == 0 { packet.len() } else { total };
        let bytes = packet.get(header..total.min(packet.len())).ok_or(Unread::Damaged)?;
        Ok(Self { bytes, len: total.saturating_sub(header) })
    }

    fn behind(self, header: usize) -> Result<Self, Unread> {
        let bytes = self.bytes.get(header..).ok_or(Unread::Damaged)?;
        Ok(Self { bytes, len: self.len.saturating_sub(header) })
    }

    /// Whether the capture has only its front.
    const fn is_cut(self) -> bool {
        self.bytes.len() < self.len
    }
}

/// The IP packet that another one carries: as it is (RFC 2003, RFC 2473, RFC 4213), or by GRE (RFC 2784,
/// RFC 2890), which is also what mirrored frames come in (ERSPAN).
fn tunnelled(protocol: u8, body: &[u8]) -> Option<&[u8]> {
    match protocol {
        4 | 41 => Some(body),
        47 => {
            let [flags, version, ..] = *body.first_chunk::<4>()?;
            let kind = u16_at(body, 2)?;
            // A checksum, a key and a number, each where its flag says so.
            let optional = usize::from(flags & 0x80 != 0) + usize::from(flags & 0x20 != 0);
            let numbered = usize::from(flags & 0x10 != 0);
            let rest = body.get(4 + 4 * (optional + numbered)..)?;
            match kind {
                _ if version & 7 != 0 || flags & 0x40 != 0 => None,
                // Ethernet, bare and behind the header of ERSPAN's second kind.
                0x6558 => behind_type(u16_at(rest, 12)?, rest.get(14..)?),
                0x88be if numbered == 0 => behind_type(u16_at(rest, 12)?, rest.get(14..)?),
                0x88be => behind_type(u16_at(rest, 20)?, rest.get(22..)?),
                kind => behind_type(kind, rest),
            }
        }
        _ => None,
    }
}

fn packet(src: IpAddr, dst: IpAddr, protocol: u8, body: Body<'_>) -> Result<Packet<'_>, Unread> {
    let protocol = Protocol(protocol);
    let bytes = body.bytes;
    let len = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    let mut packet =
        Packet { src: (src, 0), dst: (dst, 0), protocol, tcp: None, payload: bytes, len: len(body.len) };
    if protocol != Protocol::TCP && protocol != Protocol::UDP {
        return Ok(packet);
    }
    packet.src.1 = u16_at(bytes, 0).ok_or(Unread::Damaged)?;
    packet.dst.1 = u16_at(bytes, 2).ok_or(Unread::Damaged)?;
    if protocol == Protocol::UDP {
        let said = usize::from(u16_at(bytes, 4).ok_or(Unread::Damaged)?);
        let length = if said < 8 { body.len } else { said.min(body.len) };
        packet.payload = bytes.get(8..length.min(bytes.len())).ok_or(Unread::Damaged)?;
        packet.len = len(length.saturating_sub(8));
        return Ok(packet);
    }
    let seq = bytes.get(4..).and_then(<[u8]>::first_chunk).ok_or(Unread::Damaged)?;
    let [offset, flags] = bytes.get(12..).and_then(<[u8]>::first_chunk).copied().ok_or(Unread::Damaged)?;
    let syn = flags & 0x02 != 0;
    packet.payload = bytes.get((usize::from(offset >> 4) * 4).max(20)..).unwrap_or_default();
    packet.len = len(packet.payload.len());
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
