//! The bytes of a stream whose flow is allowed: whether what they say is what its rule asks for.
//!
//! [`crate::inspect`] reads, [`reading`] asks and tells; here is what a socket adds to that: where its stream
//! begins, and that the connection ends which is refused.
//!
//! Fails closed where a rule demands encryption: a segment that cannot be placed or read is dropped
//! without a word, and its sender repeats it; a stream whose beginning was not seen is unknown.

use bulkhead_abi::{
    Class, Control, Direction, Inspection, Protocol, Reason, SocketFlow, Tls, Verdict, inspect::ClassKey,
};

use super::{
    Finding, Hook, Judged, Outcome, Slot, Socket, State, Whose,
    reading::{self, Known, is_opener},
};
use crate::{
    inspect::{self, Cursor, Payload, Ruling, ahead, datagram::Readers, ruling, stream},
    packet::{Bytes, Span},
    report::{self, Content},
    tables::Tables,
};

/// Looks at what a segment carries, of a flow that is allowed in this generation.
#[inline(always)]
pub fn inspect<H: Hook>(hook: &H, owned: &H::Owned, control: &Control, direction: Direction) -> Finding {
    if direction == Direction::Ingress && owned.read(|flow| is_followed_by_sender(flow, control)) {
        return Finding::Passes;
    }
    // What the long way can read and this cannot does not exist.
    let Some(span) = hook.span() else { return Finding::Held };
    // Where this end's own direction begins is seen in its SYN; of the other one, TCP itself says it, which
    // does not believe everybody.
    let begins = span.begins() && direction == Direction::Egress;
    if (span.len == 0 && !begins && !span.is_urgent() && !span.ends())
        || owned.read(|flow| flow.reading.settled != 0)
    {
        return Finding::Passes;
    }
    if !hook.lock(owned) {
        // Another processor reads a segment of this flow.
        return if owned.read(is_strict) { Finding::Held } else { Finding::Passes };
    }
    let finding = owned.update(|flow| look(hook, flow, control, direction, &span));
    hook.unlock(owned);
    finding
}

/// Looks at a segment whose flow was just judged.
#[inline(always)]
pub(super) fn after<H: Hook>(hook: &H, state: &State, judged: Judged) -> Judged {
    if !hook.reads_streams()
        || !state.is_stream()
        || !matches!(judged.outcome, Outcome::Verdict(verdict) if verdict.passes())
    {
        return judged;
    }
    let Some(owned) = hook.owned() else { return judged };
    // A reset of a flow that is denied passes, too.
    if !owned.read(|flow| Verdict::from_code(flow.verdict).passes() && flow.reading.settled == 0) {
        return judged;
    }
    match hook.on_inspect(&owned, &state.control, state.direction) {
        Finding::Passes => judged,
        Finding::Held => judged.held(),
        finding => match hook.on_found(state, finding) {
            Verdict::Deny => judged.refused(),
            _ => judged,
        },
    }
}

/// What becomes of a segment of a flow whose verdict stands, when its bytes said something.
#[inline(always)]
pub(super) fn tell<H: Hook>(hook: &H, direction: Direction, finding: Finding) -> Verdict {
    if finding == Finding::Held {
        return Verdict::Deny;
    }
    let mut state = State::new(hook.control(), direction, Socket::Other);
    hook.on_prepare(&mut state);
    hook.on_found(&state, finding)
}

/// Tells what was found in a flow, and ends one that is refused.
#[inline(always)]
pub fn found<H: Hook>(hook: &H, state: &State, finding: Finding) -> Verdict {
    let Some(owned) = hook.owned() else { return Verdict::Deny };
    let (mut known, mut content) = (Known::default(), Content::NONE);
    owned.read(|flow| {
        known = Known::of(flow);
        let inspection = &flow.inspection;
        content = Content { class: inspection.class, app: inspection.app, level: flow.reading.level };
    });
    let verdict = hook.on_told(state, &known, content, finding);
    let Finding::Refused(reason) = finding else { return verdict };
    let slot = report::slot_of(&state.policy(hook), &known.decision(Verdict::Deny, reason));
    owned.update(|flow| {
        (flow.verdict, flow.reason, flow.slot) = (Verdict::Deny as u8, reason as u8, slot);
    });
    let cookie = hook.cookie();
    if cookie != 0 {
        hook.doom(state, cookie, hook.netns(), Whose::Ours, reason);
    }
    Verdict::Deny
}

#[inline(always)]
fn look<H: Hook>(
    hook: &H,
    flow: &mut SocketFlow,
    control: &Control,
    direction: Direction,
    span: &Span,
) -> Finding {
    let leaves = direction == Direction::Egress;
    let sender = if is_opener(flow) == leaves { 0 } else { 1 };
    let mut ruling = Ruling::Pass;
    if flow.inspection.class == Class::Mutual as u8 {
        // Between a program and the proxy: told by how it goes.
        (flow.reading.level, flow.reading.settled) = (Tls::Mutual as u8, 1);
        return hook.on_conclude(flow, Ruling::Pass);
    }
    if flow.reading.asked != control.generation {
        ruling = hook.on_ask(flow, control);
    }
    if flow.reading.settled != 0 {
        return Finding::Passes;
    }
    let before = hook.on_begin(flow, sender);
    if ruling == Ruling::Pass && flow.inspection.phase <= Inspection::FOLLOWING {
        ruling = read(hook, flow, direction, sender, span);
        if span.ends() {
            stream::end(&mut flow.inspection);
        }
    }
    let more = hook.on_tell(flow, sender, (span.at, span.len, span.seq), before, ruling.code());
    flow.reading.settled = u8::from(flow.inspection.phase == Inspection::DONE && !more);
    match ruling {
        Ruling::Hold => Finding::Held,
        Ruling::Pass if !inspect::is_settled(flow.inspection.phase) => Finding::Passes,
        _ => hook.on_conclude(flow, ruling),
    }
}

/// What is counted, by `classed`, and what is to be told, of a flow whose class is known.
#[inline(always)]
pub fn conclude(classed: impl FnOnce(&ClassKey) -> bool, flow: &mut SocketFlow, ruling: Ruling) -> Finding {
    let (known, strict) = (Known::of(flow), is_strict(flow));
    let SocketFlow { reading, inspection, .. } = flow;
    let reason = reading::reason(ruling, reading, strict, || ruling::accepted(inspection));
    let refused = ruling != Ruling::Pass;
    reading::conclude(classed, &known, reading, (inspection.class, inspection.app), refused, reason)
}

/// Asks what the flow's rule wants in this generation; what comes of it for a flow that is known already.
#[inline(always)]
pub fn ask<T: Tables>(tables: &T, flow: &mut SocketFlow, control: &Control) -> Ruling {
    let known = Known::of(flow);
    let port = if known.opener != 0 { flow.peer_port } else { flow.local_port };
    let service = (Protocol(flow.protocol), port);
    let Some(demand) = reading::demand(tables, control, &known, service, &mut flow.reading) else {
        return Ruling::Pass;
    };
    if flow.inspection.phase == Inspection::FRESH {
        inspect::demand(&mut flow.inspection, demand);
        return Ruling::Pass;
    }
    inspect::judge_again(&mut flow.inspection, demand)
}

/// Whether what comes in is stopped where it goes out: the flow is TLS on both ends' word, its rule is enforced,
/// and the other end is on this node, whose hook reads every byte in order. Here it would be the same once more;
/// and on a host whose processors hand segments over side by side they overtake each other, and each would be
/// held back as if one before it were lost. Where nothing is stopped, the end that counts reads everything.
#[inline(always)]
fn is_followed_by_sender(flow: &SocketFlow, control: &Control) -> bool {
    is_strict(flow)
        && flow.inspection.phase == Inspection::FOLLOWING
        && flow.inspection.class == Class::Tls as u8
        && flow.peer.is_known()
        && flow.flags & SocketFlow::FLAG_READ != 0
        && flow.reading.asked == control.generation
}

/// Reads a segment.
#[inline(always)]
fn read<H: Hook>(hook: &H, flow: &mut SocketFlow, direction: Direction, sender: u8, span: &Span) -> Ruling {
    let strict = is_strict(flow);
    // Bytes that its receiver may take out of the stream, and bytes that belong elsewhere in another one.
    if strict && (span.is_urgent() || (span.has_options() && hook.is_multipath(span))) {
        return ruling::refuse(&mut flow.inspection, Reason::Unclassified);
    }
    let begun = Inspection::FLAG_BEGUN << sender;
    if flow.inspection.flags & begun == 0 {
        flow.inspection.flags |= begun;
        let start = if span.begins() { Some(span.seq) } else { hook.stream_start(direction) };
        match start {
            Some(start) => stream::begin(&mut flow.inspection, sender, start),
            None => stream::begin_within(&mut flow.inspection, sender, span.seq),
        }
    }
    if span.len == 0 {
        return Ruling::Pass;
    }
    let part = (span.at, span.len);
    let ruling = hook.on_segment(part, &mut flow.inspection, sender, span.seq);
    // What leaves, leaves in order. Asked anew: what is remembered over calls takes room on the stack.
    if !is_strict(flow) || direction == Direction::Egress {
        return ruling;
    }
    let has_more = flow.inspection.flags & Inspection::FLAG_AHEAD != 0;
    match ruling {
        Ruling::Hold if hook.on_early(part, &mut flow.inspection, sender, span.seq) => Ruling::Pass,
        Ruling::Pass if has_more => hook.on_settle(&mut flow.inspection, sender),
        ruling => ruling,
    }
}

/// Whether a segment that comes before its turn may go on. Only where TCP waits for no more than was read:
/// what stands between would else be its program's already, and nobody would read it.
#[inline(always)]
pub fn early<H: Hook>(
    hook: &H,
    payload: &impl Payload,
    inspection: &mut Inspection,
    cursor: &Cursor,
) -> bool {
    let read = stream::read_to(inspection, cursor.sender);
    if hook.received().is_none_or(|received| read.wrapping_sub(received) >> 31 != 0) {
        return false;
    }
    let Some(ahead) = hook.ahead() else { return false };
    let passes = ahead.update(|ahead| ahead::pass(payload, inspection, ahead, cursor));
    if passes {
        inspection.flags |= Inspection::FLAG_AHEAD;
    }
    passes
}

/// Reads on over what went on early, behind a segment that came in its turn.
#[inline(always)]
pub fn settle<H: Hook>(hook: &H, payload: &impl Payload, inspection: &mut Inspection, sender: u8) -> Ruling {
    match hook.ahead() {
        Some(ahead) => ahead.update(|ahead| ahead::settle(payload, inspection, ahead, sender.into())),
        None => ruling::refuse(inspection, Reason::Unclassified),
    }
}

/// Whether what is not accepted is stopped.
#[inline(always)]
fn is_strict(flow: &SocketFlow) -> bool {
    Tls::from_code(flow.inspection.level) >= Tls::Require
}

impl<B: Bytes> Readers for Carried<'_, B> {}

/// What a packet carries.
pub(super) struct Carried<'a, B> {
    pub(super) bytes: &'a B,
    pub(super) at: u32,
    pub(super) len: u32,
}

impl<B: Bytes> Payload for Carried<'_, B> {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> u32 {
        if offset >= self.len {
            return 0;
        }
        let read = self.bytes.load(self.at.saturating_add(offset), buffer);
        // What stands behind the packet's own end is no payload.
        read.min(self.len - offset)
    }
}
