//! From pieces, as the kernel tells them, to handshakes.
//!
//! Pieces come out of order, twice, or not at all; what a piece says first of a byte holds. Memory is
//! bounded by flows and by bytes: when it is full, the oldest flow is read as far as it came and let go.
//! A flow is also let go some time after its first piece. Time is handed in, since any fixed moment.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bulkhead_abi::inspect::Piece;
use bulkhead_abi::{Addr, Identity, Protocol};

use super::handshake::Handshake;

/// Separate ranges of one direction that are kept; a piece beyond is left out.
const RANGES: usize = 8;
/// Datagrams of one direction that are kept.
const DATAGRAMS: usize = 16;

/// What may be kept at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Flows, those included of which all is known and that only wait for their time.
    pub flows: usize,
    /// Bytes of openings.
    pub bytes: usize,
    /// Time from a flow's first piece to its last.
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { flows: 4096, bytes: 8 << 20, age: Duration::from_secs(10) }
    }
}

/// Whose opening it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stream {
    /// The socket at hand.
    pub cookie: u64,
    /// Its network namespace.
    pub netns: u64,
    /// The opener's address and port.
    pub src: (Addr, u16),
    /// The receiver's.
    pub dst: (Addr, u16),
    /// The opener's identity.
    pub from: Identity,
    /// The receiver's.
    pub to: Identity,
    /// IP protocol number.
    pub protocol: u8,
    /// Code of the protocol whose STARTTLS dialogue led here, or of `unknown`.
    pub app: u8,
    /// Code of the rule's level.
    pub level: u8,
    /// The lowest version that the rule accepts, 0 for any.
    pub floor: u8,
}

/// How far an opening was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// What the two agreed on is known; more may come, and will be told as [`Stage::Settled`].
    Negotiated,
    /// Nothing more comes. It is told once for each flow of which anything was understood.
    Settled,
}

/// What was read of a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opening {
    /// Whose it is.
    pub stream: Stream,
    /// What it says.
    pub handshake: Handshake,
    /// How far it was read.
    pub stage: Stage,
    /// What the two agreed on was told before, as [`Stage::Negotiated`].
    pub again: bool,
}

/// Openings that are being gathered.
#[derive(Debug)]
pub struct Reassembly {
    limits: Limits,
    flows: HashMap<Key, Flow>,
    /// By age: the oldest first.
    order: BTreeMap<u64, Key>,
    next: u64,
    bytes: usize,
    evicted: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    cookie: u64,
    netns: u64,
    src: (Addr, u16),
    dst: (Addr, u16),
    protocol: u8,
}

#[derive(Debug)]
struct Flow {
    stream: Stream,
    begun: Duration,
    directions: [Direction; 2],
    told: Option<Stage>,
}

/// The bytes of one direction, and which of them are there.
#[derive(Debug, Default)]
struct Direction {
    bytes: Vec<u8>,
    /// Ranges that are there, in order, apart from each other.
    ranges: Vec<(usize, usize)>,
    /// Instead of both: whole datagrams, as they came.
    datagrams: Vec<Vec<u8>>,
    /// A datagram in the making.
    part: Vec<u8>,
}

impl Reassembly {
    /// Nothing gathered yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, flows: HashMap::new(), order: BTreeMap::new(), next: 0, bytes: 0, evicted: 0 }
    }

    /// Takes a piece, and tells what became known by it: of this flow, or of one that had to make room.
    pub fn take(&mut self, piece: &Piece, now: Duration) -> Vec<Opening> {
        let mut told = Vec::new();
        let key = Key {
            cookie: piece.cookie,
            netns: piece.netns,
            src: (piece.src, piece.src_port),
            dst: (piece.dst, piece.dst_port),
            protocol: piece.protocol,
        };
        if !self.flows.contains_key(&key) {
            while self.flows.len() >= self.limits.flows.max(1) {
                told.extend(self.evict());
            }
            self.insert(key, piece, now);
        }
        if let Some(flow) = self.flows.get_mut(&key) {
            let before = flow.size();
            told.extend(flow.take(piece));
            self.bytes = (self.bytes + flow.size()).saturating_sub(before);
        }
        while self.bytes > self.limits.bytes && !self.flows.is_empty() {
            told.extend(self.evict());
        }
        told
    }

    /// Lets go of what is past its time, and tells what was known of it.
    pub fn expire(&mut self, now: Duration) -> Vec<Opening> {
        let mut told = Vec::new();
        while let Some((_, key)) = self.order.first_key_value() {
            let due = self.flows.get(key).is_none_or(|flow| flow.begun + self.limits.age <= now);
            if !due {
                break;
            }
            told.extend(self.remove_oldest().and_then(|mut flow| flow.settle()));
        }
        told
    }

    /// Flows that had to make room before they were understood.
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Bytes that are kept.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn insert(&mut self, key: Key, piece: &Piece, now: Duration) {
        let stream = Stream {
            cookie: piece.cookie,
            netns: piece.netns,
            src: key.src,
            dst: key.dst,
            from: piece.from,
            to: piece.to,
            protocol: piece.protocol,
            app: piece.app,
            level: piece.level,
            floor: piece.floor,
        };
        self.flows.insert(key, Flow { stream, begun: now, directions: Default::default(), told: None });
        self.order.insert(self.next, key);
        self.next += 1;
    }

    fn evict(&mut self) -> Option<Opening> {
        let mut flow = self.remove_oldest()?;
        if flow.told != Some(Stage::Settled) {
            self.evicted += 1;
        }
        flow.settle()
    }

    fn remove_oldest(&mut self) -> Option<Flow> {
        let (_, key) = self.order.pop_first()?;
        let flow = self.flows.remove(&key)?;
        self.bytes = self.bytes.saturating_sub(flow.size());
        Some(flow)
    }
}

impl Flow {
    fn size(&self) -> usize {
        self.directions.iter().map(Direction::size).sum()
    }

    fn take(&mut self, piece: &Piece) -> Option<Opening> {
        if self.told == Some(Stage::Settled) {
            return None;
        }
        let bytes = piece.bytes.get(..usize::from(piece.len))?;
        let direction = self.directions.get_mut(usize::from(piece.sender))?;
        let offset = usize::try_from(piece.offset).ok()?;
        if self.stream.protocol != Protocol::UDP.0 {
            direction.take(offset, bytes);
        } else if !direction.take_part(offset, bytes, piece.more != 0) {
            return None;
        }
        let handshake = self.read();
        if handshake.settled {
            return self.tell(handshake, Stage::Settled);
        }
        let negotiated = handshake.server.as_ref().is_some_and(|server| !server.retry);
        if negotiated && self.told.is_none() {
            return self.tell(handshake, Stage::Negotiated);
        }
        None
    }

    fn settle(&mut self) -> Option<Opening> {
        if self.told == Some(Stage::Settled) {
            return None;
        }
        let handshake = self.read();
        if handshake.is_empty() { None } else { self.tell(handshake, Stage::Settled) }
    }

    fn tell(&mut self, handshake: Handshake, stage: Stage) -> Option<Opening> {
        let again = self.told.is_some();
        self.told = Some(stage);
        if stage == Stage::Settled {
            // Late pieces find that there is nothing to do.
            self.directions = Default::default();
        }
        Some(Opening { stream: self.stream, handshake, stage, again })
    }

    fn read(&self) -> Handshake {
        let [opener, receiver] = &self.directions;
        if self.stream.protocol == Protocol::UDP.0 {
            return Handshake::read_datagrams(&opener.datagrams, &receiver.datagrams);
        }
        Handshake::read(opener.prefix(), receiver.prefix())
    }
}

impl Direction {
    /// What is there from the beginning on, up to the first gap.
    fn prefix(&self) -> &[u8] {
        match self.ranges.first() {
            Some((0, end)) => self.bytes.get(..*end).unwrap_or_default(),
            _ => &[],
        }
    }

    fn size(&self) -> usize {
        let whole: usize = self.datagrams.iter().map(Vec::len).sum();
        self.bytes.len() + self.part.len() + whole
    }

    /// Takes a part of a datagram, whose parts come one behind the other; whether it is whole now.
    fn take_part(&mut self, offset: usize, bytes: &[u8], more: bool) -> bool {
        if offset == 0 {
            self.part.clear();
        }
        let longest = usize::try_from(Piece::DATAGRAM_BYTES).unwrap_or(0);
        if offset != self.part.len() || offset + bytes.len() > longest || self.datagrams.len() >= DATAGRAMS {
            self.part.clear();
            return false;
        }
        self.part.extend_from_slice(bytes);
        if !more {
            self.datagrams.push(std::mem::take(&mut self.part));
        }
        !more
    }

    fn take(&mut self, offset: usize, bytes: &[u8]) {
        let longest = usize::try_from(Piece::STREAM_BYTES).unwrap_or(0);
        let end = offset.saturating_add(bytes.len()).min(longest);
        if offset >= end || self.ranges.len() >= RANGES {
            return;
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        for (at, byte) in (offset..end).zip(bytes) {
            let there = self.ranges.iter().any(|(first, last)| (*first..*last).contains(&at));
            if let (false, Some(place)) = (there, self.bytes.get_mut(at)) {
                *place = *byte;
            }
        }
        self.ranges.push((offset, end));
        self.ranges.sort_unstable();
        let mut joined: Vec<(usize, usize)> = Vec::with_capacity(self.ranges.len());
        for (first, last) in self.ranges.drain(..) {
            match joined.last_mut() {
                Some((_, end)) if first <= *end => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        self.ranges = joined;
    }
}

#[cfg(test)]
#[path = "reassembly_tests.rs"]
mod tests;
