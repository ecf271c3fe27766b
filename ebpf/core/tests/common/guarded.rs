//! The small node with interfaces, a virtual address and machines around it.

use bulkhead_abi::{
    Addr, Control, Identity, ListenerKey, LocalAddress, Protocol, Reason, Verdict, Workload,
    flow::Listener,
    tables::{Home, Interface},
};
use bulkhead_core::host::{Frame, Node, Sock, wire::Wire};

use super::{DB, DB_ADDR, DB_CGROUP, HOST, NETNS, RULE, WEB, WEB_ADDR, answer, node};

/// A veth to a namespace where a workload of zone web has its address, one to db's, and the wire.
pub const TO_WEB: u32 = 2;
pub const TO_DB: u32 = 3;
pub const WIRE: u32 = 4;
/// A veth to nobody known: a machine of its own.
pub const TO_VM: u32 = 5;

pub const DB_NETNS: u64 = 8;
pub const VIP: Addr = Addr::v4([10, 96, 0, 1]);
pub const VM: Addr = Addr::v4([10, 0, 2, 77]);
pub const FAR_WEB: Addr = Addr::v4([10, 0, 1, 99]);
pub const NODE_ADDR: Addr = Addr::v4([192, 0, 2, 200]);

pub const PORT: u16 = 5432;

pub fn guarded() -> Node {
    let mut node = node();
    let veth = |netns| Interface { netns, flags: Interface::FLAG_ETHERNET };
    node.interfaces.insert(TO_WEB, veth(NETNS));
    node.interfaces.insert(TO_DB, veth(DB_NETNS));
    node.interfaces.insert(TO_VM, veth(0));
    node.interfaces.insert(WIRE, Interface { netns: 0, flags: Interface::FLAG_WIRE });
    for (addr, netns) in [(WEB_ADDR, NETNS), (DB_ADDR, DB_NETNS), (NODE_ADDR, HOST)] {
        node.locals.insert(addr, LocalAddress { addr, netns });
    }
    for netns in [NETNS, DB_NETNS] {
        node.homes.insert(netns, Home { v4: Addr::ANY, v6: Addr::ANY, flags: Home::FLAG_GUARDED });
    }
    node
}

/// The same with a virtual address, and a server in db.
pub fn with_service() -> Node {
    let mut node = guarded();
    node.tables.set_prefix(VIP, 128, Identity::VIRTUAL);
    node.control.flags |= Control::FLAG_VIRTUAL;
    let workload = Workload { cgroup: DB_CGROUP, anchor: DB_CGROUP };
    node.listeners.insert(
        ListenerKey::new(DB_NETNS, Addr::ANY_V4, PORT, Protocol::TCP),
        Listener { workload, cookie: 1 },
    );
    node
}

pub fn tcp(src: Addr, dst: Addr) -> Wire {
    Wire::new(Protocol::TCP, (src, 40_000), (dst, PORT))
}

pub fn udp(src: Addr, dst: Addr) -> Wire {
    Wire::new(Protocol::UDP, (src, 40_000), (dst, PORT))
}

pub fn allow_web_to_db(node: &mut Node) {
    answer(node, (WEB, DB), (Protocol::TCP, PORT), (RULE, RULE));
    answer(node, (WEB, DB), (Protocol::UDP, PORT), (RULE, RULE));
}

/// Through the node: in by one interface, out by another.
pub fn forwarded(node: &Node, from: u32, to: u32, packet: &Wire) -> Verdict {
    let frame = Frame::forwarded();
    let bytes = packet.bytes();
    match node.comes_in(from, &frame, &Sock::none(), &bytes) {
        Verdict::Deny => Verdict::Deny,
        _ => node.goes_out(to, &frame, &Sock::none(), &bytes),
    }
}

pub fn one_denial(node: &Node, reason: Reason) {
    let counters = node.take_counters();
    assert_eq!(counters.len(), 1, "{counters:?}");
    let (key, counter) = counters.first_key_value().unwrap();
    assert_eq!((key.verdict, key.reason), (Verdict::Deny as u8, reason as u8), "{key:?}");
    assert_eq!((counter.flows, counter.packets), (1, 1));
    assert_eq!(node.take_events().len(), 1);
}
