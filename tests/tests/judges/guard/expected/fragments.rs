//! What is remembered of the first fragments of packets, and what passes behind them.

use bulkhead_abi::Reason;

use super::super::lanes::Packet;
use super::super::view::{View, Who};
use super::{Book, PASSES, Ruling, Tcp};
use crate::policy::Decision;

/// A first fragment that passed.
pub(super) struct First {
    number: usize,
    end: u32,
    pub(super) counted: Option<Decision>,
    seen: u64,
}

impl Book {
    /// Remembers the first fragment of a packet that passes: of a flow, or of what is `answered`.
    pub(super) fn begin_fragments(&mut self, view: &View<'_>, packet: &Packet, answered: bool) {
        let Some((id, end)) = packet.first else { return };
        let flow = self.flows.get(&packet.key()).filter(|flow| {
            // Not one of before, which is another than the one that opens here.
            flow.number == view.number
                && flow.lives(&packet.key(), view.now)
                && !(packet.opens() && flow.tcp != Tcp::Opening)
        });
        let counted = match flow {
            Some(flow) => flow.counts.then(|| flow.decision.clone()),
            // Of no flow, and counted by nobody.
            None if answered => None,
            None => return,
        };
        let first = First { number: view.number, end, counted, seen: view.now };
        self.first.insert((packet.src.0, packet.dst.0, id), first);
    }

    /// A later fragment behind an allowed first one of the same policy passes, where it does not reach into
    /// it.
    pub(super) fn behind_first(&self, view: &View<'_>, packet: &Packet, id: u32, at: u32) -> Option<Ruling> {
        let first = self.first.get(&(packet.src.0, packet.dst.0, id))?;
        let counted = first.counted.clone().map(|decision| (decision, false));
        first.goes_on(view, at).then_some((PASSES, counted, "behind its first fragment"))
    }

    /// Any other is refused.
    pub(super) fn later(&mut self, view: &View<'_>, packet: &Packet, from: &Who, id: u32, at: u32) -> Ruling {
        if let Some(ruling) = self.behind_first(view, packet, id, at) {
            return ruling;
        }
        let (passes, counted, _) = self.refuse(view, packet, from, from, Reason::Fragment);
        (passes, counted, "without its first fragment")
    }
}

impl First {
    /// Whether a fragment from this byte on belongs to the same packet.
    pub(super) fn goes_on(&self, view: &View<'_>, at: u32) -> bool {
        self.number == view.number && at >= self.end && view.now - self.seen < 30_000_000_000
    }
}
