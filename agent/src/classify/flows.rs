//! From packets to flows, and from flows to rows.
//!
//! Who opened a flow is who was seen first, or whom TCP says ([`Stream`]). Flows are bounded: when too many
//! are open, the oldest is told as far as it is known.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use bulkhead_abi::{App, Class, Conversation, Demand, Inspection, Protocol};
use bulkhead_core::inspect::{self, Payload, datagram};
use bulkhead_detect::hello::{Handshake, Summary};

use super::packet::Packet;
use super::row::Row;
use super::tcp::Stream;

/// Flows that may be open at a time.
const OPEN: usize = 100_000;
/// Bytes of each direction's opening that are read, as the agent does.
pub(super) const OPENING: usize = 4096;
/// Datagrams of each direction that are kept for what they say of a handshake.
const DATAGRAMS: usize = 12;
/// A UDP conversation that was silent for so long is over.
const SILENCE: Duration = Duration::from_secs(120);

/// Flows in the making.
pub struct Flows<'a> {
    take: &'a mut dyn FnMut(Row),
    open: HashMap<Key, Flow>,
    /// By age.
    order: BTreeMap<u64, Key>,
    next: u64,
}

/// Both ends, the lower one first, and the protocol.
type Key = ((IpAddr, u16), (IpAddr, u16), u8);

impl<'a> Flows<'a> {
    /// None yet; `take` gets a row of each.
    pub fn new(take: &'a mut dyn FnMut(Row)) -> Self {
        Self { take, open: HashMap::new(), order: BTreeMap::new(), next: 0 }
    }

    /// Takes a packet.
    pub(super) fn packet(&mut self, packet: &Packet<'_>, time: Duration) {
        if packet.protocol != Protocol::TCP && !inspect::is_looked_at(packet.protocol) {
            return;
        }
        let (low, high) = (packet.src.min(packet.dst), packet.src.max(packet.dst));
        let key = (low, high, packet.protocol.0);
        if self.open.get(&key).is_some_and(|flow| flow.ends_before(packet, time)) {
            self.end(key);
        }
        if !self.open.contains_key(&key) {
            if self.open.len() >= OPEN
                && let Some((_, oldest)) = self.order.first_key_value()
            {
                self.end(*oldest);
            }
            self.open.insert(key, Flow::new(packet, time, self.next));
            self.order.insert(self.next, key);
            self.next += 1;
        }
        if let Some(flow) = self.open.get_mut(&key) {
            flow.packet(packet, time);
        }
    }

    /// Tells what is left, the oldest first.
    pub fn finish(mut self) {
        while let Some((_, key)) = self.order.first_key_value() {
            self.end(*key);
        }
    }

    fn end(&mut self, key: Key) {
        let Some(flow) = self.open.remove(&key) else { return };
        self.order.remove(&flow.number);
        (self.take)(flow.row());
    }
}

/// What is known of a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) what: (Class, App),
    /// Bytes of the flow when that became known.
    after: Option<u64>,
}

/// A flow in the making.
struct Flow {
    number: u64,
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
    protocol: Protocol,
    begun: Duration,
    last: Duration,
    packets: u64,
    bytes: u64,
    state: State,
}

enum State {
    Stream(Box<Stream>),
    Datagrams {
        conversation: Conversation,
        known: Known,
        /// What may be of a handshake.
        heard: [Vec<Vec<u8>>; 2],
    },
    /// The IP protocol says all.
    Plain(Known),
}

impl Default for Known {
    fn default() -> Self {
        Self { what: (Class::Unknown, App::Unknown), after: None }
    }
}

impl Known {
    /// This is known when so many bytes have passed.
    pub(super) fn note(&mut self, what: (Class, App), bytes: u64) {
        if what != self.what {
            *self = Self { what, after: Some(bytes) };
        }
    }

    /// Bytes of the flow when what is known became known; `None` where nothing is.
    fn after(&self) -> Option<u64> {
        self.after.filter(|_| self.what != Self::default().what)
    }
}

impl Flow {
    fn new(packet: &Packet<'_>, time: Duration, number: u64) -> Self {
        // A capture that begins with the answer still says who asked.
        let answers = packet.tcp.is_some_and(|tcp| tcp.syn && tcp.ack);
        let (src, dst) = if answers { (packet.dst, packet.src) } else { (packet.src, packet.dst) };
        let state = match packet.tcp {
            Some(_) => State::Stream(Box::new(Stream::new())),
            None if packet.protocol == Protocol::UDP => State::Datagrams {
                conversation: inspect::conversation(Demand::OFF),
                known: Known::default(),
                heard: Default::default(),
            },
            None => State::Plain(Known::default()),
        };
        Self {
            number,
            src,
            dst,
            protocol: packet.protocol,
            begun: time,
            last: time,
            packets: 0,
            bytes: 0,
            state,
        }
    }

    /// Whether this packet is of another flow, between the same ends.
    fn ends_before(&self, packet: &Packet<'_>, time: Duration) -> bool {
        match &self.state {
            State::Stream(stream) => {
                packet.tcp.is_some_and(|tcp| stream.ends_before(tcp, self.sender(packet)))
            }
            State::Datagrams { .. } => time.saturating_sub(self.last) > SILENCE,
            State::Plain(_) => false,
        }
    }

    fn sender(&self, packet: &Packet<'_>) -> u8 {
        u8::from(packet.src != self.src)
    }

    fn packet(&mut self, packet: &Packet<'_>, time: Duration) {
        let sender = self.sender(packet);
        self.packets += 1;
        self.last = time;
        self.bytes += u64::try_from(packet.payload.len()).unwrap_or(0);
        match (&mut self.state, packet.tcp) {
            (State::Stream(stream), Some(tcp)) => stream.segment(sender, tcp, packet.payload, self.bytes),
            (State::Datagrams { conversation, known, heard }, _) => {
                let datagram = Datagram { bytes: packet.payload, len: packet.len };
                // Level off: nothing is ever refused.
                let _ = datagram::datagram(conversation, sender, &datagram);
                if conversation.phase != Inspection::DONE
                    && let Some(heard) = heard.get_mut(usize::from(sender))
                {
                    hear(heard, packet.payload);
                }
                let what = (Class::from_code(conversation.class), App::from_code(conversation.app));
                known.note(what, self.bytes);
            }
            (State::Plain(known), _) => {
                let next = packet.payload.first().copied().unwrap_or(0);
                known.note((inspect::class_of(packet.protocol, next), App::Unknown), self.bytes);
            }
            (State::Stream(_), None) => {}
        }
    }

    fn row(mut self) -> Row {
        let (mut midstream, mut flags, mut turned) = (false, 0, false);
        let (known, handshake) = match &mut self.state {
            State::Stream(stream) => {
                let told = stream.told(self.bytes);
                (midstream, flags, turned) = (told.midstream, told.flags, told.turned);
                (told.known, told.handshake)
            }
            State::Datagrams { known, heard: [opener, receiver], .. } => {
                let long = matches!(known.what.0, Class::Dtls | Class::Quic);
                (*known, long.then(|| Handshake::read_datagrams(opener, receiver)))
            }
            State::Plain(known) => (*known, None),
        };
        let (src, dst) = if turned { (self.dst, self.src) } else { (self.src, self.dst) };
        let (class, app) = known.what;
        Row {
            src: src.0,
            src_port: src.1,
            dst: dst.0,
            dst_port: dst.1,
            transport: match self.protocol {
                Protocol::TCP => "tcp",
                Protocol::UDP => "udp",
                Protocol::ESP => "esp",
                _ => "ah",
            },
            class: class.as_str(),
            protocol: app.as_str(),
            upgraded: flags & Inspection::FLAG_UPGRADED != 0,
            tunnelled: flags & Inspection::FLAG_TUNNELLED != 0,
            midstream,
            known_after: known.after(),
            bytes: self.bytes,
            packets: self.packets,
            first_seen: self.begun.as_secs_f64(),
            tls: handshake.filter(|handshake| !handshake.is_empty()).as_ref().map(Summary::from),
        }
    }
}

/// A datagram, of which a capture may have the front only.
struct Datagram<'a> {
    bytes: &'a [u8],
    /// Its length on the wire.
    len: u32,
}

impl Payload for Datagram<'_> {
    fn len(&self) -> u32 {
        self.len
    }

    fn load<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> u32 {
        self.bytes.load(offset, buffer)
    }
}

impl datagram::Readers for Datagram<'_> {}

/// Keeps a datagram that looks like one of a handshake: QUIC's with a long header, DTLS' records.
fn hear(heard: &mut Vec<Vec<u8>>, payload: &[u8]) {
    let opens = payload.first().is_some_and(|first| first & 0x80 != 0 || matches!(first, 20..=22));
    if opens && heard.len() < DATAGRAMS {
        heard.push(payload.get(..OPENING).unwrap_or(payload).to_vec());
    }
}
