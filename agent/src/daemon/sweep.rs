//! The part of the agent that works on sockets: ends flows that lost their right, and learns which
//! namespace an address belongs to. It runs on the event loop, beside the reconciler.

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_abi::flow::Doomed;
use bulkhead_abi::{Addr, Event, Reason};
use bulkhead_policy::Image;

use crate::datapath::Reader;
use crate::guard::Guards;
use crate::instance::Instance;
use crate::proxy::places::Places;
use crate::sockets::{FlowTable, SocketSweeper};

/// Works on sockets.
pub trait Sweeper: Send {
    /// Looks at the sockets that were there before enforcement: what `image` allows is adopted, so that
    /// it goes on when enforcement begins. Called once, before any other call, at a fresh start.
    fn adopt(&mut self, image: &Image);
    /// Something happened in the kernel.
    fn on_event(&mut self, event: &Event);
    /// Ends sockets for what was found out behind the kernel: those of these cookies, in the form that fits.
    fn end(&mut self, doomed: &[(u64, Doomed)]);
    /// Called every 50 ms.
    fn tick(&mut self);
    /// `image` is enforced from now on: live flows that it denies have lost their right.
    fn after_commit(&mut self, image: &Arc<Image>);
    /// The node's addresses with their namespaces' cookies, if they changed since the last call.
    fn locals(&mut self) -> Option<BTreeMap<Addr, u64>>;
    /// Live flows that were ended so far, by reason.
    fn ended(&self) -> Vec<(Reason, u64)>;
    /// Whether the flow table is full.
    fn flow_table(&self) -> FlowTable;
}

/// The sweeper of this build.
pub(super) fn sweeper(
    reader: &Reader,
    instance: &Instance,
    guards: &Guards,
    places: &Places,
) -> Box<dyn Sweeper> {
    Box::new(SocketSweeper::new(reader, &instance.cgroup_root, guards, places))
}
