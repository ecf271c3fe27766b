//! What a packet hook gives, and what it may do apart.

use bulkhead_abi::{
    Control, Conversation, Direction, FlowKey, FlowState, Inspection, Reason, SocketFlow, SocketRole,
    Verdict, Workload,
    inspect::{Ahead, Datagrams},
};

use super::{
    Cast, Known, State,
    inspected::Carried,
    parts,
    pieces::{Before, Told},
};
use crate::{
    inspect::{Cursor, Ruling, datagram, stream},
    judge::Decision,
    packet::Bytes,
    report::{Content, NO_SLOT, Report},
    tables::Tables,
};

/// A value in place: socket storage, or an element of the flow table.
pub trait Slot<V> {
    /// Looks at it.
    fn read<R>(&self, look: impl FnOnce(&V) -> R) -> R;
    /// Changes it.
    fn update<R>(&self, change: impl FnOnce(&mut V) -> R) -> R;
}

/// The state of the socket at hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Socket {
    /// No socket.
    None,
    /// It listens: never an owner.
    Listening,
    /// Its SYN is out.
    Opening,
    /// Any other.
    Other,
}

/// What a socket can own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ownership {
    /// A TCP connection.
    Stream,
    /// The flow to the peer that it is connected to.
    Datagrams,
    /// Nothing: it is raw, and may write any header.
    Raw,
    /// Nothing: unconnected, or unknown.
    Nothing,
}

/// Which end a new entry of the table is seen from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Entry {
    /// From the opener's; the receiver is elsewhere.
    Opener = 0,
    /// From the opener's; the receiver is on this node and will find it.
    LocalOpener = 1,
    /// From the receiver's.
    Receiver = 2,
    /// As `LocalOpener`, and the opener's end reads the bytes of the stream, too.
    LocalReader = 3,
}

impl Entry {
    /// From its number; any other is the receiver's.
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Opener,
            1 => Self::LocalOpener,
            3 => Self::LocalReader,
            _ => Self::Receiver,
        }
    }

    /// From the end of an opener whose receiver is on this node.
    #[inline(always)]
    pub const fn local(reads: bool) -> Self {
        if reads { Self::LocalReader } else { Self::LocalOpener }
    }

    /// What it says of the flow.
    #[inline(always)]
    pub(super) const fn flags(self) -> u8 {
        match self {
            Self::Opener | Self::Receiver => 0,
            Self::LocalOpener => FlowState::FLAG_LOCAL,
            Self::LocalReader => FlowState::FLAG_LOCAL | FlowState::FLAG_READ,
        }
    }
}

/// Which end's socket is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Whose {
    /// This one's.
    Ours = 0,
    /// The other's.
    Theirs = 1,
}

/// How a decision is to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Telling {
    /// This end opened the flow.
    pub opener: bool,
    /// The flow was not counted yet.
    pub first: bool,
    /// The other end counts what passes.
    pub elsewhere: bool,
    /// What passes is [counted](Judged::count) when its bytes have been looked at.
    pub later: bool,
}

/// What a part of the work comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a verdict that nobody acts on is a firewall that lets everything through"]
pub enum Outcome {
    /// This happens.
    Verdict(Verdict),
    /// No rule can judge the packet, for this reason.
    Anomaly(Reason),
    /// The packet is of no flow that is known.
    Untracked,
}

impl Outcome {
    /// As a number, for the border between two functions of the kernel's.
    #[inline(always)]
    pub const fn to_code(self) -> u32 {
        match self {
            Self::Untracked => 0,
            Self::Verdict(verdict) => verdict as u32,
            Self::Anomaly(reason) => 0x100 | reason as u32,
        }
    }

    /// From its number.
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Untracked,
            1..=0xff => Self::Verdict(Verdict::from_code(code as u8)),
            _ => Self::Anomaly(Reason::from_code(code as u8)),
        }
    }
}

/// What comes of a packet of which only its bytes can say more, and what is to be counted of it then. One that
/// is refused for its bytes is counted as refused, and nowhere else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "see the outcome; and what passes is to be counted"]
pub struct Judged {
    /// What comes of it.
    pub outcome: Outcome,
    /// The counter slot of its flow.
    pub slot: u32,
    /// Not zero: the flow was not counted yet.
    pub first: u8,
    /// Not zero: the packet was not.
    pub packet: u8,
}

impl Judged {
    /// Everything is counted.
    #[inline(always)]
    pub const fn done(outcome: Outcome) -> Self {
        Self { outcome, slot: NO_SLOT, first: 0, packet: 0 }
    }

    /// It passes, and is to be counted in `slot`; `first` says whether its flow is, too.
    #[inline(always)]
    pub const fn passing(verdict: Verdict, slot: u32, first: bool) -> Self {
        Self { outcome: Outcome::Verdict(verdict), slot, first: if first { 1 } else { 0 }, packet: 1 }
    }

    /// It does not pass now, and comes again: its flow is counted, if that is due.
    #[inline(always)]
    pub const fn held(self) -> Self {
        Self { outcome: Outcome::Verdict(Verdict::Deny), packet: 0, ..self }
    }

    /// It does not pass for what it says. A flow that was told of as one that would be denied is counted as that.
    #[inline(always)]
    pub const fn refused(self) -> Self {
        match self.outcome {
            Outcome::Verdict(Verdict::Audit) => self.held(),
            _ => Self::done(Outcome::Verdict(Verdict::Deny)),
        }
    }

    /// Counts what is due.
    #[inline(always)]
    pub fn count<R: Bytes + Report>(&self, report: &R) {
        if self.first | self.packet != 0 {
            let len = if self.packet != 0 { u64::from(report.len()) } else { 0 };
            report.add(self.slot, self.first.into(), self.packet.into(), len);
        }
    }

    /// As a number, for the border between two functions of the kernel's.
    #[inline(always)]
    pub const fn to_code(self) -> u64 {
        (self.slot as u64) << 32
            | (self.packet as u64 & 1) << 17
            | (self.first as u64 & 1) << 16
            | self.outcome.to_code() as u64
    }

    /// From its number.
    #[inline(always)]
    pub const fn from_code(code: u64) -> Self {
        Self {
            outcome: Outcome::from_code(code as u32 & 0xffff),
            slot: (code >> 32) as u32,
            first: (code >> 16) as u8 & 1,
            packet: (code >> 17) as u8 & 1,
        }
    }
}

/// What comes of a segment whose bytes were looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "bytes that nobody stops are delivered"]
pub enum Finding {
    /// It passes, and there is nothing to tell.
    Passes,
    /// It is dropped without a word: its sender repeats it.
    Held,
    /// It passes, and what is known now is to be told.
    Known,
    /// It passes because nobody enforces, and would be refused for this reason: to be told.
    Audited(Reason),
    /// It does not pass, and neither does anything behind it.
    Refused(Reason),
}

impl Finding {
    /// As a number, for the border between two functions of the kernel's.
    #[inline(always)]
    pub const fn to_code(self) -> u32 {
        match self {
            Self::Passes => 0,
            Self::Held => 1,
            Self::Known => 2,
            Self::Audited(reason) => 0x100 | reason as u32,
            Self::Refused(reason) => 0x200 | reason as u32,
        }
    }

    /// What becomes of the packet, by the finding's number.
    #[inline(always)]
    pub const fn verdict_of(code: u32) -> Verdict {
        match code {
            0 | 2 => Verdict::Allow,
            0x100..=0x1ff => Verdict::Audit,
            _ => Verdict::Deny,
        }
    }

    /// From its number.
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Passes,
            1 => Self::Held,
            2 => Self::Known,
            0x100..=0x1ff => Self::Audited(Reason::from_code(code as u8)),
            _ => Self::Refused(Reason::from_code(code as u8)),
        }
    }
}

/// What a packet hook gives. The methods with bodies are the [`parts`] of the work; the kernel puts
/// functions of their own in their place.
pub trait Hook: Tables + Bytes + Report + Sized {
    /// A flow owned by the socket at hand.
    type Owned: Slot<SocketFlow>;
    /// A flow in the table.
    type Tabled: Slot<FlowState>;
    /// What the socket at hand is for.
    type Role: Slot<SocketRole>;
    /// What went on ahead of its turn at the socket at hand.
    type Ahead: Slot<Ahead>;

    /// The socket at hand.
    fn socket(&self) -> Socket;
    /// What the socket at hand can own; asked only where [`Hook::socket`] is `Other`.
    fn ownership(&self) -> Ownership;
    /// Whether the socket at hand was seen being made by a program. The kernel's own are not: it resets
    /// what comes to closed ports by a raw socket that nobody created.
    fn is_programs(&self) -> bool;
    /// Whether the socket at hand is connected, whatever it is.
    fn is_connected(&self) -> bool;
    /// The sequence number of the first byte that goes this way, where none has come through yet: as the
    /// socket at hand knows it.
    fn stream_start(&self, direction: Direction) -> Option<u32>;
    /// The sequence number that the socket at hand waits for: all bytes before it are its program's.
    fn received(&self) -> Option<u32>;
    /// What went on ahead of its turn at the socket at hand, made when there is nothing yet; `None` without
    /// memory.
    fn ahead(&self) -> Option<Self::Ahead>;
    /// Whether the bytes of streams are looked at at all.
    fn reads_streams(&self) -> bool {
        true
    }
    /// Lets this hook alone look at the flow's bytes; false while another one does.
    fn lock(&self, owned: &Self::Owned) -> bool;
    /// Ends that.
    fn unlock(&self, owned: &Self::Owned);
    /// Hands bytes of a TLS opening to the daemon, or counts their loss.
    fn piece(&self, flow: &SocketFlow, told: &Told);
    /// Nothing that is read or written in memory moves from before this to behind it, or back.
    fn barrier(&self);
    /// Cgroup id of the socket at hand, 0 if unknown.
    fn cgroup(&self) -> u64;
    /// The socket's workload: its cgroup with the nearest ancestor that is in the table.
    fn workload_at_hand(&self) -> Workload;
    /// The flow that the socket at hand owns.
    fn owned(&self) -> Option<Self::Owned>;
    /// The same, made when there is none; `None` without memory.
    fn own(&self) -> Option<Self::Owned>;
    /// The tabled flow of `key`.
    fn tabled(&self, key: &FlowKey) -> Option<Self::Tabled>;
    /// Puts a flow into the table in which every field is zero; `None` when it is full.
    fn table(&self, key: &FlowKey) -> Option<Self::Tabled>;
    /// Takes a flow out of the table.
    fn untable(&self, key: &FlowKey);

    /// What the socket at hand is for, if anybody has said so.
    fn role(&self) -> Option<Self::Role>;
    /// Whether the packet came in over loopback, so that it was sent in this network namespace.
    fn is_looped(&self) -> bool;
    /// Leaves what the role at hand knows of a turned connection where whoever accepts it finds it.
    fn note_turned(&self, state: &State);

    /// [`parts::role`].
    #[inline(always)]
    fn on_role(&self, state: &State, peer: &mut Workload, decision: &mut Decision) -> Cast {
        parts::role(self, state, peer, decision)
    }
    /// [`parts::proxied`].
    #[inline(always)]
    fn on_proxied(&self, state: &State) -> Outcome {
        parts::proxied(self, state)
    }
    /// [`parts::datagram`].
    #[inline(always)]
    fn on_datagram(&self, owned: &Self::Owned, generation: u64, direction: Direction) -> Option<u32> {
        parts::datagram(self, owned, generation, direction)
    }
    /// [`parts::prepare`].
    #[inline(always)]
    fn on_prepare(&self, state: &mut State) {
        parts::prepare(self, state);
    }
    /// [`parts::owned`].
    #[inline(always)]
    fn on_owned(&self, state: &State) -> Judged {
        parts::owned(self, state)
    }
    /// [`parts::listening`].
    #[inline(always)]
    fn on_listening(&self, state: &State) -> Outcome {
        parts::listening(self, state)
    }
    /// [`parts::tracked`].
    #[inline(always)]
    fn on_tracked(&self, state: &State) -> Judged {
        parts::tracked(self, state)
    }
    /// [`parts::untracked`].
    #[inline(always)]
    fn on_untracked(&self, state: &State) -> Judged {
        parts::untracked(self, state)
    }
    /// [`parts::inspect`].
    #[inline(always)]
    fn on_inspect(&self, owned: &Self::Owned, control: &Control, direction: Direction) -> Finding {
        parts::inspect(self, owned, control, direction)
    }
    /// [`stream::segment`] of the payload of `len` bytes at offset `at`.
    #[inline(always)]
    fn on_segment(&self, (at, len): (u32, u32), inspection: &mut Inspection, sender: u8, seq: u32) -> Ruling {
        stream::segment(inspection, sender, seq, &Carried { bytes: self, at, len })
    }
    /// [`parts::early`] of the payload of `len` bytes at offset `at`.
    #[inline(always)]
    fn on_early(&self, (at, len): (u32, u32), inspection: &mut Inspection, sender: u8, seq: u32) -> bool {
        let cursor = Cursor { seq, at: 0, len, sender: sender.into() };
        parts::early(self, &Carried { bytes: self, at, len }, inspection, &cursor)
    }
    /// [`parts::settle`].
    #[inline(always)]
    fn on_settle(&self, inspection: &mut Inspection, sender: u8) -> Ruling {
        parts::settle(self, &Carried { bytes: self, at: 0, len: 0 }, inspection, sender)
    }
    /// [`Before::of`]: asked apart, so that what is read does not depend on it.
    #[inline(always)]
    fn on_begin(&self, flow: &SocketFlow, sender: u8) -> Before {
        Before::of(&flow.inspection, sender)
    }
    /// [`parts::tell`].
    #[inline(always)]
    fn on_tell(
        &self,
        flow: &SocketFlow,
        sender: u8,
        part: (u32, u32, u32),
        before: Before,
        ruling: u32,
    ) -> bool {
        parts::tell(self, flow, sender, part, before, ruling)
    }
    /// [`parts::ask`].
    #[inline(always)]
    fn on_ask(&self, flow: &mut SocketFlow, control: &Control) -> Ruling {
        parts::ask(self, flow, control)
    }
    /// [`parts::conclude`].
    #[inline(always)]
    fn on_conclude(&self, flow: &mut SocketFlow, ruling: Ruling) -> Finding {
        parts::conclude(|key| self.classed(key), flow, ruling)
    }
    /// [`parts::found`].
    #[inline(always)]
    fn on_found(&self, state: &State, finding: Finding) -> Verdict {
        parts::found(self, state, finding)
    }
    /// [`parts::content`].
    #[inline(always)]
    fn on_content(&self, state: &State) -> Verdict {
        parts::content(self, state)
    }
    /// [`parts::examine`].
    #[inline(always)]
    fn on_examine(&self, state: &State, known: &Known, read: &mut Datagrams) -> Finding {
        parts::examine(self, state, known, read)
    }
    /// Hands a datagram that may be of an opening to the daemon, or counts its loss.
    #[inline(always)]
    fn on_opening(&self, _state: &State, _known: &Known, _read: &mut Datagrams) {}
    /// [`datagram::datagram`] of the payload of `len` bytes at offset `at`.
    #[inline(always)]
    fn on_payload(&self, (at, len): (u32, u32), conversation: &mut Conversation, sender: u8) -> Ruling {
        datagram::datagram(conversation, sender, &Carried { bytes: self, at, len })
    }
    /// [`parts::told`].
    #[inline(always)]
    fn on_told(&self, state: &State, known: &Known, content: Content, finding: Finding) -> Verdict {
        parts::told(self, state, known, content, finding.to_code())
    }
    /// [`parts::icmp_error`].
    #[inline(always)]
    fn on_icmp_error(&self, state: &State) -> Outcome {
        parts::icmp_error(self, state)
    }
    /// [`parts::anomaly`].
    #[inline(always)]
    fn on_anomaly(&self, state: &State, reason: Reason) -> Verdict {
        parts::anomaly(self, state, reason)
    }
    /// [`parts::account`].
    #[inline(always)]
    fn account(&self, state: &State, decision: &Decision, own: &Workload, telling: Telling) -> u32 {
        parts::account(self, state, decision, own, telling)
    }
    /// Puts a socket on the list of those that the agent ends: [`parts::doomed`].
    fn doom(&self, state: &State, cookie: u64, netns: u64, whose: Whose, reason: Reason);
    /// [`parts::enter`].
    #[inline(always)]
    fn enter(&self, state: &State, peer: &Workload, decision: &Decision, entry: Entry) -> bool {
        parts::enter(self, state, peer, decision, entry)
    }
}
