//! From bytes to a [`Packet`]: who sends what to whom.
//!
//! Strict, because whatever is misread is misjudged: a header that ends early, lies about its length
//! or hides the transport is an error with a reason of its own, never a guess. Works on linear and
//! non-linear packets alike, through [`Bytes`]; the same code runs in the kernel and on the host.

mod fragment;
mod stream;

use bulkhead_abi::{Addr, Protocol, Reason, limits};

pub use fragment::{Fragment, read_fragment};
pub use stream::{Span, is_multipath, read_span};

/// Read access to a packet that begins with its IP header.
#[expect(clippy::len_without_is_empty, reason = "a packet is never empty")]
pub trait Bytes {
    /// Length of the packet in bytes.
    fn len(&self) -> u32;

    /// Copies the bytes from `offset` into the front of `buffer`, as many as there are, and tells how
    /// many; 0 when none could be read.
    fn load<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> u32;

    /// The first `N` bytes, where there are as many: for less than [`load`](Bytes::load), which has to
    /// clear what it may not fill.
    fn first<const N: usize>(&self) -> Option<Words<N>>;

    /// [`read_span`].
    #[inline(always)]
    fn span(&self) -> Option<Span>
    where
        Self: Sized,
    {
        read_span(self)
    }

    /// [`is_multipath`].
    #[inline(always)]
    fn is_multipath(&self, span: &Span) -> bool
    where
        Self: Sized,
    {
        is_multipath(self, span)
    }

    /// [`follow_extensions`].
    #[inline(always)]
    fn behind_extensions(&self, first: u8) -> Result<(Protocol, u32), Reason>
    where
        Self: Sized,
    {
        follow_extensions(self, first)
    }
}

/// Bytes where words would lie: they are read by the word, and not one by one.
#[derive(Clone, Copy, Debug)]
#[repr(align(8))]
pub struct Words<const N: usize>(pub [u8; N]);

/// What the judge needs to know of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port; an ICMP echo's identifier; 0 where the protocol has none.
    pub src_port: u16,
    /// Destination port; see `src_port`.
    pub dst_port: u16,
    /// The transport.
    pub protocol: Protocol,
    /// What kind of packet of its transport it is.
    pub kind: Kind,
    /// ICMP `type << 8 | code`, else 0.
    pub icmp: u16,
    /// Offset of the transport header in bytes.
    pub transport: u32,
}

/// What a packet can do to a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A datagram, or a protocol whose handshakes we do not follow: the first one opens.
    Datagram,
    /// TCP with the flags that matter.
    Segment(Segment),
    /// ICMP echo request.
    EchoRequest,
    /// ICMP echo reply.
    EchoReply,
    /// An ICMP error, which quotes the packet it is about.
    IcmpError,
    /// Neighbour and router discovery, multicast listener discovery, that no router has passed on: never
    /// judged.
    Discovery,
    /// It could not be read; the reason it is denied with, if it is. What was read of it is there.
    Malformed(Reason),
}

/// The flags of a TCP segment that matter to a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// SYN without ACK: it opens.
    pub opens: bool,
    /// SYN with ACK.
    pub accepts: bool,
    /// FIN.
    pub finishes: bool,
    /// RST that carries no data.
    pub resets: bool,
}

impl Packet {
    /// A packet of which nothing is known yet.
    pub const BLANK: Self = Self {
        src: Addr::ANY,
        dst: Addr::ANY,
        src_port: 0,
        dst_port: 0,
        protocol: Protocol(0),
        kind: Kind::Malformed(Reason::Unparsable),
        icmp: 0,
        transport: 0,
    };
}

/// Reads the packet's headers.
#[inline(always)]
pub fn parse(bytes: &impl Bytes) -> Packet {
    let mut packet = Packet::BLANK;
    if let Err(reason) = read(bytes, &mut packet) {
        packet.kind = Kind::Malformed(reason);
    }
    packet
}

#[inline(always)]
fn read(bytes: &impl Bytes, packet: &mut Packet) -> Result<(), Reason> {
    if let Some(Words(head)) = bytes.first::<COMMON>()
        && head_is_v4(&head)
    {
        return read_v4(bytes, &head, COMMON as u32, packet);
    }
    let mut head = [0u8; HEAD];
    let read = bytes.load(0, &mut head);
    let head = &head;
    let [first, ..] = *head;
    match first >> 4 {
        4 if read >= 20 => {
            let [common @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = head;
            read_v4(bytes, common, if read > COMMON as u32 { COMMON as u32 } else { read }, packet)
        }
        6 if read >= 40 => read_v6(bytes, head, read, packet),
        _ => Err(Reason::Unparsable),
    }
}

/// The ends, source first, of a UDP datagram in its plainest form: no options, no extension headers, no
/// fragment, and lengths that agree. `None` says nothing but that [`parse`] must look.
#[inline(always)]
pub fn plain_datagram(bytes: &impl Bytes) -> Option<((Addr, u16), (Addr, u16))> {
    let Words([first, _, len_hi, len_lo, _, _, frag_hi, frag_lo, _, protocol, _, _, rest @ ..]) =
        bytes.first::<28>()?;
    let (src, dst, ports) = match first >> 4 {
        4 => {
            let [s0, s1, s2, s3, d0, d1, d2, d3, ports @ .., _, _, _, _] = rest;
            let whole = frag_hi & 0x3f == 0 && frag_lo == 0;
            let total = u32::from(u16::from_be_bytes([len_hi, len_lo]));
            if first != 0x45 || !whole || protocol != Protocol::UDP.0 || total != bytes.len() {
                return None;
            }
            (Addr::v4([s0, s1, s2, s3]), Addr::v4([d0, d1, d2, d3]), ports)
        }
        6 => {
            let Words([_, _, _, _, len_hi, len_lo, next, _, rest @ ..]) = bytes.first::<44>()?;
            let [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15, rest @ ..] = rest;
            let [d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12, d13, d14, d15, ports @ ..] = rest;
            let src =
                Addr::from_octets([s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15]);
            let dst =
                Addr::from_octets([d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12, d13, d14, d15]);
            let payload = u32::from(u16::from_be_bytes([len_hi, len_lo]));
            if next != Protocol::UDP.0 || payload + 40 != bytes.len() || src.is_v4() || dst.is_v4() {
                return None;
            }
            (src, dst, ports)
        }
        _ => return None,
    };
    let [a, b, c, d] = ports;
    Some(((src, u16::from_be_bytes([a, b])), (dst, u16::from_be_bytes([c, d]))))
}

/// The packet that the ICMP error at offset `transport` quotes, which is cut off somewhere behind the first eight bytes of its
/// transport header (RFC 792): only addresses, protocol and ports of it are read. `None` where not even
/// they are there, or stand behind options and extension headers.
#[inline(always)]
pub fn parse_quoted(bytes: &impl Bytes, transport: u32) -> Option<Packet> {
    let mut head = [0u8; QUOTED];
    let read = bytes.load(transport.saturating_add(8), &mut head);
    let [first, _, _, _, _, _, next, _, v6 @ ..] = &head;
    let (src, dst, protocol, transport) = match first >> 4 {
        6 if read >= 48 => {
            let [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15, rest @ ..] = v6;
            let [d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12, d13, d14, d15, transport @ ..] = rest;
            let src = [*s0, *s1, *s2, *s3, *s4, *s5, *s6, *s7, *s8, *s9, *s10, *s11, *s12, *s13, *s14, *s15];
            let dst = [*d0, *d1, *d2, *d3, *d4, *d5, *d6, *d7, *d8, *d9, *d10, *d11, *d12, *d13, *d14, *d15];
            (Addr::from_octets(src), Addr::from_octets(dst), Protocol(*next), *transport)
        }
        4 if read >= 28 && first & 0x0f == 5 => {
            let [
                _,
                protocol,
                _,
                _,
                s0,
                s1,
                s2,
                s3,
                d0,
                d1,
                d2,
                d3,
                transport @ ..,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
            ] = v6;
            (Addr::v4([*s0, *s1, *s2, *s3]), Addr::v4([*d0, *d1, *d2, *d3]), Protocol(*protocol), *transport)
        }
        _ => return None,
    };
    let [b0, b1, b2, b3, b4, b5, _, _] = transport;
    let mut quoted =
        Packet { src, dst, protocol, src_port: 0, dst_port: 0, kind: Kind::Datagram, icmp: 0, transport: 0 };
    if protocol.has_ports() {
        quoted.src_port = u16::from_be_bytes([b0, b1]);
        quoted.dst_port = u16::from_be_bytes([b2, b3]);
    } else if protocol.is_icmp() {
        quoted.icmp = u16::from_be_bytes([b0, b1]);
        quoted.kind = icmp_kind(protocol, b0);
        let id = u16::from_be_bytes([b4, b5]);
        (quoted.src_port, quoted.dst_port) = (id, id);
    }
    Some(quoted)
}

/// An IPv6 header and the first eight bytes behind it.
const QUOTED: usize = 48;
/// Enough for an IPv6 header and what we read of any transport behind it.
const HEAD: usize = 64;
/// What TCP over IPv4 has at least.
const COMMON: usize = 40;
/// What we read of a transport header: TCP's flags are at 13.
const TRANSPORT: usize = 16;

type Transport = [u8; TRANSPORT];

#[inline(always)]
fn head_is_v4([first, ..]: &[u8; COMMON]) -> bool {
    first >> 4 == 4
}

#[inline(always)]
fn read_v4(bytes: &impl Bytes, head: &[u8; COMMON], read: u32, packet: &mut Packet) -> Result<(), Reason> {
    let [first, _, len_hi, len_lo, _, _, frag_hi, frag_lo, _, protocol, _, _, rest @ ..] = head;
    let [s0, s1, s2, s3, d0, d1, d2, d3, tail @ ..] = rest;
    packet.src = Addr::v4([*s0, *s1, *s2, *s3]);
    packet.dst = Addr::v4([*d0, *d1, *d2, *d3]);
    packet.protocol = Protocol(*protocol);

    let header = u32::from(first & 0x0f) * 4;
    let total = u32::from(u16::from_be_bytes([*len_hi, *len_lo]));
    // A GSO packet above 64 KiB (BIG TCP, Linux 6.3) writes 0 here.
    if header < 20 || (total != 0 && (total < header || total > bytes.len())) {
        return Err(Reason::Unparsable);
    }
    // More fragments, or not the first one.
    if frag_hi & 0x3f != 0 || *frag_lo != 0 {
        return Err(Reason::Fragment);
    }
    if header != 20 {
        return Err(Reason::IpOptions);
    }
    let [transport @ .., _, _, _, _] = tail;
    packet.transport = 20;
    let end = if total == 0 { bytes.len() } else { total };
    read_transport(packet, end, transport, read.saturating_sub(20))
}

#[inline(always)]
fn read_v6(bytes: &impl Bytes, head: &[u8; HEAD], read: u32, packet: &mut Packet) -> Result<(), Reason> {
    let [_, _, _, _, len_hi, len_lo, next, hops, rest @ ..] = head;
    let [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15, rest @ ..] = rest;
    let [d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12, d13, d14, d15, tail @ ..] = rest;
    packet.src = Addr::from_octets([
        *s0, *s1, *s2, *s3, *s4, *s5, *s6, *s7, *s8, *s9, *s10, *s11, *s12, *s13, *s14, *s15,
    ]);
    packet.dst = Addr::from_octets([
        *d0, *d1, *d2, *d3, *d4, *d5, *d6, *d7, *d8, *d9, *d10, *d11, *d12, *d13, *d14, *d15,
    ]);
    if packet.src.is_v4() || packet.dst.is_v4() {
        return Err(Reason::MappedAddress);
    }
    let payload = u32::from(u16::from_be_bytes([*len_hi, *len_lo]));
    // 0 with a payload behind it is a jumbogram or a GSO packet above 64 KiB.
    if payload != 0 && payload + 40 > bytes.len() {
        return Err(Reason::Unparsable);
    }
    let end = if payload == 0 { bytes.len() } else { payload + 40 };
    packet.transport = 40;
    if !is_extension(*next) {
        let [transport @ .., _, _, _, _, _, _, _, _] = tail;
        packet.protocol = Protocol(*next);
        read_transport(packet, end, transport, read.saturating_sub(40))?;
    } else {
        (packet.protocol, packet.transport) = bytes.behind_extensions(*next)?;
        let mut transport: Transport = [0; TRANSPORT];
        let have = bytes.load(packet.transport, &mut transport);
        read_transport(packet, end, &transport, have)?;
    }
    // Discovery is for the link alone, and its hop limit proves it (RFC 4861, 6.1 and 7.1; RFC 3810, 5).
    // With any other it is a message like all others, or it would be a way around every rule.
    if packet.kind == Kind::Discovery && *hops != link_hops(packet.icmp) {
        packet.kind = Kind::Datagram;
    }
    Ok(())
}

/// The hop limit that a discovery message has on its link.
#[inline(always)]
const fn link_hops(icmp: u16) -> u8 {
    match icmp >> 8 {
        133..=137 => 255,
        _ => 1,
    }
}

/// Extension headers (RFC 8200, 4.1; RFC 7045) that we look through: those whose length counts in
/// units of eight. The authentication header is a protocol of its own, as in IPv4.
#[inline(always)]
const fn is_extension(next: u8) -> bool {
    // hop-by-hop, routing, fragment, destination options, mobility, HIP, shim6
    matches!(next, 0 | 43 | 44 | 60 | 135 | 139 | 140)
}

/// What stands behind the extension headers of an IPv6 packet, of which `first` is the first one, and
/// at which offset.
#[inline(always)]
pub fn follow_extensions(bytes: &impl Bytes, first: u8) -> Result<(Protocol, u32), Reason> {
    let (mut next, mut at) = (first, 40u32);
    for _ in 0..limits::EXTENSION_HEADERS {
        if !is_extension(next) {
            return Ok((Protocol(next), at));
        }
        let mut header = [0u8; 4];
        if bytes.load(at, &mut header) < 4 {
            return Err(Reason::Unparsable);
        }
        let [following, len, third, fourth] = header;
        let fragment = u16::from_be_bytes([third, fourth]) & 0xfff9;
        // An atomic fragment (offset 0, no more to come: RFC 6946) is a whole packet.
        if next == 44 && (fragment != 0 || len != 0) {
            return Err(Reason::Fragment);
        }
        // Type 0 is forbidden (RFC 5095). Of any type, with segments left the destination is not the one
        // that the header names: nobody can judge it.
        if next == 43 && (third == 0 || fourth != 0) {
            return Err(Reason::IpOptions);
        }
        at += (u32::from(len) + 1) * 8;
        next = following;
    }
    Err(Reason::Unparsable)
}

#[inline(always)]
fn read_transport(packet: &mut Packet, end: u32, transport: &Transport, have: u32) -> Result<(), Reason> {
    let [b0, b1, b2, b3, b4, b5, _, _, _, _, _, _, offset, flags, _, _] = *transport;
    let (protocol, at) = (packet.protocol, packet.transport);
    packet.kind = Kind::Datagram;
    if protocol.has_ports() {
        if have < 4 {
            return Err(Reason::Unparsable);
        }
        packet.src_port = u16::from_be_bytes([b0, b1]);
        packet.dst_port = u16::from_be_bytes([b2, b3]);
    }
    if protocol == Protocol::TCP {
        if have < 14 {
            return Err(Reason::Unparsable);
        }
        let header = u32::from(offset >> 4) * 4;
        if header < 20 || at + header > end {
            return Err(Reason::Unparsable);
        }
        let (syn, ack) = (flags & 0x02 != 0, flags & 0x10 != 0);
        packet.kind = Kind::Segment(Segment {
            opens: syn && !ack,
            accepts: syn && ack,
            finishes: flags & 0x01 != 0,
            resets: flags & 0x04 != 0 && !syn && at + header == end,
        });
    } else if protocol.is_icmp() {
        // The two never cross families, and a mismatch would dodge its rule.
        if have < 4 || (protocol == Protocol::ICMP) != packet.src.is_v4() {
            return Err(Reason::Unparsable);
        }
        packet.icmp = u16::from_be_bytes([b0, b1]);
        packet.kind = icmp_kind(protocol, b0);
        if matches!(packet.kind, Kind::EchoRequest | Kind::EchoReply) {
            if have < 8 {
                return Err(Reason::Unparsable);
            }
            let id = u16::from_be_bytes([b4, b5]);
            (packet.src_port, packet.dst_port) = (id, id);
        }
    }
    Ok(())
}

#[inline(always)]
const fn icmp_kind(protocol: Protocol, kind: u8) -> Kind {
    match (protocol, kind) {
        (Protocol::ICMP, 8) | (Protocol::ICMPV6, 128) => Kind::EchoRequest,
        (Protocol::ICMP, 0) | (Protocol::ICMPV6, 129) => Kind::EchoReply,
        (Protocol::ICMP, 3 | 4 | 5 | 11 | 12) | (Protocol::ICMPV6, 1..=4) => Kind::IcmpError,
        // Listener discovery 130-132 and 143, router and neighbour discovery 133-137.
        (Protocol::ICMPV6, 130..=137 | 143) => Kind::Discovery,
        _ => Kind::Datagram,
    }
}
