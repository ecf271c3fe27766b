//! What goes by way of the node's proxy: turned connections, tunnels, last hops, and nobody around them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use bulkhead_abi::{
    Addr, Class, Demand, Identity, ListenerKey, LocalAddress, Protocol, Reason, RoleKind, RuleKey,
    SocketRole, TurnedKey, Verdict, Workload,
    flow::Listener,
    role::{CAPTURE_PORT, TUNNEL_PORT},
    tables::Home,
};
use bulkhead_core::{
    call::{Connect, turn::Turn},
    host::{Node, Sock, wire},
    track::Socket,
};
use common::*;
use wire::{ACK, SYN, Wire};

const TCP: Protocol = Protocol::TCP;
const PORT: u16 = 80;
/// The proxy's cgroup.
const PROXY: u64 = 700;
/// Web's second address.
const OTHER_ADDR: Addr = Addr::v4([172, 17, 0, 1]);

/// From web to db by way of the proxy, which listens in web's namespace.
fn world(demand: Demand) -> Node {
    let mut node = node();
    node.homes.insert(NETNS, Home { v4: WEB_ADDR, v6: v6([1, 1]), flags: Home::FLAG_PROXIED });
    node.locals.insert(WEB_ADDR, LocalAddress { addr: WEB_ADDR, netns: NETNS });
    node.control.flags = bulkhead_abi::Control::FLAG_MUTUAL;
    wants(&mut node, demand);
    node
}

fn wants(node: &mut Node, demand: Demand) {
    allow(node, (WEB, DB), (TCP, PORT));
    let entries = node.tables.rules.values_mut().flatten();
    let wanted = |key: &RuleKey, bits: u32| bits == RuleKey::PORT_BITS && key.port == PORT.to_be_bytes();
    for (key, bits, cell) in entries {
        if wanted(key, *bits) {
            *cell = bulkhead_abi::Cell::new(RULE, RULE, demand);
        }
    }
}

fn dial(target: Addr) -> Connect {
    Connect { target: (target, PORT), protocol: TCP, bound: (Addr::ANY_V4, 0) }
}

/// A program's socket that was turned.
fn turned(node: &Node) -> Sock {
    let sock = Sock::opening(WEB_CGROUP, NETNS);
    let to = Turn { addr: WEB_ADDR, port: CAPTURE_PORT };
    assert_eq!(node.dial(&sock, WEB_CGROUP, &dial(DB_ADDR)), (Verdict::Allow, to));
    sock
}

fn leg() -> Wire {
    Wire::new(TCP, (WEB_ADDR, 4000), (WEB_ADDR, CAPTURE_PORT))
}

fn with(kind: RoleKind, sock: Sock) -> Sock {
    sock.looped.set(true);
    sock.with_role(SocketRole { from: WEB, to: DB, rule: 5, ..SocketRole::new(kind) })
}

/// What comes in, in its own direction.
fn came(sock: Sock) -> Sock {
    sock.looped.set(true);
    sock
}

const PROXIED: (Identity, Identity, Verdict, Reason, u64, u64) =
    (WEB, DB, Verdict::Allow, Reason::Proxied, 1, 1);
const OUTSIDE: (Identity, Identity, Verdict, Reason, u64, u64) =
    (WEB, DB, Verdict::Deny, Reason::OutsideProxy, 1, 1);

#[test]
fn a_turned_connection_goes_from_the_program_to_the_proxy() {
    let mut node = world(Demand::MUTUAL);
    let program = turned(&node);
    assert_eq!(moved(&node), [], "counted where it arrives");
    let role = program.role().unwrap();
    assert_eq!((role.original, role.original_port, role.kind()), (DB_ADDR, PORT, RoleKind::Turned));
    assert_eq!((role.from, role.to, role.rule, role.workload.cgroup), (WEB, DB, 5, WEB_CGROUP));
    assert_eq!(node.peer_name(&program, CAPTURE_PORT), Turn { addr: DB_ADDR, port: PORT });
    assert_eq!(node.peer_name(&program, PORT), Turn::NONE);

    assert_eq!(out(&node, &program, &leg()), Verdict::Allow);
    let told = node.turned();
    let told = told.get(&TurnedKey::new(NETNS, WEB_ADDR, 4000)).unwrap();
    assert_eq!((told.original, told.port, told.from, told.to, told.rule), (DB_ADDR, PORT, WEB, DB, 5));
    assert_eq!(told.workload.cgroup, WEB_CGROUP);
    assert_eq!(moved(&node), []);

    let listener = with(RoleKind::Capture, Sock::listening(PROXY, NETNS));
    assert_eq!(into(&node, &listener, &leg()), Verdict::Allow);
    assert_eq!(moved(&node), [PROXIED]);
    assert_eq!(out(&node, &listener, &leg().reversed().flags(SYN | ACK)), Verdict::Allow);
    assert_eq!(into(&node, &program, &leg().reversed().flags(SYN | ACK)), Verdict::Allow);
    let _ = moved(&node);
    // What is accepted inherits the role; it owns the flow from its first packet on.
    let accepted = with(RoleKind::Capture, Sock::stream(PROXY, NETNS));
    let data = || leg().flags(ACK).payload(b"in clear");
    assert_eq!(into(&node, &accepted, &data()), Verdict::Allow);
    assert_eq!(moved(&node), [(WEB, DB, Verdict::Allow, Reason::Proxied, 0, 1)]);
    assert!(node.flows().is_empty(), "nothing is left for another one");
    let classes = node.classes();
    let [(class, 1)] = &classes.iter().map(|(key, count)| (*key, *count)).collect::<Vec<_>>()[..] else {
        unreachable!("{classes:?}")
    };
    assert_eq!((class.class, class.from, class.to), (Class::Mutual as u8, WEB, DB));

    // Whatever becomes of the policy, it is the proxy's to end.
    answer(&mut node, (WEB, DB), (TCP, PORT), (DENY, DENY));
    for _ in 0..2 {
        next_generation(&mut node);
        node.control.flags = 0;
        assert_eq!(into(&node, &accepted, &data()), Verdict::Allow);
        assert_eq!(out(&node, &program, &data()), Verdict::Allow);
    }
    assert_eq!(node.classes().values().sum::<u64>(), 1);
}

#[test]
fn without_a_proxy_nothing_is_turned_and_nothing_passes() {
    let mut node = world(Demand::MUTUAL);
    node.homes.insert(NETNS, Home { v4: WEB_ADDR, v6: v6([1, 1]), flags: 0 });
    let sock = Sock::opening(WEB_CGROUP, NETNS);
    assert_eq!(node.dial(&sock, WEB_CGROUP, &dial(DB_ADDR)), (Verdict::Deny, Turn::NONE));
    assert_eq!(moved(&node), [(WEB, DB, Verdict::Deny, Reason::NoProxy, 1, 0)]);
    assert!(sock.role().is_none());
    // Whoever did not hear it from the call hears it from its packet.
    assert_eq!(out(&node, &sock, &Wire::new(TCP, (WEB_ADDR, 4000), (DB_ADDR, PORT))), Verdict::Deny);
    assert_eq!(moved(&node), [OUTSIDE]);
}

#[test]
fn who_was_not_turned_does_not_get_to_the_proxy() {
    let mut node = world(Demand::MUTUAL);
    allow(&mut node, (WEB, WEB), (TCP, CAPTURE_PORT));
    let listener = with(RoleKind::Capture, Sock::listening(PROXY, NETNS));
    // No opener's hook, or none that knows of a turn.
    assert_eq!(into(&node, &listener, &leg()), Verdict::Deny);
    let plain = Sock::opening(WEB_CGROUP, NETNS);
    assert_eq!(out(&node, &plain, &leg()), Verdict::Allow, "within its zone");
    assert_eq!(into(&node, &listener, &leg()), Verdict::Deny);
    // The same tuple from outside, while a turned connection opens.
    let program = turned(&node);
    assert_eq!(out(&node, &program, &leg()), Verdict::Allow);
    listener.looped.set(false);
    assert_eq!(into(&node, &listener, &leg()), Verdict::Deny);
    listener.looped.set(true);
    assert_eq!(into(&node, &listener, &leg()), Verdict::Allow);
    // A socket that was turned before is like any other.
    let again = turned(&node);
    let elsewhere = Connect { target: (WORLD_ADDR, 9), ..dial(DB_ADDR) };
    let _ = node.dial(&again, WEB_CGROUP, &elsewhere);
    assert_eq!(again.role().unwrap().kind(), RoleKind::None);
    assert_eq!(node.peer_name(&again, CAPTURE_PORT), Turn::NONE);
}

/// The server's side: db's namespace, the client elsewhere.
fn server() -> (Node, Wire) {
    let mut node = world(Demand::MUTUAL);
    node.locals.insert(DB_ADDR, LocalAddress { addr: DB_ADDR, netns: 8 });
    let workload = Workload { cgroup: DB_CGROUP, anchor: DB_CGROUP };
    node.listeners.insert(ListenerKey::new(8, DB_ADDR, PORT, TCP), Listener { workload, cookie: 1 });
    (node, Wire::new(TCP, (WEB_ADDR, 5000), (DB_ADDR, PORT)))
}

#[test]
fn the_last_hop_comes_from_the_client_and_only_from_the_proxy() {
    let (mut node, hop) = server();
    let program = came(Sock::listening(DB_CGROUP, 8));
    // Directly, from elsewhere.
    program.looped.set(false);
    assert_eq!(into(&node, &program, &hop), Verdict::Deny);
    assert_eq!(moved(&node), [OUTSIDE]);
    // The proxy's, whose address is not its own.
    let proxy = with(RoleKind::LastHop, Sock::opening(PROXY, 8));
    assert_eq!(out(&node, &proxy, &hop), Verdict::Allow);
    assert_eq!(moved(&node), []);
    // From outside, its tuple is nobody's. The policy may change while it knocks.
    assert_eq!(into(&node, &program, &hop), Verdict::Deny);
    next_generation(&mut node);
    assert_eq!(into(&node, &program, &hop), Verdict::Deny);
    let _ = moved(&node);
    program.looped.set(true);
    assert_eq!(into(&node, &program, &hop), Verdict::Allow);
    assert_eq!(moved(&node), [PROXIED]);
    assert_eq!(out(&node, &program, &hop.clone().reversed().flags(SYN | ACK)), Verdict::Allow);
    let accepted = came(Sock::stream(DB_CGROUP, 8));
    let data = hop.clone().flags(ACK).payload(b"in clear");
    assert_eq!(into(&node, &accepted, &data), Verdict::Allow);
    next_generation(&mut node);
    assert_eq!(into(&node, &accepted, &data), Verdict::Allow);
    // Without the role the same socket would have lied about its source.
    let liar = Sock::opening(PROXY, 8);
    assert_eq!(out(&node, &liar, &Wire { src_port: 5001, ..hop }), Verdict::Deny);
}

#[test]
fn roles_do_what_they_are_for_and_nothing_else() {
    let (node, hop) = server();
    let opening = |kind| with(kind, Sock::opening(PROXY, 8));
    let to = |addr, port| Wire::new(TCP, (DB_ADDR, 5000), (addr, port));
    let refused = [
        (RoleKind::TunnelOut, hop.clone()),
        (RoleKind::TunnelOut, to(WEB_ADDR, PORT)),
        (RoleKind::LastHop, to(WEB_ADDR, PORT)),
        (RoleKind::LastHop, to(WEB_ADDR, TUNNEL_PORT)),
        (RoleKind::Capture, to(DB_ADDR, PORT)),
        (RoleKind::TunnelIn, to(WEB_ADDR, TUNNEL_PORT)),
    ];
    for (kind, wire) in refused {
        assert_eq!(out(&node, &opening(kind), &wire), Verdict::Deny, "{kind:?} {wire:?}");
        let target = (wire.dst, wire.dst_port);
        let connect = Connect { target, protocol: TCP, bound: (Addr::ANY_V4, 0) };
        assert_eq!(node.connect(&opening(kind), PROXY, &connect), Verdict::Deny, "{kind:?} {wire:?}");
        assert!(moved(&node).iter().all(|(.., reason, _, _)| *reason == Reason::OutsideProxy));
    }
    // Of a socket that was turned once, and listens now, what it accepts is no turned connection.
    let child = opening(RoleKind::Turned);
    assert_eq!(out(&node, &child, &hop), Verdict::Deny);
    let _ = moved(&node);
    let tunnel = opening(RoleKind::TunnelOut);
    assert_eq!(out(&node, &tunnel, &to(WEB_ADDR, TUNNEL_PORT)), Verdict::Allow);
    assert_eq!(moved(&node), [PROXIED]);
    assert_eq!(out(&node, &tunnel, &to(WEB_ADDR, TUNNEL_PORT)), Verdict::Allow, "its SYN again");
    assert_eq!(moved(&node), [(WEB, DB, Verdict::Allow, Reason::Proxied, 0, 1)]);
    assert_eq!(out(&node, &opening(RoleKind::LastHop), &hop), Verdict::Allow);
    // Anybody may knock for a tunnel.
    let tunnel = with(RoleKind::TunnelIn, Sock::listening(PROXY, 8));
    let knock = Wire::new(TCP, (WORLD_ADDR, 5), (DB_ADDR, TUNNEL_PORT));
    assert_eq!(into(&node, &tunnel, &knock), Verdict::Allow);
}

#[test]
fn what_the_kernel_vouches_for_goes_directly() {
    let mut node = world(Demand { floor: Demand::ATTEST, ..Demand::MUTUAL });
    let across = Sock::opening(WEB_CGROUP, NETNS);
    let to = Turn { addr: WEB_ADDR, port: CAPTURE_PORT };
    assert_eq!(node.dial(&across, WEB_CGROUP, &dial(DB_ADDR)), (Verdict::Allow, to), "to another node");
    node.locals.insert(DB_ADDR, LocalAddress { addr: DB_ADDR, netns: 8 });
    let workload = Workload { cgroup: DB_CGROUP, anchor: DB_CGROUP };
    node.listeners.insert(ListenerKey::new(8, DB_ADDR, PORT, TCP), Listener { workload, cookie: 1 });
    let here = Sock::opening(WEB_CGROUP, NETNS);
    assert_eq!(node.dial(&here, WEB_CGROUP, &dial(DB_ADDR)), (Verdict::Allow, Turn::NONE));
    let syn = Wire::new(TCP, (WEB_ADDR, 4000), (DB_ADDR, PORT));
    assert_eq!(out(&node, &here, &syn), Verdict::Allow);
    assert_eq!(into(&node, &Sock::listening(DB_CGROUP, 8), &syn), Verdict::Allow);
    let accepted = Sock::stream(DB_CGROUP, 8);
    let data = syn.flags(ACK).payload(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(into(&node, &accepted, &data), Verdict::Allow, "in clear, which is nobody's business");
    assert!(moved(&node).iter().all(|(_, _, verdict, ..)| *verdict == Verdict::Allow));
}

#[test]
fn who_only_reports_turns_nothing() {
    let mut node = world(Demand::MUTUAL);
    node.control.flags |= bulkhead_abi::Control::FLAG_AUDIT;
    let sock = Sock::opening(WEB_CGROUP, NETNS);
    assert_eq!(node.dial(&sock, WEB_CGROUP, &dial(DB_ADDR)), (Verdict::Allow, Turn::NONE));
    assert_eq!(out(&node, &sock, &Wire::new(TCP, (WEB_ADDR, 4000), (DB_ADDR, PORT))), Verdict::Audit);
    assert_eq!(moved(&node), [(WEB, DB, Verdict::Audit, Reason::OutsideProxy, 1, 1)]);
    // A zone that only reports, to one that does, too.
    let mut node = world(Demand::MUTUAL);
    let key = |port| RuleKey::new(100 * LAX.0 + LAX.0 + 1, TCP, port);
    let cell = bulkhead_abi::Cell::new(RULE, RULE, Demand::MUTUAL);
    node.tables.add_rule(key(PORT), RuleKey::PORT_BITS, cell);
    let syn = Wire::new(TCP, (LAX_ADDR, 4000), (Addr::v4([10, 0, 3, 9]), PORT));
    assert_eq!(out(&node, &Sock::opening(OTHER_CGROUP, 9), &syn), Verdict::Audit);
    assert_eq!(moved(&node), [(LAX, LAX, Verdict::Audit, Reason::OutsideProxy, 1, 1)]);
}

#[test]
fn of_many_addresses_the_likely_one_is_turned_from() {
    let mut node = world(Demand::MUTUAL);
    let flags = Home::FLAG_PROXIED | Home::FLAG_SEVERAL_V4;
    node.homes.insert(NETNS, Home { v4: WEB_ADDR, v6: Addr::ANY, flags });
    node.locals.insert(OTHER_ADDR, LocalAddress { addr: OTHER_ADDR, netns: NETNS });
    let _ = turned(&node);
    // Nothing else goes by what is only likely.
    let denied = Connect { target: (DB_ADDR, 81), ..dial(DB_ADDR) };
    assert_eq!(node.connect(&Sock::opening(WEB_CGROUP, NETNS), WEB_CGROUP, &denied), Verdict::Allow);
    node.homes.insert(NETNS, Home { v4: WEB_ADDR, v6: Addr::ANY, flags: Home::FLAG_SEVERAL_V4 });
    let unsure = Sock::opening(WEB_CGROUP, NETNS);
    assert_eq!(node.dial(&unsure, WEB_CGROUP, &dial(DB_ADDR)), (Verdict::Allow, Turn::NONE));
    assert_eq!(moved(&node), []);
    assert_eq!(unsure.state, Socket::Opening);
    // Who is bound is turned from there, and not from where he is not.
    let bound = |addr| Connect { bound: (addr, 0), ..dial(DB_ADDR) };
    node.homes.insert(NETNS, Home { v4: Addr::ANY, v6: Addr::ANY, flags: Home::FLAG_PROXIED });
    let to = |addr| (Verdict::Allow, Turn { addr, port: CAPTURE_PORT });
    let sock = || Sock::opening(WEB_CGROUP, NETNS);
    assert_eq!(node.dial(&sock(), WEB_CGROUP, &bound(OTHER_ADDR)), to(OTHER_ADDR));
    assert_eq!(node.dial(&sock(), WEB_CGROUP, &bound(WORLD_ADDR)).1, Turn::NONE, "not its own");
}
