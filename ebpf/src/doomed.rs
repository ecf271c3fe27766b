//! The list of sockets that the agent ends.

use aya_ebpf::bindings::BPF_NOEXIST;
use bulkhead_abi::{Addr, Event, EventKind, Identity, Workload, flow::Doomed, names::Loss};

use crate::{maps, tables};

/// Puts a socket on the list of those that the agent ends.
#[inline(always)]
pub fn put_on_list(cookie: u64, doomed: &Doomed) {
    const EEXIST: i32 = -17;
    match maps::DOOMED.insert(cookie, doomed, BPF_NOEXIST.into()) {
        Ok(()) => wake(),
        Err(EEXIST) => {}
        Err(_) => tables::lose(Loss::Doomed),
    }
}

/// Wakes the daemon for the list of doomed sockets. A lost wake-up costs a few milliseconds: it looks
/// by itself, too.
#[inline(always)]
fn wake() {
    tables::emit(|event| {
        *event = BLANK;
        event.time = tables::now();
        event.kind = EventKind::Doomed as u8;
    });
}

/// An event that says nothing yet.
pub const BLANK: Event = Event {
    time: 0,
    generation: 0,
    netns: 0,
    cookie: 0,
    workload: Workload::UNKNOWN,
    src: Addr::ANY,
    dst: Addr::ANY,
    from: Identity::WORLD,
    to: Identity::WORLD,
    rule: 0,
    pid: 0,
    src_port: 0,
    dst_port: 0,
    kind: 0,
    protocol: 0,
    verdict: 0,
    reason: 0,
    class: 0,
    app: 0,
    level: 0,
    _reserved: [0; 5],
};
