//! The bytes of a flow of datagrams that is allowed: whether each is what its rule asks for.
//!
//! What [`super::inspected`] does for streams. There is no order to follow, so each datagram is judged by
//! itself and by what was seen of its flow; nothing is held, and a refused one is dropped. Its flow lives
//! on: nobody can end one, and the next datagram is refused as well.
//!
//! Two hooks may read datagrams of one flow at once. What they keep of it may then be of either of them:
//! under `require` that can refuse what would have been accepted, never the other way around, because a
//! datagram that fits nothing is refused by itself.

use bulkhead_abi::{FlowState, Identity, Inspection, Protocol, SocketFlow, Tls, Verdict, inspect::Datagrams};

use super::{
    Finding, Hook, Judged, Outcome, Slot, State, is_owned,
    reading::{self, Known},
};
use crate::{
    inspect::{self, Ruling, datagram},
    packet::{Bytes, Kind},
    report::Content,
};

/// Looks at a datagram whose flow was just judged, or at a packet whose IP protocol tells how it is encrypted.
#[inline(always)]
pub(super) fn after<H: Hook>(hook: &H, state: &State, judged: Judged) -> Judged {
    let passes = matches!(judged.outcome, Outcome::Verdict(verdict) if verdict.passes());
    if !passes || state.kind != Kind::Datagram || !inspect::is_looked_at(state.protocol) {
        return judged;
    }
    match hook.on_content(state) {
        Verdict::Deny => judged.refused(),
        _ => judged,
    }
}

/// Looks at a datagram of a flow that passes. One of which nothing is kept is of nobody's business: no
/// zone is at either end, or the node has not begun to enforce.
#[inline(always)]
pub fn content<H: Hook>(hook: &H, state: &State) -> Verdict {
    if is_owned(hook, state) {
        let Some(slot) = hook.owned() else { return Verdict::Allow };
        return slot.update(|flow| {
            if flow.flags & (SocketFlow::FLAG_TABLED | SocketFlow::FLAG_DEFERRED) != 0 {
                return Verdict::Allow;
            }
            look(hook, state, &Known::of(flow), &mut flow.datagrams)
        });
    }
    let Some(slot) = hook.tabled(&state.key) else { return Verdict::Allow };
    slot.update(|flow| {
        if flow.tag != state.key.tag() || flow.to == Identity::VIRTUAL {
            return Verdict::Allow;
        }
        let opener = (flow.flags & FlowState::FLAG_OPENER_LOW != 0) == state.local_is_low();
        let local = flow.flags & FlowState::FLAG_LOCAL != 0;
        let known = Known {
            from: flow.from.0,
            to: flow.to.0,
            rule: flow.rule,
            reason: flow.reason,
            opener: u8::from(opener),
            // As the flow itself is counted.
            elsewhere: u8::from(if opener { local } else { !local && flow.opener.is_known() }),
            shared: u8::from(local),
        };
        look(hook, state, &known, &mut flow.datagrams)
    })
}

#[inline(always)]
fn look<H: Hook>(hook: &H, state: &State, known: &Known, read: &mut Datagrams) -> Verdict {
    if read.reading.settled != 0 && read.reading.asked == state.control.generation {
        return Verdict::Allow;
    }
    let verdict = match hook.on_examine(state, known, read) {
        Finding::Passes => Verdict::Allow,
        Finding::Held => Verdict::Deny,
        finding => {
            let Datagrams { reading, conversation } = &*read;
            let content = Content { class: conversation.class, app: conversation.app, level: reading.level };
            hook.on_told(state, known, content, finding)
        }
    };
    if verdict != Verdict::Deny && known.elsewhere == 0 && datagram::may_be_told(&read.conversation) {
        hook.on_opening(state, known, read);
    }
    verdict
}

/// Reads a datagram.
#[inline(always)]
pub fn examine<H: Hook>(hook: &H, state: &State, known: &Known, read: &mut Datagrams) -> Finding {
    let mut ruling = Ruling::Pass;
    if read.reading.asked != state.control.generation {
        ruling = ask(hook, state, known, read);
    }
    let Datagrams { reading, conversation } = read;
    if reading.settled != 0 {
        return Finding::Passes;
    }
    if ruling == Ruling::Pass {
        ruling = if state.protocol == Protocol::UDP {
            let leaves = u8::from(state.leaves());
            let sender = u8::from(known.opener != leaves);
            hook.on_payload(payload(hook, state), conversation, sender)
        } else {
            let mut next = [0u8; 1];
            let _ = hook.load(state.transport, &mut next);
            datagram::enclosed(conversation, inspect::class_of(state.protocol, next[0]))
        };
    }
    let strict = Tls::from_code(conversation.level) >= Tls::Require;
    let is_known = inspect::is_settled(conversation.phase);
    if !strict && is_known && !datagram::may_be_told(conversation) {
        conversation.phase = Inspection::DONE;
    }
    // The end that counts has not seen it yet.
    let unseen = known.shared != 0 && known.elsewhere != 0;
    reading.settled = u8::from(conversation.phase == Inspection::DONE && !unseen);
    if ruling == Ruling::Pass && !is_known {
        return Finding::Passes;
    }
    let reason = reading::reason(ruling, reading, strict, || datagram::accepted(conversation));
    let refused = ruling != Ruling::Pass;
    reading::conclude(
        |key| hook.classed(key),
        known,
        reading,
        (conversation.class, conversation.app),
        refused,
        reason,
    )
}

/// Asks what the flow's rule wants in this generation; what comes of it for a flow that is known already.
#[inline(always)]
fn ask<H: Hook>(hook: &H, state: &State, known: &Known, read: &mut Datagrams) -> Ruling {
    let port = if known.opener != 0 { state.remote().port } else { state.local().port };
    let service = (state.protocol, port);
    let Some(demand) = reading::demand(hook, &state.control, known, service, &mut read.reading) else {
        return Ruling::Pass;
    };
    match read.conversation.phase {
        // What the rules of another generation refused is nobody's any more.
        Inspection::FRESH | Inspection::REFUSED => {
            read.conversation = inspect::conversation(demand);
            Ruling::Pass
        }
        _ => datagram::judge_again(&mut read.conversation, demand),
    }
}

/// Where a UDP datagram's payload stands, and how long it is: of a packet whose header says something
/// else, all that is there.
#[inline(always)]
pub fn payload<H: Bytes>(hook: &H, state: &State) -> (u32, u32) {
    const HEADER: u32 = 8;
    let at = state.transport.saturating_add(HEADER);
    let rest = hook.len().saturating_sub(at);
    let mut field = [0u8; 2];
    let said = match hook.load(state.transport.saturating_add(4), &mut field) {
        2 => u32::from(u16::from_be_bytes(field)).saturating_sub(HEADER),
        _ => 0,
    };
    (at, if said == 0 || said > rest { rest } else { said })
}
