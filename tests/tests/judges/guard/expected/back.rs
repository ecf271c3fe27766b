//! What is on its way back to an endpoint without a socket. Where it comes in it is as it was judged when it
//! left; where it leaves, an address may have been translated back.

use bulkhead_abi::Identity;

use super::super::lanes::{Packet, Reads};
use super::super::view::{ROUTED, View};
use super::{Book, Kept, PASSES, Ruling, UNMARKED};

impl Book {
    /// A packet that comes in, and might pass. What is not on its way back is judged where it leaves.
    pub(super) fn back(&mut self, view: &View<'_>, packet: &Packet) -> Option<Ruling> {
        match packet.reads {
            Reads::NotIp | Reads::Discovery | Reads::Refused(_) => None,
            Reads::Error(about, sender) => {
                let heard = sender == packet.dst.0 && self.is_about_a_live_flow(view, &about);
                heard.then_some((PASSES, None, "an error on its way back"))
            }
            Reads::Later(id, at) => {
                let (passes, counted, _) = self.behind_first(view, packet, id, at)?;
                Some((passes, counted, "behind a first fragment that went before"))
            }
            _ => {
                let flow = self.flows.get(&packet.key())?;
                if !flow.routed || flow.opener == packet.src {
                    return None;
                }
                // The mark tells of openers, and this is by the other end.
                let (passes, counted, why) = self.known(view, packet, UNMARKED)?;
                if passes {
                    self.begin_fragments(view, packet, false);
                }
                let why = match (passes, why) {
                    (true, "as before") if packet.first.is_some() => "on its way back, in fragments",
                    (true, "as before") => "on its way back",
                    (true, _) => "on its way back, judged again",
                    (false, _) => "on its way back, and denied",
                };
                Some((passes, counted, why))
            }
        }
    }
}

impl Kept {
    /// Whether a packet of the opener's is from an endpoint behind a translation, and the flow is not of one.
    pub(super) fn is_anothers(&self, view: &View<'_>, packet: &Packet, mark: u32) -> bool {
        // What goes by the address may be judged as the same by now, and then nothing is another.
        let by_address = self.told.is_none() && self.number == view.number;
        let same = by_address && view.around.endpoint(mark) == Some(self.judged);
        !self.is_translated() && !same && view.translated(mark, packet.src.0).is_some()
    }

    /// Whether an endpoint without a socket began it, under another address than its own.
    fn is_translated(&self) -> bool {
        self.routed && self.told.is_some()
    }

    /// Who the opener is, if the mark of its packet tells. Of a translated flow each mark of an endpoint
    /// without a socket does, and one that is in no zone is of the world.
    pub(super) fn opener_told(&self, view: &View<'_>, mark: u32) -> Option<Identity> {
        let endpoint = view.around.endpoint(mark).or((mark == ROUTED).then_some(Identity::WORLD));
        let translated = endpoint.filter(|_| self.is_translated());
        translated.or_else(|| view.carried(mark))
    }
}
