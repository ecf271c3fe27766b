//! What kernels answer by themselves, without a socket.

use bulkhead_abi::{Protocol, Verdict};

use super::super::lanes::{Behind, Packet, Reads};
use super::super::view::View;
use super::{Book, PASSES, Ruling, seconds_of};
use crate::policy::{Asked, Decision};

impl Book {
    /// What the kernel behind an interface answers by itself, from an address of its own.
    pub(super) fn answered(&mut self, view: &View<'_>, packet: &Packet, behind: Behind) -> Option<Ruling> {
        let Behind::Known(netns) = behind else { return None };
        if view.around.locals.get(&packet.src.0) != Some(&netns) {
            return None;
        }
        if let Reads::Later(id, at) = packet.reads {
            let first = self.first.get(&(packet.src.0, packet.dst.0, id))?;
            let goes_on = first.goes_on(view, at) && first.counted.is_none();
            return goes_on.then_some((PASSES, None, "behind an answer's first fragment"));
        }
        if packet.first.is_some() && packet.reads != Reads::EchoReply {
            return None;
        }
        let ruling = self.answer(view, packet);
        if let Some((true, ..)) = ruling {
            self.begin_fragments(view, packet, true);
        }
        ruling
    }

    /// A reply to a ping, a bare segment or an error is judged as what it is about, by the rules of the end that
    /// speaks. What they do not let pass, other than a reply, is no answer.
    pub(super) fn answer(&mut self, view: &View<'_>, packet: &Packet) -> Option<Ruling> {
        let passes = (PASSES, None, "a kernel's answer");
        match packet.reads {
            Reads::EchoReply => {
                let decision = self.lets_in(view, &packet.reversed());
                if decision.verdict() == Verdict::Allow {
                    return Some(passes);
                }
                let counted = self.count(view, packet, &decision, true, false);
                Some(match decision.verdict().passes() {
                    true => (PASSES, counted, "a kernel's answer, in audit"),
                    false => (false, counted, "an answer that may not be given"),
                })
            }
            Reads::Segment { opens: false, accepts, finishes: false, resets: false, bare: true } => {
                let asked = self.lets_in(view, &packet.reversed()).verdict().passes();
                let said = || !accepts && lets_out(view, packet);
                (asked || said()).then_some(passes)
            }
            Reads::Error(_, sender) if sender == packet.dst.0 => {
                let about = packet.quoted.as_deref()?;
                let said = || lets_out(view, &about.reversed());
                (self.lets_in(view, about).verdict().passes() || said()).then_some(passes)
            }
            _ => None,
        }
    }

    /// Whether who receives a packet lets it in: whose it is, the hand-over may know better than the address.
    fn lets_in(&self, view: &View<'_>, packet: &Packet) -> Decision {
        let key = packet.key();
        let lives = |seen: u64| {
            let kept = if packet.protocol == Protocol::TCP { 60 } else { seconds_of(packet.protocol) };
            view.now - seen <= kept * 1_000_000_000
        };
        let opened = self.openers.get(&key).is_some_and(|(by, seen)| *by == packet.src && lives(*seen));
        let carried = self.handed.get(&key).copied().filter(|_| opened);
        let to = view.receiver(packet.dst.0, view.listener(packet));
        view.judge(&view.sender(carried, packet.src.0), &to, packet, packet.dst.1, Asked::Receiver)
    }
}

/// Whether whoever sends a packet may open what it belongs to.
fn lets_out(view: &View<'_>, packet: &Packet) -> bool {
    let to = view.receiver(packet.dst.0, view.listener(packet));
    let from = view.at(packet.src.0);
    view.judge(&from, &to, packet, packet.dst.1, Asked::Opener).verdict().passes()
}
