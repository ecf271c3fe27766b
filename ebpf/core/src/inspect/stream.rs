//! TCP: the bytes of both directions, each read once and in order.
//!
//! [`segment`] finds by sequence number what of a segment is new and lets the reader of the direction's
//! state go over it, piece by piece, until nothing is left; each reader is a small function of its own.
//! What was read before is skipped. Of what came twice only the kept bytes are compared: a sender that
//! gets a segment past the inspection, but not to the receiver (by a wrong checksum), and repeats other
//! bytes later in the stream works with the receiver against the rule, and could as well encrypt.

use bulkhead_abi::{Accept, Class, Inspection, Reason, inspect::Stream};

use super::{
    Cursor, Payload, Ruling,
    codes::{code, mark, mode},
    head::{Head, ROOM},
    opening,
    records::AT_ONCE,
    ruling::{is_strict, refusal, refuse},
};

/// Tells where a direction begins: `first` is the sequence number of its first payload byte, one more than
/// that of its SYN. Without it the direction is taken to be seen from somewhere in its middle.
///
/// What the other direction said may have chosen this one's reader already (a server's greeting begins a
/// dialogue of both), so that only a direction of which nothing was read has its beginning set.
#[inline(always)]
pub fn begin(inspection: &mut Inspection, sender: u8, first: u32) {
    let own = side_mut(inspection, sender.into());
    if own.next != own.start || own.have != 0 {
        return;
    }
    if own.state == mode::UNSEEN {
        own.state = mode::OPENING;
    }
    own.start = first;
    own.next = first;
}

/// Tells that a direction is seen from its middle, `seq`, on: whatever its reader was to be, it does not know
/// where in a message it stands.
#[inline(always)]
pub fn begin_within(inspection: &mut Inspection, sender: u8, seq: u32) {
    inspection.flags |= Inspection::FLAG_MIDSTREAM;
    if is_strict(inspection) && !inspection.accept.contains(Accept::UNKNOWN) {
        side_mut(inspection, sender.into()).state = mode::UNSEEN;
    } else if side(inspection, sender.into()).state != mode::UNSEEN {
        begin(inspection, sender, seq);
    }
}

/// Tells that a direction ends: of clear text of which only the answer would say what it is, none will come.
#[inline(always)]
pub fn end(inspection: &mut Inspection) {
    if inspection.phase == Inspection::READING && inspection.class == Class::Clear as u8 {
        inspection.phase = Inspection::DONE;
    }
}

/// Reads a segment whose payload begins at sequence number `seq`, and rules on it. `sender` is 0 for the
/// opener, 1 for the receiver.
#[inline(always)]
pub fn segment(inspection: &mut Inspection, sender: u8, seq: u32, payload: &impl Payload) -> Ruling {
    let len = payload.len();
    if inspection.phase == Inspection::DONE || len == 0 {
        return Ruling::Pass;
    }
    if inspection.phase == Inspection::REFUSED {
        return Ruling::Refuse(refusal(inspection));
    }
    let mut cursor = Cursor { seq, at: 0, len, sender: sender.into() };
    match payload.enter(inspection, &mut cursor) {
        code::AGAIN => {}
        code::END => return Ruling::Pass,
        other => return Ruling::from_code(other),
    }
    let mut next = code::AGAIN;
    for _ in 0..ROUNDS {
        next = payload.steps(inspection, &mut cursor, next);
        match next {
            code::AGAIN | code::JUDGE | code::LOOK | code::LINE => {}
            code::END => {
                let own = side_mut(inspection, cursor.sender);
                if own.state == mode::OPENING {
                    // There is no room for more of it.
                    own.next = cursor.seq.wrapping_add(cursor.len);
                }
                return Ruling::Pass;
            }
            other => return Ruling::from_code(other),
        }
    }
    // More than an honest sender puts into a segment. Whoever is not stopped is no longer followed.
    if is_strict(inspection) {
        return refuse(inspection, Reason::Unclassified);
    }
    inspection.phase = Inspection::DONE;
    Ruling::Pass
}

/// [`STEPS`] steps of [`segment`], from what the last one said on; what the last of these says.
#[inline(always)]
pub fn steps(payload: &impl Payload, inspection: &mut Inspection, cursor: &mut Cursor, last: u32) -> u32 {
    let mut next = last;
    for _ in 0..STEPS {
        next = match next {
            code::AGAIN => payload.step(inspection, cursor),
            code::JUDGE => {
                let fits = opening::compare(payload, inspection, cursor.sender);
                payload.judge(inspection, cursor.sender, fits)
            }
            code::LOOK => {
                let found = opening::find(payload, inspection, cursor.sender);
                payload.look(inspection, cursor.sender, found)
            }
            code::LINE if cursor.sender != 0 => payload.answer(inspection, cursor.sender),
            code::LINE => match payload.allow(inspection, cursor.sender) {
                code::AGAIN => payload.ask(inspection, cursor.sender),
                other => other,
            },
            other => return other,
        };
        if inspection.phase == Inspection::DONE {
            return Ruling::Pass.code();
        }
    }
    next
}

/// Where in the direction's TLS opening (its ClientHello, or its ServerHello and what follows) the byte
/// with this sequence number stands; `None` where no TLS opening was found in this direction.
#[inline(always)]
pub fn hello_offset(inspection: &Inspection, sender: u8, seq: u32) -> Option<u32> {
    let hello = hello(inspection, sender);
    let offset = seq.wrapping_sub(hello.start);
    if !hello.is_known() || inspection.phase == Inspection::REFUSED || offset >> 31 != 0 {
        return None;
    }
    Some(offset)
}

/// Sequence number up to which the direction of `sender` was read.
#[inline(always)]
pub fn read_to(inspection: &Inspection, sender: u32) -> u32 {
    side(inspection, sender).next
}

/// What is known of a direction's TLS opening.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Sequence number of its first byte.
    pub start: u32,
    marks: u32,
}

impl Hello {
    /// Whether there is one.
    #[inline(always)]
    pub const fn is_known(self) -> bool {
        self.marks != 0
    }

    /// Whether it is a ClientHello's.
    #[inline(always)]
    pub const fn is_client(self) -> bool {
        self.marks & mark::CLIENT as u32 != 0
    }
}

/// The TLS opening of the direction of `sender`.
#[inline(always)]
pub fn hello(inspection: &Inspection, sender: u8) -> Hello {
    let own = side(inspection, sender.into());
    Hello { start: own.start, marks: u32::from(own.marks & (mark::CLIENT | mark::SERVER)) }
}

/// Finds where in the segment the new bytes begin.
#[inline(always)]
pub fn enter(payload: &impl Payload, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
    let strict = is_strict(inspection);
    if inspection.phase == Inspection::FRESH {
        inspection.phase = Inspection::READING;
    }
    let sender = cursor.sender;
    if side(inspection, sender).state == mode::UNSEEN {
        inspection.flags |= Inspection::FLAG_MIDSTREAM;
        if strict && !inspection.accept.contains(Accept::UNKNOWN) {
            return refuse(inspection, Reason::Unclassified).code();
        }
        begin(inspection, sender as u8, cursor.seq);
    }
    let class = inspection.class;
    let own = side_mut(inspection, sender);
    if own.state == mode::FREE {
        return code::END;
    }
    let early = cursor.seq.wrapping_sub(own.next);
    let inside = own.record.wrapping_sub(own.next);
    // Of records under `require` it is kept what went on early: see [`super::ahead`].
    let framed = (own.state == mode::PACKETS || (own.state == mode::RECORDS && !strict))
        && own.marks & mark::REPLAY == 0;
    if framed && own.header_have == 0 && inside >> 31 == 0 && early <= inside {
        // What is missing lies inside a record, where nothing is read.
        own.next = cursor.seq;
    }
    let old = own.next.wrapping_sub(cursor.seq);
    if old >> 31 != 0 {
        if strict {
            return Ruling::Hold.code();
        }
        own.gaps = own.gaps.saturating_add(1);
        if own.gaps >= GAPS {
            inspection.phase = Inspection::DONE;
        }
        return code::END;
    }
    if strict && old != 0 && own.have != 0 && !repeats(payload, own, cursor) {
        return refuse(inspection, Reason::Unclassified).code();
    }
    if old >= cursor.len {
        return code::END;
    }
    cursor.at = old;
    // An opening that is still to come begins ahead.
    let read = own.next.wrapping_sub(own.start);
    let enough = if class == Class::Clear as u8 { UNANSWERED } else { ENOUGH };
    let open = class == Class::Unknown as u8 || class == Class::Clear as u8;
    if !strict && open && read > enough && read >> 31 == 0 {
        inspection.phase = Inspection::DONE;
        return code::END;
    }
    code::AGAIN
}

/// Whether what a segment repeats of the kept bytes is what was kept.
#[inline(always)]
fn repeats(payload: &impl Payload, own: &Stream, cursor: &Cursor) -> bool {
    let ahead = own.start.wrapping_sub(cursor.seq);
    // Where the segment's bytes meet the kept ones: at an offset in the segment, or in what is kept.
    let (offset, at) = if ahead >> 31 == 0 { (ahead, 0) } else { (0, ahead.wrapping_neg()) };
    if at >= ROOM || offset >= cursor.len {
        return true;
    }
    Head::of(own).agrees(load(payload, offset), at)
}

/// Reads on from where the cursor stands, by what the direction is in. What it returns is for [`segment`]
/// alone.
#[inline(always)]
pub fn step(payload: &impl Payload, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
    let own = side(inspection, cursor.sender);
    if cursor.at >= cursor.len && own.marks & mark::REPLAY == 0 && own.state != mode::OPENING {
        return code::END;
    }
    match own.state {
        mode::OPENING => payload.opening(inspection, cursor),
        mode::SKIP => payload.skip(inspection, cursor),
        mode::PROXY | mode::HEADERS => payload.wrapping(inspection, cursor),
        mode::LINES => payload.lines(inspection, cursor),
        mode::RECORDS => {
            for _ in 0..AT_ONCE {
                let said = payload.records(inspection, cursor);
                if said != code::AGAIN || cursor.at >= cursor.len || inspection.phase == Inspection::DONE {
                    return said;
                }
            }
            code::AGAIN
        }
        mode::IDENT => payload.ident(inspection, cursor),
        mode::PACKETS => payload.packets(inspection, cursor),
        _ => code::END,
    }
}

/// How many steps are taken at once. [`ROUNDS`] times that is what a segment may take: some for every
/// sixteen bytes of a dialogue, one for [`records::AT_ONCE`](super::records::AT_ONCE) records.
const STEPS: u32 = 32;
/// See [`STEPS`].
const ROUNDS: u32 = 32;
/// After so many segments with something missing before them, it will not come any more.
const GAPS: u8 = 16;
/// A direction of so many bytes, and still unknown, stays so.
const ENOUGH: u32 = 1 << 16;
/// One of so many bytes of clear text is what it was taken for: nobody answers who could put that right.
const UNANSWERED: u32 = 1 << 11;

/// From now on every byte counts, and where some were missing while it did not matter nobody knows where a
/// message begins: what is known of the flow stays, and a direction that was still being read is one that was
/// not seen from its beginning. Waiting for those bytes would be for ever, they are delivered.
#[inline(always)]
pub(super) fn miss(inspection: &mut Inspection) {
    let [opener, receiver] = &mut inspection.streams;
    if opener.gaps | receiver.gaps == 0 {
        return;
    }
    match inspection.phase {
        Inspection::FOLLOWING => inspection.phase = Inspection::DONE,
        Inspection::READING => {
            for stream in [opener, receiver] {
                if stream.gaps != 0 {
                    stream.state = mode::UNSEEN;
                }
            }
        }
        _ => {}
    }
}

/// The direction of this sender.
#[inline(always)]
pub(super) fn side(inspection: &Inspection, sender: u32) -> &Stream {
    let [opener, receiver] = &inspection.streams;
    if sender == 0 { opener } else { receiver }
}

/// The direction of this sender, to change it.
#[inline(always)]
pub(super) fn side_mut(inspection: &mut Inspection, sender: u32) -> &mut Stream {
    let [opener, receiver] = &mut inspection.streams;
    if sender == 0 { opener } else { receiver }
}

/// The bytes of a payload from `offset` on.
#[inline(always)]
pub(super) fn load(payload: &impl Payload, offset: u32) -> Head {
    let mut bytes = [0; ROOM as usize];
    let have = payload.load(offset, &mut bytes);
    Head::new(bytes, have)
}

/// The next bytes that a reader has not seen: kept ones first.
#[inline(always)]
pub(super) fn ahead(payload: &impl Payload, own: &Stream, cursor: &Cursor) -> Head {
    if own.marks & mark::REPLAY != 0 { Head::of(own) } else { load(payload, cursor.at) }
}

/// Takes the first `count` of them away.
#[inline(always)]
pub(super) fn consume(own: &mut Stream, cursor: &mut Cursor, count: u32) {
    if own.marks & mark::REPLAY == 0 {
        return advance(own, cursor, count);
    }
    let rest = Head::of(own).behind(count);
    rest.keep(own);
    own.start = own.start.wrapping_add(count);
    if rest.have() == 0 {
        own.marks &= !mark::REPLAY;
    }
}

/// The sequence number of the first of them.
#[inline(always)]
pub(super) fn position(own: &Stream) -> u32 {
    if own.marks & mark::REPLAY != 0 { own.next.wrapping_sub(own.have.into()) } else { own.next }
}

/// Counts bytes of the segment as read.
#[inline(always)]
pub(super) fn advance(own: &mut Stream, cursor: &mut Cursor, count: u32) {
    cursor.at += count;
    own.next = own.next.wrapping_add(count);
}

/// An opening begins `count` bytes behind what is kept.
#[inline(always)]
pub(super) fn restart(own: &mut Stream, count: u32) {
    let kept = Head::of(own);
    kept.behind(count).keep(own);
    own.start = own.start.wrapping_add(count);
    own.record = own.start;
    own.marks &= !(mark::REPLAY | mark::ENDED);
    own.state = if count > kept.have() { mode::SKIP } else { mode::OPENING };
    own.spent = 0;
}

/// A reader of its own takes over, beginning with what is kept.
#[inline(always)]
pub(super) fn hand_over(own: &mut Stream, to: u8) {
    own.state = to;
    own.spent = 0;
    own.marks &= !(mark::REPLAY | mark::ENDED);
    if own.have != 0 {
        own.marks |= mark::REPLAY;
    }
}
