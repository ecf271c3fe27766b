//! What interfaces carry: packets of a conversation between two ends, honest ones and others.

use bulkhead_abi::{Addr, FlowKey, Protocol, Reason};
use bulkhead_core::host::wire::{self, ACK, FIN, RST, SYN, Wire};
use bulkhead_policy::{Endpoint, Flow};
use proptest::prelude::*;
use proptest::sample::select;

use crate::conversation::End;

/// What an end is behind.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Behind {
    /// Other machines.
    Wire,
    /// A namespace of this node that is known, with its cookie.
    Known(u64),
    /// Nobody knows whom.
    Nobody,
    /// No interface: the node itself.
    Host,
}

/// A conversation that is carried from one interface to another.
#[derive(Clone, Debug)]
pub struct Lane {
    pub flow: Flow,
    /// The opener's port; an echo's identifier.
    pub port: u16,
    /// Opener's and receiver's place.
    pub behind: [Behind; 2],
    /// The cgroups of their sockets, where they have one on this node.
    pub sockets: [Option<String>; 2],
    /// What stands in the guard's part of the mark where the opener's packets leave, whatever the guard
    /// wrote: one for each packet in turn. Empty: what it wrote.
    pub overwritten: Vec<u32>,
    /// The other bits of the mark.
    pub others: u32,
}

/// A packet to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub from: End,
    pub what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A SYN from the opener, a SYN-ACK from the receiver; of other protocols, a packet.
    Opens,
    GoesOn,
    /// As `Opens` and `GoesOn`, without data.
    OpensBare,
    GoesOnBare,
    Ends,
    Resets,
    ResetsWithData,
    /// The beginning of a packet, of which 48 bytes are there.
    First,
    /// How a packet goes on, from this byte.
    Later(u32),
    /// An ICMP error about the other end's packet.
    Error,
    /// The same to somebody else.
    Astray,
    /// IP options, or a routing header.
    Options,
    /// Neighbour discovery, or ARP.
    Discovery,
    /// Neither IP nor ARP.
    Other,
}

/// What a frame carries, and how it is to be read.
#[derive(Clone, Debug)]
pub struct Packet {
    pub ethertype: u16,
    pub bytes: Vec<u8>,
    pub src: (Addr, u16),
    pub dst: (Addr, u16),
    pub protocol: Protocol,
    pub reads: Reads,
    /// It is a first fragment: of which packet, and where it ends.
    pub first: Option<(u32, u32)>,
    /// ICMP's `type << 8 | code`.
    pub icmp: u16,
    /// What an error is about.
    pub quoted: Option<Box<Packet>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reads {
    Segment {
        opens: bool,
        /// SYN with ACK.
        accepts: bool,
        finishes: bool,
        /// Without data.
        resets: bool,
        /// Without data, and whole.
        bare: bool,
    },
    Datagram,
    EchoRequest,
    EchoReply,
    /// About a packet of this flow, which this address sent.
    Error(FlowKey, Addr),
    /// The fragment of which packet, from where on.
    Later(u32, u32),
    Refused(Reason),
    Discovery,
    NotIp,
}

impl Packet {
    pub fn key(&self) -> FlowKey {
        FlowKey::new(self.src, self.dst, self.protocol, 0).0
    }

    /// As it is before anybody looks into fragments.
    pub fn unread(&self) -> Packet {
        let packet = self.clone();
        if self.first.is_none() {
            return packet;
        }
        let protocol = if self.src.0.is_v4() { self.protocol } else { Protocol(0) };
        Packet { src: (self.src.0, 0), dst: (self.dst.0, 0), protocol, ..packet }
    }

    /// The same the other way.
    pub fn reversed(&self) -> Packet {
        Packet { src: self.dst, dst: self.src, ..self.clone() }
    }

    /// Whether it opens a connection.
    pub fn opens(&self) -> bool {
        matches!(self.reads, Reads::Segment { opens: true, .. })
    }

    /// Whether it ends one, and nothing else.
    pub fn resets(&self) -> bool {
        matches!(self.reads, Reads::Segment { resets: true, .. })
    }

    pub fn is_ip(&self) -> bool {
        self.reads != Reads::NotIp
    }
}

/// The bytes of the transport header that a first fragment has.
const FIRST: usize = 48;

impl Lane {
    pub fn socket(&self, end: End) -> Option<&str> {
        self.sockets[end as usize].as_deref()
    }

    /// The packet of a step.
    pub fn packet(&self, step: Step) -> Packet {
        let wire = self.wire(step);
        match step.what {
            What::First => self.fragment(&wire, 0, step),
            What::Later(at) => self.fragment(&wire, at as usize, step),
            What::Error | What::Astray => self.error(step),
            What::Options => self.with_options(&wire),
            What::Discovery if wire.src.is_v4() => not_ip(0x0806, &wire),
            What::Other => not_ip(0x88cc, &wire),
            What::Discovery => {
                let found = Wire::new(Protocol::ICMPV6, (wire.src, 0), (wire.dst, 0)).icmp(135, 0);
                Packet { reads: Reads::Discovery, ..self.whole(&found) }
            }
            _ => self.whole(&wire),
        }
    }

    fn end(&self, end: End) -> &Endpoint {
        if end == End::Opener { &self.flow.from } else { &self.flow.to }
    }

    fn wire(&self, Step { from, what }: Step) -> Wire {
        let Flow { protocol, port, .. } = self.flow;
        let ends = ((self.flow.from.addr, self.port), (self.flow.to.addr, port));
        let mut wire = Wire::new(protocol, ends.0, ends.1).payload(&[b'x'; 120]);
        wire.icmp = port;
        wire.flags = match what {
            What::Opens | What::OpensBare if from == End::Opener => SYN,
            What::Opens | What::OpensBare => SYN | ACK,
            What::Ends => FIN | ACK,
            What::Resets | What::ResetsWithData => RST | ACK,
            What::First if from == End::Opener => SYN,
            _ => ACK,
        };
        if matches!(what, What::Resets | What::OpensBare | What::GoesOnBare) {
            wire.payload.clear();
        }
        if from == End::Receiver {
            wire = wire.reversed();
            if self.is_echo() {
                wire.icmp = if wire.src.is_v4() { 0 } else { 0x8100 };
            }
        }
        if protocol.is_icmp() {
            wire.src_port = self.port;
        }
        wire
    }

    pub fn is_echo(&self) -> bool {
        let echo = if self.flow.from.addr.is_v4() { 0x0800 } else { 0x8000 };
        self.flow.protocol.is_icmp() && self.flow.port == echo
    }

    fn whole(&self, wire: &Wire) -> Packet {
        let reads = match wire.protocol {
            Protocol::TCP => Reads::Segment {
                opens: wire.flags & (SYN | ACK) == SYN,
                accepts: wire.flags & (SYN | ACK) == SYN | ACK,
                finishes: wire.flags & FIN != 0,
                resets: wire.flags & RST != 0 && wire.payload.is_empty(),
                bare: wire.payload.is_empty(),
            },
            _ if self.is_echo() && wire.icmp == self.flow.port => Reads::EchoRequest,
            _ if self.is_echo() => Reads::EchoReply,
            _ => Reads::Datagram,
        };
        let (src, dst) = self.ports(wire);
        Packet {
            ethertype: ethertype(wire.src),
            bytes: wire.bytes(),
            src: (wire.src, src),
            dst: (wire.dst, dst),
            protocol: wire.protocol,
            reads,
            first: None,
            icmp: wire.icmp,
            quoted: None,
        }
    }

    /// The ports that a flow is known by.
    fn ports(&self, wire: &Wire) -> (u16, u16) {
        if wire.protocol.has_ports() {
            (wire.src_port, wire.dst_port)
        } else if self.is_echo() {
            (self.port, self.port)
        } else {
            (0, 0)
        }
    }

    fn fragment(&self, wire: &Wire, at: usize, Step { from, .. }: Step) -> Packet {
        let whole = self.whole(wire);
        let transport = wire.transport();
        let end = if at == 0 { FIRST } else { transport.len() };
        let (part, more) = (&transport[at..end], at == 0);
        // Both ends' packets have numbers of their own, and no other lane has these.
        let id = (u32::from(self.port) << 1) | from as u32;
        let id = if wire.src.is_v4() { id & 0xffff } else { id };
        let mut bytes;
        if wire.src.is_v4() {
            bytes = wire::v4(wire.src, wire.dst, wire.protocol, &[], part.len());
            bytes[4..6].copy_from_slice(&(id as u16).to_be_bytes());
            bytes[6..8].copy_from_slice(&((at / 8) as u16 | if more { 0x2000 } else { 0 }).to_be_bytes());
        } else {
            bytes = wire::v6(wire.src, wire.dst, 44, part.len() + 8);
            bytes.extend([wire.protocol.0, 0]);
            bytes.extend((at as u16 | u16::from(more)).to_be_bytes());
            bytes.extend(id.to_be_bytes());
        }
        bytes.extend(part);
        if at != 0 {
            // Only the first one tells, and of IPv6 not even the protocol is read.
            let protocol = if wire.src.is_v4() { wire.protocol } else { Protocol(0) };
            let reads = Reads::Later(id, at as u32);
            return Packet { bytes, src: (wire.src, 0), dst: (wire.dst, 0), protocol, reads, ..whole };
        }
        let reads = match whole.reads {
            // More of it follows.
            Reads::Segment { opens, accepts, finishes, .. } => {
                Reads::Segment { opens, accepts, finishes, resets: false, bare: false }
            }
            reads => reads,
        };
        Packet { bytes, reads, first: Some((id, end as u32)), ..whole }
    }

    fn error(&self, step: Step) -> Packet {
        let other = if step.from == End::Opener { End::Receiver } else { End::Opener };
        let quoted = self.wire(Step { from: other, what: What::GoesOn });
        let (sender, v4) = (quoted.src, quoted.src.is_v4());
        let to = if step.what == What::Error { sender } else { neighbour(sender) };
        let (protocol, kind) = if v4 { (Protocol::ICMP, 3) } else { (Protocol::ICMPV6, 1) };
        let error = Wire::new(protocol, (self.end(step.from).addr, 0), (to, 0)).icmp(kind, 1);
        // The identifier is where an echo's is, whatever is quoted.
        let (src, dst) = if quoted.protocol.is_icmp() { (self.port, self.port) } else { self.ports(&quoted) };
        let (key, _) = FlowKey::new((sender, src), (quoted.dst, dst), quoted.protocol, 0);
        let about = Packet { src: (quoted.src, src), dst: (quoted.dst, dst), ..self.whole(&quoted) };
        let error = error.payload(&quoted.bytes());
        Packet {
            ethertype: ethertype(error.src),
            bytes: error.bytes(),
            src: (error.src, 0),
            dst: (error.dst, 0),
            protocol,
            reads: Reads::Error(key, sender),
            first: None,
            icmp: error.icmp,
            quoted: Some(Box::new(about)),
        }
    }

    fn with_options(&self, wire: &Wire) -> Packet {
        let (transport, v4) = (wire.transport(), wire.src.is_v4());
        let mut bytes = if v4 {
            wire::v4(wire.src, wire.dst, wire.protocol, &[1; 4], transport.len())
        } else {
            let mut bytes = wire::v6(wire.src, wire.dst, 43, transport.len() + 8);
            bytes.extend([wire.protocol.0, 0, 0, 1, 0, 0, 0, 0]);
            bytes
        };
        bytes.extend(transport);
        let protocol = if v4 { wire.protocol } else { Protocol(0) };
        let reads = Reads::Refused(Reason::IpOptions);
        Packet { bytes, src: (wire.src, 0), dst: (wire.dst, 0), protocol, reads, ..self.whole(wire) }
    }
}

/// Steps of a lane: it opens, mostly; then anything may come.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let opens = proptest::bool::weighted(0.8);
    let rest = proptest::collection::vec(step(), 3..9);
    (opens, rest).prop_map(|(opens, mut rest)| {
        if opens {
            rest.insert(0, Step { from: End::Opener, what: What::Opens });
        }
        rest
    })
}

/// Any packet.
pub fn step() -> impl Strategy<Value = Step> {
    let from = prop_oneof![3 => Just(End::Opener), 2 => Just(End::Receiver)];
    let what = prop_oneof![
        4 => Just(What::Opens),
        6 => Just(What::GoesOn),
        3 => select(vec![What::OpensBare, What::GoesOnBare]),
        3 => Just(What::First),
        3 => select(vec![What::Later(48), What::Later(64), What::Later(8)]),
        3 => select(vec![What::Ends, What::Resets, What::ResetsWithData]),
        3 => select(vec![What::Error, What::Error, What::Astray]),
        1 => select(vec![What::Options, What::Discovery, What::Other]),
    ];
    (from, what).prop_map(|(from, what)| Step { from, what })
}

fn not_ip(ethertype: u16, wire: &Wire) -> Packet {
    Packet {
        ethertype,
        bytes: vec![0; 28],
        src: (wire.src, 0),
        dst: (wire.dst, 0),
        protocol: Protocol(0),
        reads: Reads::NotIp,
        first: None,
        icmp: 0,
        quoted: None,
    }
}

fn ethertype(addr: Addr) -> u16 {
    if addr.is_v4() { 0x0800 } else { 0x86dd }
}

/// Another address of the same family.
fn neighbour(addr: Addr) -> Addr {
    let mut octets = addr.octets();
    octets[15] ^= 1;
    Addr::from_octets(octets)
}
