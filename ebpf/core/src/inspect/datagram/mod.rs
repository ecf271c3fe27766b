//! UDP: datagram by datagram, each judged by its first bytes and its length.
//!
//! What is encrypted is told by its handshake, and from then on every datagram has to fit it; what is not
//! is told by [`clear`]. RTP is told by neither: SRTP has the same header.

mod clear;
mod dtls;
mod ipsec;
mod opening;
mod quic;
mod text;
mod wireguard;

use bulkhead_abi::{Accept, App, Class, Conversation, Inspection, Reason, Tls};

use super::{
    Payload, Ruling,
    head::{Head, ROOM},
};

pub use opening::{is_told, may_be_told};

/// The functions behind the methods of [`Readers`].
pub mod leaves {
    pub use super::clear::{attributes, metrics, numbers, tunnels, words};
}

/// The readers of a datagram, each by itself, so that the kernel crate can put each into a function that is
/// verified by itself. Each gives what only this module reads, and 0 for nothing.
pub trait Readers: Payload {
    /// Protocols with a header of their own.
    #[inline(always)]
    fn numbers(&self) -> u32 {
        clear::numbers(self)
    }

    /// Packets in packets.
    #[inline(always)]
    fn tunnels(&self) -> u32 {
        clear::tunnels(self)
    }

    /// Protocols of attributes.
    #[inline(always)]
    fn attributes(&self) -> u32 {
        clear::attributes(self)
    }

    /// Protocols of words.
    #[inline(always)]
    fn words(&self) -> u32 {
        clear::words(self)
    }

    /// Metrics, text of any kind, and what is told last.
    #[inline(always)]
    fn metrics(&self) -> u32 {
        clear::metrics(self)
    }
}

impl Readers for &[u8] {}

/// Reads a datagram's payload, and rules on it. `sender` is 0 for the opener, 1 for the receiver.
#[inline(always)]
pub fn datagram(conversation: &mut Conversation, sender: u8, payload: &impl Readers) -> Ruling {
    match encrypted(conversation, sender, payload) {
        Some(ruling) => ruling,
        None => otherwise(conversation, sender, payload),
    }
}

/// The first half of [`datagram`]: whether it is of something encrypted. `None` leaves it to [`otherwise`];
/// the kernel crate calls one after the other, so that not both need room at once.
#[inline(always)]
pub fn encrypted(conversation: &mut Conversation, sender: u8, payload: &impl Readers) -> Option<Ruling> {
    let len = payload.len();
    match conversation.phase {
        _ if len == 0 => return Some(Ruling::Pass),
        Inspection::DONE => return Some(Ruling::Pass),
        Inspection::REFUSED => return Some(Ruling::Refuse(Reason::from_code(conversation.memory))),
        _ => {}
    }
    let view = View::of(payload);
    let from = 1 << (sender & 1);
    if conversation.phase == Inspection::FOLLOWING {
        return Some(follow(conversation, from, &view, payload));
    }
    conversation.phase = Inspection::READING;
    let kept = conversation.memory;
    let said = [
        quic::opening(&view),
        dtls::opening(&view, kept, from),
        wireguard::opening(&view, kept, from, payload),
        ipsec::opening(&view, payload),
    ];
    for said in said {
        match said {
            Said::Nothing => {}
            Said::Begins(memory) => return Some(begins(conversation, memory)),
            Said::Is { class, memory, version } => return Some(is(conversation, class, memory, version)),
        }
    }
    None
}

/// The second half of [`datagram`]: which protocol it is of.
#[inline(always)]
pub fn otherwise(conversation: &mut Conversation, sender: u8, payload: &impl Readers) -> Ruling {
    unclear(conversation, 1 << (sender & 1), clear::look(payload))
}

/// Rules on a packet whose class its IP protocol tells.
#[inline(always)]
pub fn enclosed(conversation: &mut Conversation, class: Class) -> Ruling {
    match conversation.phase {
        Inspection::DONE => Ruling::Pass,
        Inspection::REFUSED => Ruling::Refuse(Reason::from_code(conversation.memory)),
        _ => is(conversation, class, 0, 0),
    }
}

/// There was a datagram that nobody could read: it passes where unread ones do.
#[inline(always)]
pub fn unread(conversation: &mut Conversation) -> Ruling {
    if is_strict(conversation) { refuse(conversation, Reason::Unclassified) } else { Ruling::Pass }
}

/// A datagram of which the first bytes were read.
struct View {
    len: u32,
    /// The first sixteen bytes.
    head: Head,
    /// The sixteen behind them.
    next: Head,
}

impl View {
    #[inline(always)]
    fn of(payload: &impl Payload) -> Self {
        Self { len: payload.len(), head: piece(payload, 0), next: piece(payload, ROOM) }
    }

    /// Whether everything that was read is text, and enough of it was.
    #[inline(always)]
    fn is_text(&self) -> bool {
        self.len >= 28 && self.head.is_text() && self.next.is_text()
    }
}

/// Sixteen bytes of a datagram, or fewer.
#[inline(always)]
fn piece(payload: &impl Payload, at: u32) -> Head {
    super::stream::load(payload, at)
}

/// What a datagram is of a conversation of which nothing is known yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    /// Not of this protocol.
    Nothing,
    /// It may be the beginning of it; what is to be kept of that.
    Begins(u8),
    /// It is of this class. `version` is the minor number of TLS that compares with it, or 0 where the
    /// class has no old versions.
    Is { class: Class, memory: u8, version: u8 },
}

/// What [`Conversation::memory`] keeps while nothing is known: in the low half, how many datagrams came; in
/// the upper half, what the last one that was promising may begin, and who sent it.
mod memory {
    /// How many datagrams may come before nothing more is expected of them.
    pub(super) const MOST: u8 = 15;
    /// A DTLS ClientHello came from this sender (1 the opener, 2 the receiver).
    pub(super) const DTLS: u8 = 0x40;
    /// A WireGuard initiation did.
    pub(super) const WIREGUARD: u8 = 0x80;
    /// A CoAP request did.
    pub(super) const COAP: u8 = 0xc0;

    /// What is kept of it.
    #[inline(always)]
    pub(super) const fn keep(what: u8, from: u8) -> u8 {
        what | (from << 4)
    }

    /// Whether the other end than `from` was heard beginning it.
    #[inline(always)]
    pub(super) const fn is_answer(kept: u8, what: u8, from: u8) -> bool {
        kept & 0xf0 == what | ((3 - from) << 4)
    }
}

#[inline(always)]
fn is_strict(conversation: &Conversation) -> bool {
    Tls::from_code(conversation.level) == Tls::Require
}

#[inline(always)]
fn refuse(conversation: &mut Conversation, reason: Reason) -> Ruling {
    conversation.phase = Inspection::REFUSED;
    conversation.memory = reason as u8;
    Ruling::Refuse(reason)
}

/// What must be accepted of a class.
#[inline(always)]
const fn wanted(class: Class) -> Accept {
    match class {
        Class::Quic => Accept::QUIC,
        Class::Dtls => Accept::DTLS,
        Class::WireGuard => Accept::WIREGUARD,
        Class::Ipsec => Accept::IPSEC,
        _ => Accept::NONE,
    }
}

/// Whether the rule accepts what is known of the conversation.
#[inline(always)]
pub fn accepted(conversation: &Conversation) -> Result<(), Reason> {
    match Class::from_code(conversation.class) {
        Class::Clear => Err(Reason::ClearText),
        Class::Unknown if conversation.accept.contains(Accept::UNKNOWN) => Ok(()),
        Class::Unknown => Err(Reason::Unclassified),
        class if conversation.accept.intersects(wanted(class)) => Ok(()),
        _ => Err(Reason::WeakEncryption),
    }
}

/// The rule of a live conversation has changed, see [`super::judge_again`].
#[inline(always)]
pub fn judge_again(conversation: &mut Conversation, new: bulkhead_abi::Demand) -> Ruling {
    conversation.accept = new.accept;
    conversation.level = new.level as u8;
    conversation.floor = new.floor;
    let open = conversation.phase == Inspection::FRESH
        || (conversation.phase == Inspection::READING && conversation.class != Class::Clear as u8);
    if !is_strict(conversation) || open {
        return Ruling::Pass;
    }
    match accepted(conversation) {
        Ok(()) => Ruling::Pass,
        Err(reason) => refuse(conversation, reason),
    }
}

/// The datagram may be the beginning of something encrypted, which needs the other end to be told.
#[inline(always)]
fn begins(conversation: &mut Conversation, kept: u8) -> Ruling {
    let class = if kept & 0xc0 == memory::DTLS { Class::Dtls } else { Class::WireGuard };
    let accept = wanted(class).or(Accept::UNKNOWN);
    if is_strict(conversation) && !conversation.accept.intersects(accept) {
        return refuse(conversation, Reason::WeakEncryption);
    }
    conversation.memory = (conversation.memory & memory::MOST) | kept;
    Ruling::Pass
}

/// The class is known.
#[inline(always)]
fn is(conversation: &mut Conversation, class: Class, memory: u8, version: u8) -> Ruling {
    conversation.class = class as u8;
    conversation.app = App::Unknown as u8;
    conversation.memory = memory;
    let level = Tls::from_code(conversation.level);
    let follows = matches!(level, Tls::Report | Tls::Require) || opening::is_long(class);
    conversation.phase = if follows { Inspection::FOLLOWING } else { Inspection::DONE };
    if !is_strict(conversation) {
        return Ruling::Pass;
    }
    let too_old = version != 0 && version < if conversation.floor < 3 { conversation.floor } else { 3 };
    match accepted(conversation) {
        Ok(()) if !too_old => Ruling::Pass,
        Ok(()) => refuse(conversation, Reason::WeakEncryption),
        Err(reason) => refuse(conversation, reason),
    }
}

/// The datagram is nothing encrypted that is known. `found` is what [`look`] said.
#[inline(always)]
fn unclear(conversation: &mut Conversation, from: u8, found: u32) -> Ruling {
    let strict = is_strict(conversation);
    let app = App::from_code(found as u8);
    let kind = found & 0xff00;
    let number = (found >> clear::NUMBER) as u8;
    let kept = conversation.memory;
    // Of a request, half a byte of its number is kept instead of how many datagrams came.
    let answered =
        kind == clear::ANSWER && memory::is_answer(kept, memory::COAP, from) && kept & memory::MOST == number;
    if kind == clear::IS || answered {
        conversation.class = Class::Clear as u8;
        conversation.app = app as u8;
        conversation.phase = Inspection::DONE;
        return if strict { refuse(conversation, Reason::ClearText) } else { Ruling::Pass };
    }
    if kind == clear::LIKELY {
        // Encryption may follow (WebRTC asks its way by STUN).
        conversation.class = Class::Clear as u8;
        conversation.app = app as u8;
        if strict {
            return refuse(conversation, Reason::ClearText);
        }
        if number & 3 != 0 {
            // Of what is repeated until somebody answers one in four is counted.
            return Ruling::Pass;
        }
    }
    if found == 0 {
        // What follows those may be anything.
        conversation.class = Class::Unknown as u8;
    }
    if kind == clear::HIDDEN {
        (conversation.class, conversation.app) = (Class::Unknown as u8, app as u8);
    }
    if strict && !conversation.accept.contains(Accept::UNKNOWN) {
        return refuse(conversation, Reason::Unclassified);
    }
    let request = memory::keep(memory::COAP, from) | number;
    // Where both ends are here, each reads it.
    if kind == clear::REQUEST && (kept == 0 || kept == request) {
        conversation.memory = request;
        return Ruling::Pass;
    }
    // Nobody else answers so.
    let kept = if kept & 0xc0 == memory::COAP { 0 } else { kept };
    let count = kept & memory::MOST;
    if count == memory::MOST || kind == clear::HIDDEN {
        conversation.phase = Inspection::DONE;
        return Ruling::Pass;
    }
    conversation.memory = (kept & 0xf0) | (count + 1);
    Ruling::Pass
}

/// The class is known: whether the datagram fits it.
#[inline(always)]
fn follow(conversation: &mut Conversation, from: u8, view: &View, payload: &impl Payload) -> Ruling {
    let class = Class::from_code(conversation.class);
    let fits = match class {
        Class::Quic => quic::fits(view, &mut conversation.memory, from),
        Class::Dtls => dtls::fits(view, payload),
        Class::WireGuard => wireguard::fits(view),
        Class::Ipsec => ipsec::fits(view, payload),
        _ => true,
    };
    if fits {
        if opening::is_over(conversation, view.head) {
            opening::end(conversation);
        }
        return Ruling::Pass;
    }
    if Tls::from_code(conversation.level) == Tls::Off {
        // Nobody asked more than how it begins.
        conversation.phase = Inspection::DONE;
        return Ruling::Pass;
    }
    conversation.class = Class::Clear as u8;
    if is_strict(conversation) {
        let reason = if view.head.is_text() { Reason::ClearText } else { Reason::Unclassified };
        return refuse(conversation, reason);
    }
    conversation.phase = Inspection::DONE;
    if !view.head.is_text() {
        conversation.class = Class::Unknown as u8;
    }
    Ruling::Pass
}
