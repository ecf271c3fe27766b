//! What a flow's first bytes say, and whether its rule accepts that.
//!
//! [`stream`] reads TCP, [`datagram`] UDP; the caller knows the flow, the sequence numbers and the rule's
//! [`Demand`]. Nothing is ever guessed: a class is named when the bytes leave no other, ports are no
//! evidence, and what cannot be told stays [`Class::Unknown`].
//!
//! Under [`Tls::Require`] a segment passes only as long as everything read so far, in both directions, is
//! still the beginning of something that the rule accepts; the first byte that is not refuses the segment
//! that carries it, and the flow for good. Below `require` nothing is refused and nothing held.
//!
//! Everything runs in the kernel: no allocation, no recursion, every loop with a constant bound, all state
//! in [`Inspection`]. What is heavy for the verifier is behind a method of [`Payload`], so that the kernel
//! crate can put each into a function that is verified by itself.

pub mod ahead;
mod clear;
mod codes;
pub mod datagram;
mod head;
mod opening;
mod records;
pub(crate) mod ruling;
mod starttls;
pub mod stream;
mod tls;
mod wrap;

use bulkhead_abi::{
    Class, Conversation, Demand, Inspection, Protocol, Reason, Tls,
    inspect::{Ahead, Early},
};

/// The functions behind [`Payload`]'s methods.
pub mod leaves {
    pub use super::{
        ahead::{NO_PLACE, UNSEEN, chain, find_due, find_place, join, likely, likely_within},
        clear::{
            binary_answer, binary_request, dialogue_answer, dialogue_request, late_binary_request,
            likely_request, paired, paired_answer, text_answer, text_request,
        },
        opening::{fits_client, fits_old_server, fits_server, fits_ssh, judge, look, may_turn, opening},
        records::{ident, packets, records},
        starttls::{allow, answer, ask, lines, skip},
        stream::{enter, step, steps},
        wrap::wrapping,
    };
}

/// What a segment or a datagram carries.
#[expect(clippy::len_without_is_empty, reason = "an empty one is never looked at")]
pub trait Payload: Sized {
    /// How many bytes.
    fn len(&self) -> u32;

    /// Copies the bytes from `offset` into the front of `buffer`, as many as there are, and tells how
    /// many; 0 when none could be read.
    fn load<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> u32;

    /// Reads of [`stream::segment`]: finds what of the segment is new.
    #[inline(always)]
    fn enter(&self, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
        stream::enter(self, inspection, cursor)
    }

    /// Takes some steps of [`stream::segment`].
    #[inline(always)]
    fn steps(&self, inspection: &mut Inspection, cursor: &mut Cursor, next: u32) -> u32 {
        stream::steps(self, inspection, cursor, next)
    }

    /// Chooses the reader of the direction's state.
    #[inline(always)]
    fn step(&self, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
        stream::step(self, inspection, cursor)
    }

    /// Takes first bytes.
    #[inline(always)]
    fn opening(&self, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
        opening::opening(self, inspection, cursor)
    }

    /// Judges them: encrypted, or a dialogue.
    #[inline(always)]
    fn judge(&self, inspection: &mut Inspection, sender: u32, fits: u32) -> u32 {
        opening::judge(inspection, sender, fits)
    }

    /// Compares first bytes with what [`Payload::judge`] looks for, as the methods behind it do.
    #[inline(always)]
    fn fits_client(&self, inspection: &mut Inspection, sender: u32) -> u32 {
        opening::fits_client(inspection, sender)
    }

    #[doc(hidden)]
    #[inline(always)]
    fn fits_server(&self, inspection: &mut Inspection, sender: u32) -> u32 {
        opening::fits_server(inspection, sender)
    }

    #[doc(hidden)]
    #[inline(always)]
    fn fits_ssh(&self, inspection: &mut Inspection, sender: u32) -> u32 {
        opening::fits_ssh(inspection, sender)
    }

    #[doc(hidden)]
    #[inline(always)]
    fn fits_old_server(&self, inspection: &mut Inspection, sender: u32) -> u32 {
        opening::fits_old_server(inspection, sender)
    }

    #[doc(hidden)]
    #[inline(always)]
    fn may_turn(&self, inspection: &mut Inspection, sender: u32) -> u32 {
        opening::may_turn(inspection, sender)
    }

    /// Judges them: clear text.
    #[inline(always)]
    fn look(&self, inspection: &mut Inspection, sender: u32, found: u32) -> u32 {
        opening::look(inspection, sender, found)
    }

    /// Looks for a family of protocols in first bytes, as the methods behind it do.
    #[inline(always)]
    fn dialogue_request(&self, inspection: &mut Inspection) -> u32 {
        clear::dialogue_request(inspection)
    }

    #[doc(hidden)]
    #[inline(always)]
    fn binary_request(&self, inspection: &mut Inspection) -> u32 {
        clear::binary_request(inspection)
    }

    #[doc(hidden)]
    #[inline(always)]
    fn late_binary_request(&self, inspection: &mut Inspection) -> u32 {
        clear::late_binary_request(inspection)
    }

    #[doc(hidden)]
    #[inline(always)]
    fn text_request(&self, inspection: &mut Inspection) -> u32 {
        clear::text_request(inspection)
    }

    #[doc(hidden)]
    #[inline(always)]
    fn likely_request(&self, inspection: &mut Inspection) -> u32 {
        clear::likely_request(inspection)
    }

    #[doc(hidden)]
    #[inline(always)]
    fn paired(&self, inspection: &mut Inspection) -> u32 {
        clear::paired(inspection)
    }

    #[doc(hidden)]
    #[inline(always)]
    fn dialogue_answer(&self, inspection: &mut Inspection) -> u32 {
        clear::dialogue_answer(inspection)
    }

    #[doc(hidden)]
    #[inline(always)]
    fn text_answer(&self, inspection: &mut Inspection) -> u32 {
        clear::text_answer(inspection)
    }

    #[doc(hidden)]
    #[inline(always)]
    fn binary_answer(&self, inspection: &mut Inspection) -> u32 {
        clear::binary_answer(inspection)
    }

    #[doc(hidden)]
    #[inline(always)]
    fn paired_answer(&self, inspection: &mut Inspection) -> u32 {
        clear::paired_answer(inspection)
    }

    /// Goes over a message.
    #[inline(always)]
    fn skip(&self, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
        starttls::skip(self, inspection, cursor)
    }

    /// Goes over what is looked through.
    #[inline(always)]
    fn wrapping(&self, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
        wrap::wrapping(self, inspection, cursor)
    }

    /// Takes bytes of a line.
    #[inline(always)]
    fn lines(&self, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
        starttls::lines(self, inspection, cursor)
    }

    /// Judges a server's line.
    #[inline(always)]
    fn answer(&self, inspection: &mut Inspection, sender: u32) -> u32 {
        starttls::answer(inspection, sender)
    }

    /// Judges a client's line: whether it may pass.
    #[inline(always)]
    fn allow(&self, inspection: &mut Inspection, sender: u32) -> u32 {
        starttls::allow(inspection, sender)
    }

    /// Judges a client's line: what it asks for.
    #[inline(always)]
    fn ask(&self, inspection: &mut Inspection, sender: u32) -> u32 {
        starttls::ask(inspection, sender)
    }

    /// Follows TLS records.
    #[inline(always)]
    fn records(&self, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
        records::records(self, inspection, cursor)
    }

    /// Goes to the end of an SSH identification.
    #[inline(always)]
    fn ident(&self, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
        records::ident(self, inspection, cursor)
    }

    /// [`ahead::find_place`].
    #[inline(always)]
    fn find_place(&self, ahead: &Ahead, next: u32, gap: u32, len: u32) -> u32 {
        ahead::find_place(ahead, next, gap, len)
    }

    /// [`ahead::find_due`].
    #[inline(always)]
    fn find_due(&self, ahead: &Ahead, next: u32) -> u32 {
        ahead::find_due(ahead, next)
    }

    /// [`ahead::chain`].
    #[inline(always)]
    fn chain(&self, at: u32) -> u64 {
        ahead::chain(self, at)
    }

    /// [`ahead::likely`].
    #[inline(always)]
    fn likely(&self) -> u32 {
        ahead::likely(self)
    }

    /// [`ahead::likely_within`].
    #[inline(always)]
    fn likely_within(&self, at: u32) -> u32 {
        ahead::likely_within(self, at)
    }

    /// [`ahead::join`].
    #[inline(always)]
    fn join(&self, inspection: &mut Inspection, early: &Early, sender: u32) -> u32 {
        ahead::join(inspection, early, sender)
    }

    /// Follows SSH packets.
    #[inline(always)]
    fn packets(&self, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
        records::packets(self, inspection, cursor)
    }
}

/// Bytes in memory.
impl Payload for &[u8] {
    #[inline(always)]
    fn len(&self) -> u32 {
        <[u8]>::len(self) as u32
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> u32 {
        let rest = self.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(N);
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        count as u32
    }
}

/// How far a segment was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Cursor {
    /// Sequence number of the first byte of the payload.
    pub seq: u32,
    /// Offset in the payload of the byte to read next.
    pub at: u32,
    /// Length of the payload.
    pub len: u32,
    /// Who sends: 0 the opener, 1 the receiver.
    pub sender: u32,
}

/// What becomes of a segment or a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "bytes that nobody stops are delivered"]
pub enum Ruling {
    /// It passes.
    Pass,
    /// It is dropped without a word: something before it is missing, and its sender will repeat it. Only
    /// under [`Tls::Require`], only TCP.
    Hold,
    /// It contradicts what the rule accepts: the flow ends here.
    Refuse(Reason),
}

impl Ruling {
    /// As a number, for a function that hands it over in a register.
    #[inline(always)]
    pub const fn code(self) -> u32 {
        match self {
            Self::Pass => 0,
            Self::Hold => 1,
            Self::Refuse(reason) => 256 | reason as u32,
        }
    }

    /// The ruling with this code; any other refuses.
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Pass,
            1 => Self::Hold,
            _ => Self::Refuse(Reason::from_code(code as u8)),
        }
    }
}

/// Sets what the rule wants of a flow, before its first segment is read. Of a flow that is being read, or
/// was, see [`judge_again`].
#[inline(always)]
pub fn demand(inspection: &mut Inspection, demand: Demand) {
    inspection.accept = demand.accept;
    inspection.level = demand.level as u8;
    inspection.floor = demand.floor;
}

/// The rule of a live flow has changed: sets the new demand, and says whether what is known of the flow
/// contradicts it. Of a flow whose class is known no more is asked than its class: its records are not
/// followed when they were not before, because nobody knows where the next one begins.
#[inline(always)]
pub fn judge_again(inspection: &mut Inspection, new: Demand) -> Ruling {
    let was_strict = ruling::is_strict(inspection);
    demand(inspection, new);
    if !was_strict && new.level == Tls::Require {
        stream::miss(inspection);
    }
    let class = Class::from_code(inspection.class);
    if new.level != Tls::Require || inspection.phase == Inspection::FRESH {
        return Ruling::Pass;
    }
    if inspection.phase == Inspection::READING && !matches!(class, Class::Clear | Class::StartTls) {
        return Ruling::Pass;
    }
    match ruling::accepted(inspection) {
        Ok(()) => Ruling::Pass,
        Err(reason) => ruling::refuse(inspection, reason),
    }
}

/// Whether what can be found out about the flow has been: its class will not change any more.
#[inline(always)]
pub const fn is_settled(phase: u8) -> bool {
    matches!(phase, Inspection::FOLLOWING | Inspection::DONE | Inspection::REFUSED)
}

/// The class of a packet whose IP protocol alone tells it, and whose header begins with the byte `next`.
///
/// ESP is encrypted (RFC 4303): which cipher was agreed on, if any (RFC 2410), stands in no packet. AH is not
/// (RFC 4302): it shows who sent a packet, and leaves the packet in clear; what it carries is the first byte of
/// its header, and that may be ESP.
#[inline(always)]
pub const fn class_of(protocol: Protocol, next: u8) -> Class {
    match (protocol, next) {
        (Protocol::ESP, _) | (Protocol::AH, 50) => Class::Ipsec,
        (Protocol::AH, _) => Class::Clear,
        _ => Class::Unknown,
    }
}

/// Whether the bytes of a packet that is no stream's are looked at.
#[inline(always)]
pub const fn is_looked_at(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::UDP | Protocol::ESP | Protocol::AH)
}

/// The state of a UDP flow of which nothing is known but what its rule wants.
#[inline(always)]
pub const fn conversation(demand: Demand) -> Conversation {
    Conversation {
        accept: demand.accept,
        level: demand.level as u8,
        floor: demand.floor,
        class: 0,
        app: 0,
        phase: 0,
        memory: 0,
    }
}
