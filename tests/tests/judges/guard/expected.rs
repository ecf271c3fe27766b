//! What must become of a frame: the guard, read out slowly over the oracle. Shares nothing with the
//! guard's code but the numbers in the mark.

mod answers;
mod back;
mod fragments;

use std::collections::{BTreeMap, HashMap};

use bulkhead_abi::{Addr, FlowKey, Identity, Protocol, Reason, Verdict};
use bulkhead_policy::Endpoint;
use bulkhead_policy::oracle::Party;

use super::lanes::{Behind, Packet, Reads};
use super::view::{BACK, FROM_WIRE, JUDGED, UNMARKED, View, Who};
use crate::policy::{Asked, Decision};

/// What must become of a frame.
#[derive(Clone, Debug)]
pub struct Expected {
    pub passes: bool,
    /// The number in the guard's part of the mark when it goes on.
    pub mark: u32,
    /// What counts it, and whether it counts as a flow too: more than one where more than one looks at it.
    pub counted: Vec<(Decision, bool)>,
    /// The sentences that decided, in order.
    pub why: Vec<&'static str>,
}

/// What is remembered.
#[derive(Default)]
pub struct Book {
    flows: HashMap<FlowKey, Kept>,
    denied: HashMap<FlowKey, u64>,
    first: HashMap<(Addr, Addr, u32), fragments::First>,
    /// Whether ever a flow has begun whose opener is in a zone and has no socket.
    pub routes: bool,
    /// A sentence that led to the one that decides.
    before: Option<&'static str>,
    /// What is left for receivers' socket layers: the flow, and whose it is.
    pub handed: BTreeMap<FlowKey, Identity>,
    /// Which end of it opened it, and when.
    openers: HashMap<FlowKey, ((Addr, u16), u64)>,
}

/// A flow that the guard let pass.
#[derive(Clone, Debug)]
struct Kept {
    opener: (Addr, u16),
    receiver: Option<String>,
    /// The opener, if the mark told another than the address.
    told: Option<Identity>,
    /// The opener is in a zone and has no socket.
    routed: bool,
    /// The opener as it was judged last.
    judged: Identity,
    asked: Asked,
    /// Whether somebody else counts it.
    elsewhere: bool,
    number: usize,
    decision: Decision,
    counts: bool,
    answered: bool,
    tcp: Tcp,
    seen: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tcp {
    Opening,
    Open,
    Closing,
    Closed,
}

/// What is decided of a packet: whether it passes, what counts it, why.
type Ruling = (bool, Option<(Decision, bool)>, &'static str);

const PASSES: bool = true;

impl Book {
    /// A frame comes in. `socket` is the cgroup of its sender's, if it has one on this node.
    pub fn comes_in(
        &mut self,
        view: &View<'_>,
        packet: &Packet,
        behind: Behind,
        socket: Option<&str>,
        mark: u32,
    ) -> Expected {
        let mut expected = match socket {
            Some(cgroup) => {
                let (mark, why) = view.mark_of_socket(packet, cgroup);
                Expected { passes: true, mark, counted: Vec::new(), why: vec![why] }
            }
            None => self.by_no_socket(view, packet, behind, mark),
        };
        let back = if expected.passes && self.routes { self.back(view, packet) } else { None };
        if let Some((passes, counted, why)) = back {
            expected.counted.extend(counted);
            expected.why.push(why);
            expected.passes = passes;
            if passes {
                expected.mark = BACK;
            }
        }
        expected
    }

    fn by_no_socket(&mut self, view: &View<'_>, packet: &Packet, behind: Behind, mark: u32) -> Expected {
        let forged = if packet.is_ip() && packet.reads != Reads::Discovery {
            self.forged(view, packet, behind)
        } else {
            None
        };
        let (number, why) = match behind {
            Behind::Wire => (FROM_WIRE, "from a wire"),
            _ => view.mark_of_endpoint(packet),
        };
        let (passes, mark, counted, why) = match forged {
            None => match self.answered(view, packet, behind) {
                None => (true, number, None, why),
                Some((true, counted, why)) => (true, JUDGED, counted, why),
                Some((false, counted, why)) => (false, number, counted, why),
            },
            Some((true, counted, why)) => (true, number, counted, why),
            Some((false, counted, why)) => (false, mark, counted, why),
        };
        Expected { passes, mark, counted: counted.into_iter().collect(), why: vec![why] }
    }

    /// A source that is not the sender's: it belongs to another namespace of this node, or to nobody here
    /// although it means something.
    fn forged(&mut self, view: &View<'_>, packet: &Packet, behind: Behind) -> Option<Ruling> {
        let addr = packet.src.0;
        let link_local = if addr.is_v4() {
            addr.octets()[12..14] == [169, 254]
        } else {
            addr.octets()[0] == 0xfe && addr.octets()[1] & 0xc0 == 0x80
        };
        if link_local || addr.is_unspecified() {
            return None;
        }
        let claimed = view.policy.party(&Endpoint::at(addr));
        let is_zoned = matches!(claimed, Party::Zones(_));
        let forged = match (behind, view.around.locals.get(&addr)) {
            (Behind::Known(netns), Some(owner)) => *owner != netns,
            (_, Some(_)) => true,
            (Behind::Known(_), None) => is_zoned || claimed == Party::Virtual,
            (_, None) => false,
        };
        if !forged {
            return None;
        }
        // One that is in no zone may still be let in as `node` by somebody here.
        let closed = !is_zoned && view.around.locals.contains_key(&packet.dst.0);
        let judged = if closed { Who::Closed(Identity::UNKNOWN) } else { view.at(addr) };
        let packet = &packet.unread();
        let (passes, counted, _) = self.refuse(view, packet, &view.at(addr), &judged, Reason::Spoofed);
        let why = match (&counted, passes) {
            (None, _) => "forged, and nobody's business",
            (Some(_), true) => "forged, in audit",
            (Some(_), false) => "forged",
        };
        Some((passes, counted, why))
    }

    /// A frame leaves. `socket`: its sender has one on this node.
    pub fn goes_out(
        &mut self,
        view: &View<'_>,
        packet: &Packet,
        behind: Behind,
        socket: bool,
        mark: u32,
    ) -> Expected {
        let (passes, counted, why) = self.leaving(view, packet, behind, socket, mark);
        let why = self.before.take().into_iter().chain([why]).collect();
        Expected { passes, mark, counted: counted.into_iter().collect(), why }
    }

    fn leaving(
        &mut self,
        view: &View<'_>,
        packet: &Packet,
        behind: Behind,
        socket: bool,
        mark: u32,
    ) -> Ruling {
        let carried = view.carried(mark);
        if carried.is_none() && socket {
            return (PASSES, None, "of a socket of this node");
        }
        if carried.is_none() && mark == JUDGED && behind != Behind::Nobody {
            return (PASSES, None, "judged, and judged again where it arrives");
        }
        if mark == BACK {
            return (PASSES, None, "on its way back, and judged");
        }
        if !packet.is_ip() || packet.reads == Reads::Discovery {
            return (PASSES, None, "never judged");
        }
        let local = view.around.locals.contains_key(&packet.dst.0);
        if carried.is_none() && (mark == JUDGED || mark == FROM_WIRE) && local {
            return (PASSES, None, "left to the receiver's socket layer");
        }
        let from = view.sender(view.told(mark, packet.src.0), packet.src.0);
        match packet.reads {
            Reads::Refused(reason) => {
                let (passes, counted, _) = self.refuse(view, packet, &from, &from, reason);
                (passes, counted, "options")
            }
            Reads::Later(id, at) => self.later(view, packet, &from, id, at),
            _ => {
                let ruling = self.flow(view, packet, behind, mark);
                if ruling.0 {
                    self.begin_fragments(view, packet, ruling.2.starts_with("a kernel's answer"));
                }
                ruling
            }
        }
    }

    fn flow(&mut self, view: &View<'_>, packet: &Packet, behind: Behind, mark: u32) -> Ruling {
        let from = view.sender(view.told(mark, packet.src.0), packet.src.0);
        if let Reads::Error(quoted, sender) = packet.reads {
            let own = view.around.locals.get(&packet.src.0) == Some(&view.around.host);
            if sender == packet.dst.0 && own && mark == UNMARKED {
                return (PASSES, None, "an error of the node's own");
            }
            if sender == packet.dst.0 && self.is_about_a_live_flow(view, &quoted) {
                return (PASSES, None, "an error about a live flow");
            }
            let (passes, counted, _) = self.refuse(view, packet, &from, &from, Reason::IcmpError);
            return (passes, counted, "an error about nothing");
        }
        if let Some(ruling) = self.known(view, packet, mark) {
            return ruling;
        }
        if packet.resets() {
            return (PASSES, None, "it only ends");
        }
        // The node's own kernel, which came in by no interface.
        if mark == UNMARKED
            && view.around.locals.get(&packet.src.0) == Some(&view.around.host)
            && let Some(ruling) = self.answer(view, packet)
        {
            return ruling;
        }
        if matches!(packet.reads, Reads::Segment { opens: false, .. } | Reads::EchoReply) {
            let (passes, counted, _) = self.refuse(view, packet, &from, &from, Reason::Stray);
            return (passes, counted, "a stray");
        }
        self.open(view, packet, behind, mark)
    }

    /// What an error quotes.
    fn is_about_a_live_flow(&self, view: &View<'_>, quoted: &FlowKey) -> bool {
        let lives = |flow: &Kept| flow.lives(quoted, view.now) && flow.decision.verdict().passes();
        self.flows.get(quoted).is_some_and(lives)
    }

    /// A packet of a flow that is known. A connection that was answered is not opened again: that is
    /// another. So is what an endpoint sends behind a translation, if it was not one that began it.
    fn known(&mut self, view: &View<'_>, packet: &Packet, mark: u32) -> Option<Ruling> {
        let key = packet.key();
        let mut flow = self.flows.remove(&key)?;
        let lives = flow.lives(&key, view.now) && !(packet.opens() && flow.tcp != Tcp::Opening);
        let ours = lives && !(flow.opener == packet.src && flow.is_anothers(view, packet, mark));
        if lives && !ours {
            self.before = Some("translated, to where another's flow was");
        }
        let ruling = ours.then(|| self.of_flow(view, packet, &mut flow, mark));
        self.flows.insert(key, flow);
        let (passes, counted, why) = ruling?;
        Some((passes || packet.resets(), counted, why))
    }

    /// A packet of a flow that is known: as it was judged, or judged again if the policy is another or the
    /// opener is.
    fn of_flow(&mut self, view: &View<'_>, packet: &Packet, flow: &mut Kept, mark: u32) -> Ruling {
        let by_opener = flow.opener == packet.src;
        flow.seen = view.now;
        flow.answered |= !by_opener;
        if let Reads::Segment { finishes, resets, .. } = packet.reads {
            flow.tcp = match flow.tcp {
                _ if resets => Tcp::Closed,
                Tcp::Opening if !by_opener => Tcp::Open,
                Tcp::Opening | Tcp::Open if finishes => Tcp::Closing,
                Tcp::Closing if finishes => Tcp::Closed,
                state => state,
            };
        }
        let told = flow.opener_told(view, mark).filter(|_| by_opener);
        if flow.number == view.number && told.is_none_or(|from| from == flow.judged) {
            let counted = flow.counts.then(|| (flow.decision.clone(), false));
            return (flow.decision.verdict().passes(), counted, "as before");
        }
        let why = if flow.number == view.number { "another opener" } else { "judged again" };
        let from = view.sender(told.or(flow.told), flow.opener.0);
        let target = if by_opener { packet.dst } else { packet.src };
        let to = view.receiver(target.0, flow.receiver.clone());
        let decision = view.judge(&from, &to, packet, target.1, flow.asked);
        let first = decision.verdict() != flow.decision.verdict();
        let counted = self.count(view, packet, &decision, first, flow.elsewhere);
        (flow.number, flow.judged, flow.counts) = (view.number, view.number_of(&from), counted.is_some());
        if flow.told.is_some() {
            flow.told = Some(flow.judged);
        }
        let passes = decision.verdict().passes();
        let lost = flow.decision.verdict().passes() && !passes;
        flow.decision = decision;
        (passes, counted, if lost { "it lost its right" } else { why })
    }

    /// A packet that begins a flow.
    fn open(&mut self, view: &View<'_>, packet: &Packet, behind: Behind, mark: u32) -> Ruling {
        let told = view.told(mark, packet.src.0);
        let translated = told.is_some() && view.carried(mark).is_none();
        let from = view.sender(told, packet.src.0);
        let cgroup = view.listener(packet);
        let to = view.receiver(packet.dst.0, cgroup.clone());
        if !from.is_zoned() && !matches!(to, Party::Zones(_)) && told.is_none() {
            return (PASSES, None, "between ends in no zone");
        }
        let local = view.around.locals.contains_key(&packet.dst.0);
        let wire = behind == Behind::Wire;
        let asked = whose(told.is_some(), mark, local, wire, cgroup.is_some());
        let decision = view.judge(&from, &to, packet, packet.dst.1, asked);
        // Somebody counts it where it arrives, or has where it began.
        let elsewhere = local || (told.is_none() && mark == JUDGED);
        let counted = self.count(view, packet, &decision, true, elsewhere);
        if !decision.verdict().passes() {
            let why = match (matches!(from, Who::Closed(_)), translated) {
                (true, true) => "translated, of nobody known",
                (true, false) => "of nobody known",
                (false, true) => "translated, and denied",
                (false, false) => "denied",
            };
            return (false, counted, why);
        }
        let judged = view.number_of(&from);
        let routed = view.around.endpoint(mark).is_some();
        self.routes |= routed;
        if told.is_some() && !wire {
            self.handed.insert(packet.key(), judged);
            self.openers.insert(packet.key(), (packet.src, view.now));
        }
        let kept = Kept {
            opener: packet.src,
            receiver: cgroup,
            told: told.map(|_| judged),
            routed,
            judged,
            asked,
            elsewhere,
            number: view.number,
            counts: counted.is_some(),
            answered: false,
            tcp: Tcp::Opening,
            seen: view.now,
            decision,
        };
        let why = match (kept.decision.verdict(), told, asked) {
            (Verdict::Audit, ..) => "allowed in audit",
            (_, Some(_), Asked::Both | Asked::Apart) if translated => "translated, and allowed",
            (_, Some(_), _) if translated => "translated, and allowed to go elsewhere",
            (_, Some(_), Asked::Both | Asked::Apart) => "allowed to a virtual address",
            (_, Some(_), _) => "allowed to a virtual address elsewhere",
            (_, None, Asked::Both | Asked::Apart) => "allowed by both sides",
            (_, None, Asked::Opener) => "allowed by the opener's side",
            (_, None, Asked::Receiver) => "allowed by the receiver's side",
        };
        self.flows.insert(packet.key(), kept);
        (PASSES, counted, why)
    }

    /// A packet that no rule judges: by the mode of `judged`, or of the receiver where that is in no zone;
    /// where neither is, it passes.
    fn refuse(
        &mut self,
        view: &View<'_>,
        packet: &Packet,
        from: &Who,
        judged: &Who,
        reason: Reason,
    ) -> Ruling {
        let to = view.at(packet.dst.0);
        let judged = if judged.is_zoned() { judged } else { &to };
        if !judged.is_zoned() {
            return (PASSES, None, "nobody's");
        }
        let (verdict, reason) = match judged {
            Who::Known(party) => view.policy.badness(party, reason),
            Who::Closed(_) => (Verdict::Deny, reason),
        };
        let decision = Decision { label: (view.name(from), view.name(&to), verdict, reason), rule: None };
        let counted = self.count(view, packet, &decision, true, false);
        (verdict.passes(), counted, "refused")
    }

    /// What counts a decision, and whether as a flow: a denied one that comes again soon is the same.
    fn count(
        &mut self,
        view: &View<'_>,
        packet: &Packet,
        decision: &Decision,
        first: bool,
        elsewhere: bool,
    ) -> Option<(Decision, bool)> {
        let fresh = match decision.verdict() {
            verdict if elsewhere && verdict.passes() => return None,
            Verdict::Allow | Verdict::Audit => first,
            Verdict::Deny if !first => false,
            Verdict::Deny => {
                let seen = self.denied.get(&packet.key()).copied();
                let again = seen.is_some_and(|seen| view.now - seen < 35_000_000_000);
                if !again {
                    self.denied.insert(packet.key(), view.now);
                }
                !again
            }
        };
        Some((decision.clone(), fresh))
    }

    /// Forgets all but what was denied, and that there may be something on its way back.
    pub fn clear(&mut self) {
        self.flows.clear();
        self.first.clear();
        self.handed.clear();
        self.openers.clear();
    }
}

/// How long a flow that was not answered lives, where it is no stream.
fn seconds_of(protocol: Protocol) -> u64 {
    match protocol {
        Protocol::UDP | Protocol::UDPLITE | Protocol::ICMP | Protocol::ICMPV6 => 30,
        _ => 600,
    }
}

/// Whose rules are asked: those of the ends that no socket layer asks, here or on another node.
/// `told`: by the mark, who sends; `known`: who receives.
fn whose(told: bool, mark: u32, local: bool, wire: bool, known: bool) -> Asked {
    let has_layer = local || wire;
    match mark {
        // Nobody has been asked, and of another machine's side its own node is.
        _ if told && wire => Asked::Opener,
        _ if told && known => Asked::Both,
        _ if told => Asked::Apart,
        JUDGED => Asked::Receiver,
        FROM_WIRE if !wire => Asked::Receiver,
        FROM_WIRE => Asked::Apart,
        _ if has_layer => Asked::Opener,
        _ => Asked::Apart,
    }
}

impl Kept {
    fn lives(&self, key: &FlowKey, now: u64) -> bool {
        let seconds = match (Protocol(key.protocol), self.tcp) {
            (Protocol::TCP, Tcp::Opening) => 60,
            (Protocol::TCP, Tcp::Open) => 6 * 3600,
            (Protocol::TCP, Tcp::Closing) => 120,
            (Protocol::TCP, Tcp::Closed) => 10,
            (Protocol::UDP | Protocol::UDPLITE, _) if self.answered => 180,
            (protocol, _) => seconds_of(protocol),
        };
        now - self.seen <= seconds * 1_000_000_000
    }
}
