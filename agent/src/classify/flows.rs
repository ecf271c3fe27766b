//! From packets to flows, and from flows to rows.
//!
//! Who opened a TCP flow is who sent the SYN; without one, whoever is seen first. Flows are bounded: when
//! too many are open, the oldest is told as far as it is known.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use bulkhead_abi::{App, Class, Conversation, Demand, Inspection, Protocol};
use bulkhead_core::inspect::{self, datagram, stream};
use bulkhead_detect::hello::{Handshake, Summary};
use bulkhead_detect::http2;

use super::packet::{Packet, Tcp};
use super::row::Row;
use super::segments::Segments;

/// Flows that may be open at a time.
const OPEN: usize = 100_000;
/// Bytes of each direction's opening that are read, as the agent does.
const OPENING: usize = 4096;
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
    known: (Class, App),
    known_after: Option<u64>,
    state: State,
}

enum State {
    Stream(Box<Stream>),
    Datagrams {
        conversation: Conversation,
        /// What may be of a handshake.
        heard: [Vec<Vec<u8>>; 2],
    },
    /// The IP protocol says all.
    Plain(Class),
}

/// A TCP flow: the opener's direction first.
struct Stream {
    inspection: Inspection,
    directions: [Segments; 2],
    /// Both ends finished, or one gave up.
    finished: [bool; 2],
    midstream: bool,
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
                heard: Default::default(),
            },
            None => {
                let next = packet.payload.first().copied().unwrap_or(0);
                State::Plain(inspect::class_of(packet.protocol, next))
            }
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
            known: (Class::Unknown, App::Unknown),
            known_after: None,
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
        let known = match (&mut self.state, packet.tcp) {
            (State::Stream(stream), Some(tcp)) => {
                stream.segment(sender, tcp, packet.payload);
                (Class::from_code(stream.inspection.class), App::from_code(stream.inspection.app))
            }
            (State::Datagrams { conversation, heard }, _) => {
                // Level off: nothing is ever refused.
                let _ = datagram::datagram(conversation, sender, &packet.payload);
                if let Some(heard) = heard.get_mut(usize::from(sender)) {
                    hear(heard, packet.payload);
                }
                (Class::from_code(conversation.class), App::from_code(conversation.app))
            }
            (State::Plain(class), _) => (*class, App::Unknown),
            (State::Stream(_), None) => return,
        };
        if known != self.known {
            self.known = known;
            self.known_after = Some(self.bytes);
        }
    }

    fn row(mut self) -> Row {
        let mut midstream = false;
        let mut flags = 0;
        let mut handshake = None;
        match &mut self.state {
            State::Stream(stream) => {
                stream.finish();
                midstream = stream.midstream;
                flags = stream.inspection.flags;
                self.known =
                    (Class::from_code(stream.inspection.class), App::from_code(stream.inspection.app));
                if self.known == (Class::Clear, App::Http2) && http2::is_grpc(stream.opener()) {
                    self.known.1 = App::Grpc;
                }
                handshake = stream.handshake();
            }
            State::Datagrams { heard: [opener, receiver], .. }
                if matches!(self.known.0, Class::Dtls | Class::Quic) =>
            {
                handshake = Some(Handshake::read_datagrams(opener, receiver));
            }
            State::Datagrams { .. } | State::Plain(_) => {}
        }
        let (class, app) = self.known;
        let told = class != Class::Unknown || app != App::Unknown;
        Row {
            src: self.src.0,
            src_port: self.src.1,
            dst: self.dst.0,
            dst_port: self.dst.1,
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
            known_after: self.known_after.filter(|_| told),
            bytes: self.bytes,
            packets: self.packets,
            first_seen: self.begun.as_secs_f64(),
            tls: handshake.filter(|handshake| !handshake.is_empty()).as_ref().map(Summary::from),
        }
    }
}

/// Keeps a datagram that looks like one of a handshake: QUIC's with a long header, DTLS' records.
fn hear(heard: &mut Vec<Vec<u8>>, payload: &[u8]) {
    let opens = payload.first().is_some_and(|first| first & 0x80 != 0 || matches!(first, 20..=22));
    if opens && heard.len() < DATAGRAMS {
        heard.push(payload.get(..OPENING).unwrap_or(payload).to_vec());
    }
}

impl Stream {
    fn new() -> Self {
        let mut inspection = Inspection::default();
        inspect::demand(&mut inspection, Demand::OFF);
        Self { inspection, directions: Default::default(), finished: [false; 2], midstream: false }
    }

    fn ends_before(&self, tcp: Tcp, sender: u8) -> bool {
        let opens = tcp.syn && !tcp.ack;
        let again = self.directions.get(usize::from(sender)).and_then(Segments::first) == Some(tcp.seq);
        opens && !(sender == 0 && again) && (self.finished != [false; 2] || self.has_data() || sender == 0)
    }

    fn has_data(&self) -> bool {
        self.directions.iter().any(|direction| direction.handed_over() > 0)
    }

    fn segment(&mut self, sender: u8, tcp: Tcp, payload: &[u8]) {
        let Some(direction) = self.directions.get_mut(usize::from(sender)) else { return };
        if let Some(finished) = self.finished.get_mut(usize::from(sender)) {
            *finished |= tcp.fin || tcp.rst;
        }
        if tcp.syn {
            direction.begin(tcp.seq);
            stream::begin(&mut self.inspection, sender, tcp.seq);
        } else if !direction.has_begun() && !tcp.rst {
            // Only a capture that begins in the middle has a direction without a SYN.
            self.midstream = true;
            self.inspection.flags |= Inspection::FLAG_MIDSTREAM;
        }
        if payload.is_empty() || tcp.rst {
            return;
        }
        let inspection = &mut self.inspection;
        direction.take(tcp.seq, payload, &mut |seq, payload| {
            // Level off: nothing is ever held or refused.
            let _ = stream::segment(inspection, sender, seq, &payload);
        });
    }

    fn finish(&mut self) {
        for (sender, direction) in (0..).zip(&mut self.directions) {
            let inspection = &mut self.inspection;
            direction.finish(&mut |seq, payload| {
                let _ = stream::segment(inspection, sender, seq, &payload);
            });
        }
    }

    fn opener(&self) -> &[u8] {
        let [opener, _] = &self.directions;
        opener.kept()
    }

    fn handshake(&self) -> Option<Handshake> {
        let opener = self.opening(0).unwrap_or_default();
        let receiver = self.opening(1).unwrap_or_default();
        (!opener.is_empty()).then(|| Handshake::read(opener, receiver))
    }

    /// A direction's bytes from where its TLS began.
    fn opening(&self, sender: u8) -> Option<&[u8]> {
        let direction = self.directions.get(usize::from(sender))?;
        let behind = stream::hello_offset(&self.inspection, sender, direction.end()?)?;
        let start = usize::try_from(direction.handed_over().checked_sub(behind)?).ok()?;
        let bytes = direction.kept().get(start..)?;
        Some(bytes.get(..OPENING).unwrap_or(bytes))
    }
}
