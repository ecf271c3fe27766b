//! TLS records that come before their turn, under `require`.
//!
//! A segment that is dropped because one before it is missing looks like loss to its sender; where the
//! network or its receiver's processors change the order all the time, nothing is left of the throughput.
//! But a program gets no byte before it has got all bytes before it. So a segment may go on early, to wait
//! in TCP's own queue, as long as whatever fills the hole before it is judged for both: what fills the hole
//! is refused when the two do not fit together, and the connection ends before the program sees either.
//!
//! What was in a segment that went on is not to be had again. It is judged when it comes, with a claim about
//! what nobody knows yet, where in it a record's header stands: at this place, and from there on one header
//! after the other ([`Payload::chain`]); or nowhere. When the stream has been read up to it, [`settle`] holds
//! the claim against where the header must really be. A wrong claim would end an honest connection, so one is
//! made only where there is hardly a doubt:
//!
//! - what is missing lies inside a record whose header was read: then it is known where the next one is;
//! - the segment goes on where another one ended;
//! - nothing in the segment looks like a header ([`Payload::likely`]);
//! - the first place in it that looks like one is where the next header stands if all records are as long as
//!   the last one was, or the records from there on lead to another header. Of random bytes, one in some ten
//!   millions does.
//!
//! Anything else is held back, as are more than [`Ahead::SPANS`] stretches at once, whatever is of no TLS that
//! is followed already, and a segment that overlaps one that went on: TCP may put the newer bytes in place of
//! the older ones, which nobody would read. Bytes that come in their turn win over those that came early, in
//! TCP's queue as here; what is left of a stretch then counts only if its claim still tells where to go on.

use bulkhead_abi::{
    Inspection, Reason,
    inspect::{Ahead, Early},
};

use super::{
    Cursor, Payload, Ruling,
    codes::{mark, mode},
    head::{Head, ROOM},
    ruling::refuse,
    stream::{load, side, side_mut},
    tls,
};

/// Whether a segment that comes before its turn may go on; what is claimed of it is kept.
#[inline(always)]
pub fn pass(payload: &impl Payload, inspection: &Inspection, ahead: &mut Ahead, cursor: &Cursor) -> bool {
    let own = side(inspection, cursor.sender);
    let (seq, len) = (cursor.seq, cursor.len);
    let gap = seq.wrapping_sub(own.next);
    let is_followed = own.state == mode::RECORDS && own.marks & mark::REPLAY == 0;
    if !is_followed || !(LEAST..=MOST).contains(&len) || gap == 0 || gap > FAR {
        return false;
    }
    let place = payload.find_place(ahead, own.next, gap, len);
    if place == NO_PLACE {
        return false;
    }
    let mut early = Early { start: seq, end: seq, first: 0, next: seq, head: [0; 4] };
    if place & GOES_ON != 0
        && let Some(before) = ahead.spans.get(place as usize & (Ahead::SPANS - 1))
    {
        early = *before;
    } else {
        early.head = load(payload, 0).u32_at::<0>().to_be_bytes();
    }
    let record = own.record.wrapping_sub(own.next);
    let size = u32::from(own.spent);
    // Where the next header should be, from this segment's first byte on, and whether that is known.
    let (expected, known) = if early.next != early.start {
        (early.next.wrapping_sub(seq), true)
    } else if own.header_have != 0 || record > FAR {
        (len, false)
    } else if record >= gap {
        (record - gap, true)
    } else if size != 0 {
        (size - 1 - (gap - record - 1) % size, false)
    } else {
        (len, false)
    };
    let at = if known { expected } else { payload.likely() };
    if at < len {
        let chain = payload.chain(at);
        let (end, headers) = (chain as u32, chain >> 32);
        if headers == 0 || !(known || at == expected || headers > 1) {
            return false;
        }
        if early.next == early.start {
            early.first = seq.wrapping_add(at);
        }
        early.next = seq.wrapping_add(end);
    } else if at == UNSEEN {
        return false;
    }
    early.end = seq.wrapping_add(len);
    match ahead.spans.get_mut(place as usize & (Ahead::SPANS - 1)) {
        Some(span) => *span = early,
        None => return false,
    }
    true
}

/// The stream was read up to `own.next`: goes over what went on ahead from there, if the claims hold.
#[inline(always)]
pub fn settle(payload: &impl Payload, inspection: &mut Inspection, ahead: &mut Ahead, sender: u32) -> Ruling {
    for _ in 0..Ahead::SPANS {
        let next = side(inspection, sender).next;
        let found = payload.find_due(ahead, next);
        if found == NO_PLACE {
            return Ruling::Pass;
        }
        if found == NONE_LEFT {
            inspection.flags &= !Inspection::FLAG_AHEAD;
            return Ruling::Pass;
        }
        let Some(span) = ahead.spans.get_mut(found as usize & (Ahead::SPANS - 1)) else { break };
        let early = *span;
        span.end = span.start;
        if payload.join(inspection, &early, sender) == 0 {
            return refuse(inspection, Reason::Unclassified);
        }
    }
    Ruling::Pass
}

/// Goes over one stretch; 0 where its claim does not hold.
#[inline(always)]
pub fn join(inspection: &mut Inspection, early: &Early, sender: u32) -> u32 {
    let own = side_mut(inspection, sender);
    let (next, end) = (own.next, early.end);
    if end.wrapping_sub(next).wrapping_sub(1) > FAR {
        // It came again in its turn.
        return 1;
    }
    if own.state != mode::RECORDS || own.marks & mark::REPLAY != 0 {
        return 0;
    }
    if own.header_have != 0 {
        if next != early.start {
            return 0;
        }
        let have = u32::from(own.header_have);
        let [a, b, c, d, e, ..] = own.header;
        let [f, g, h, i] = early.head;
        let begun = Head::new([a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], have);
        let header =
            begun.with(Head::new([f, g, h, i, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 4).first(5 - have));
        if !tls::is_record(header) {
            return 0;
        }
        let len = tls::record_len(header);
        (own.record, own.spent) = (next.wrapping_sub(have).wrapping_add(len), len as u16);
        own.header_have = 0;
    }
    let record = own.record;
    if end.wrapping_sub(record).wrapping_sub(1) > FAR {
        // It lies inside a record.
        own.next = end;
        return 1;
    }
    if early.next == early.start || record != early.first {
        return 0;
    }
    (own.record, own.next) = (early.next, end);
    1
}

/// [`find_place`]: of a stretch that ends where the segment begins.
const GOES_ON: u32 = 0x100;
/// There is none.
pub const NO_PLACE: u32 = 0x200;
/// [`find_due`]: nothing is ahead any more.
const NONE_LEFT: u32 = 0x201;

/// What is shorter is held back: it may be too short for the rest of a header that began before it.
const LEAST: u32 = 8;
/// No segment is longer.
const MOST: u32 = 1 << 20;
/// What lies further ahead of what was read is nothing that TCP takes. A place behind looks like one far
/// ahead: sequence numbers go round.
const FAR: u32 = 1 << 30;

/// Where to keep what is claimed of a segment that begins `gap` behind `next`: the number of a stretch that it
/// goes on, with [`GOES_ON`], or of a free one; [`NO_PLACE`] where there is none, or where it overlaps one.
///
/// Computed without a branch, as all that goes over the stretches: the verifier would walk every combination.
#[inline(always)]
pub fn find_place(ahead: &Ahead, next: u32, gap: u32, len: u32) -> u32 {
    let (mut free, mut goes_on, mut overlaps) = (0, 0, 0);
    for (number, span) in (0u32..).zip(&ahead.spans) {
        let (start, end) = (span.start.wrapping_sub(next), span.end.wrapping_sub(next));
        let used = differ(start, end);
        free |= (used ^ 1) << number;
        goes_on |= (used & (differ(end, gap) ^ 1)) << number;
        overlaps |= used & below(start, gap + len) & below(gap, end);
    }
    if overlaps != 0 {
        NO_PLACE
    } else if goes_on != 0 {
        lowest(goes_on) | GOES_ON
    } else if free != 0 {
        lowest(free)
    } else {
        NO_PLACE
    }
}

/// A stretch that begins at `next` or before; [`NO_PLACE`] where there is none, [`NONE_LEFT`] where nothing at
/// all is ahead.
#[inline(always)]
pub fn find_due(ahead: &Ahead, next: u32) -> u32 {
    let (mut any, mut due) = (0, 0);
    for (number, span) in (0u32..).zip(&ahead.spans) {
        let used = differ(span.start, span.end);
        any |= used;
        due |= (used & (next.wrapping_sub(span.start) >> 31 ^ 1)) << number;
    }
    if due != 0 {
        lowest(due)
    } else if any != 0 {
        NO_PLACE
    } else {
        NONE_LEFT
    }
}

/// 1 where two numbers are not the same, else 0.
#[inline(always)]
const fn differ(a: u32, b: u32) -> u32 {
    (((a ^ b) as u64 + u32::MAX as u64) >> 32) as u32
}

/// 1 where the first number is less than the second, else 0.
#[inline(always)]
const fn below(a: u32, b: u32) -> u32 {
    ((a as u64).wrapping_sub(b as u64) >> 63) as u32
}

/// The number of the lowest bit that is set.
#[inline(always)]
const fn lowest(mask: u32) -> u32 {
    (mask & mask.wrapping_neg()).wrapping_sub(1).count_ones() & (Ahead::SPANS as u32 - 1)
}

/// How many records of one segment are followed.
const RECORDS: u32 = 64;

/// Follows the records from the header at the offset `at` to the end of the segment: how many headers there are,
/// and in the lower half the offset of the header behind them; 0 where there is none at a place where one must
/// be, or where one is cut in two.
#[inline(always)]
pub fn chain(payload: &impl Payload, at: u32) -> u64 {
    let mut at = at;
    for headers in 0..RECORDS {
        if at >= payload.len() {
            return u64::from(headers) << 32 | u64::from(at);
        }
        let header = load(payload, at).first(5);
        if header.have() < 5 || !tls::is_record(header) {
            return 0;
        }
        at += tls::record_len(header);
    }
    0
}

/// [`likely`]: it was not looked at to its end.
pub const UNSEEN: u32 = u32::MAX;
/// How many bytes of each piece may be a header's first: the rest of what tells one must be in sight.
const SEEN: u32 = ROOM - 2;
/// How many pieces are looked at at once.
const PIECES: u32 = 16;
/// How many times that: more than the longest record.
const BLOCKS: u32 = 84;

/// The first place in a segment that looks like a header, be it one that goes on behind it; its length where none
/// does; [`UNSEEN`] where it is too long for that to be a record's inside.
#[inline(always)]
pub fn likely(payload: &impl Payload) -> u32 {
    let mut at = 0;
    for _ in 0..BLOCKS {
        if at >= payload.len() {
            return payload.len();
        }
        let found = payload.likely_within(at);
        if found != UNSEEN {
            return found;
        }
        at += SEEN * PIECES;
    }
    UNSEEN
}

/// The same of some bytes from `at` on; [`UNSEEN`] where nothing does.
#[inline(always)]
pub fn likely_within(payload: &impl Payload, at: u32) -> u32 {
    let mut at = at;
    for _ in 0..PIECES {
        let found = load(payload, at).likely_record(SEEN);
        if found != 0 {
            return at + found - 1;
        }
        at += SEEN;
    }
    UNSEEN
}
