//! Rows 1, 2 and 3 on the wire: fragments that the node forwards to a machine of a zone that has no
//! socket here, as a virtual machine has none. The guard judges them, packet by packet.

use bulkhead_tests::harness::packet::{Ip, Tcp, flags, protocol};
use bulkhead_tests::harness::threat::{Case, Lab, SPARE, SPARE6, Threat, Try, at, send_raw};
use bulkhead_tests::harness::{Agent, Pair, Peer};
use bulkhead_tests::require_agent;

use super::policy::{OPEN, SHUT};

/// First fragments that are remembered at once.
const REMEMBERED: u16 = 8192;

/// The world may open to the machine: UDP and TCP.
fn policy() -> String {
    format!(
        "[zone.vm]\ncidrs = [\"{SPARE}/32\", \"{SPARE6}/128\"]\n[[allow]]\nfrom = \"world\"\nto = \"vm\"\n\
         ports = [\"udp/{OPEN}-{last}\", \"tcp/{OPEN}-{last}\"]\n",
        last = OPEN + 99
    )
}

/// A lab with a machine in the namespace `spare` that is no workload of the node.
fn lab() -> (Peer, Lab) {
    let lab = Lab::new().unwrap();
    (Peer::spawn(Some(lab.ns("spare").unwrap()), Some(&lab.elsewhere)).unwrap(), lab)
}

fn guarded<'a>() -> Threat<'a> {
    Threat::new(&policy()).setup(|setup| setup.flag("--guard-interfaces=port*").flag("--guard-wire=port2"))
}

fn vm(v6: bool) -> &'static str {
    if v6 { SPARE6 } else { SPARE }
}

/// From an address of this try's own.
fn inward(run: &Try<'_>, v6: bool) -> Ip {
    Ip::new(&run.stranger(v6), vm(v6))
}

/// A datagram in two fragments.
fn halves(run: &Try<'_>, v6: bool, port: u16) -> [Vec<u8>; 2] {
    let ip = inward(run, v6);
    let payload = ip.udp_payload(4000, port, b"the first half, the second");
    [
        ip.clone().fragment(7, 0, true).carry(protocol::UDP, &payload[..16]),
        ip.fragment(7, 16, false).carry(protocol::UDP, &payload[16..]),
    ]
}

fn reaches(run: &Try<'_>, vm_peer: &Peer, v6: bool, port: u16, packets: &[Vec<u8>]) -> anyhow::Result<bool> {
    run.reaches(&run.lab.outside, vm_peer, at(vm(v6), port), packets)
}

#[test]
fn row_01_on_the_wire_a_first_fragment_too_short_is_denied() {
    require_agent!();
    let (peer, lab) = lab();
    let mut threat = guarded();
    for v6 in [false, true] {
        let peer = &peer;
        let whole = move |run: &Try<'_>| {
            let packet = inward(run, v6).udp(4000, run.port(OPEN), b"whole");
            reaches(run, peer, v6, run.port(OPEN), &[packet])
        };
        threat = threat.case(
            Case::new(&format!("ports without flags, IPv6: {v6}"))
                .attempt(move |run| {
                    let ip = inward(run, v6);
                    let header = Tcp { flags: flags::SYN, ..Tcp::default() };
                    let segment = ip.tcp_payload(4000, run.port(OPEN), header, &[], b"");
                    let packet = ip.fragment(1, 0, true).carry(protocol::TCP, &segment[..8]);
                    run.crosses(&run.lab.outside, peer, &[packet])
                })
                .twin(whole)
                .counts("world", "vm", "deny", "fragment", 1),
        );
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_02_on_the_wire_later_fragments_pass_only_behind_an_allowed_first_one() {
    require_agent!();
    let (peer, lab) = lab();
    let mut threat = guarded();
    for v6 in [false, true] {
        let peer = &peer;
        let in_order =
            move |run: &Try<'_>| reaches(run, peer, v6, run.port(OPEN), &halves(run, v6, run.port(OPEN)));
        threat = threat
            .case(
                Case::new("to a closed port")
                    .attempt(move |run| {
                        reaches(run, peer, v6, run.port(SHUT), &halves(run, v6, run.port(SHUT)))
                    })
                    .twin(in_order)
                    .counts("world", "vm", "deny", "default", 1)
                    .counts("world", "vm", "deny", "fragment", 1),
            )
            .case(
                Case::new("the later one first")
                    .attempt(move |run| {
                        let [first, later] = halves(run, v6, run.port(OPEN));
                        reaches(run, peer, v6, run.port(OPEN), &[later, first])
                    })
                    .twin(in_order)
                    .counts("world", "vm", "allow", "allow-rule", 1)
                    .counts("world", "vm", "deny", "fragment", 1),
            )
            .case(
                Case::new("a later one alone")
                    .attempt(move |run| {
                        run.crosses(&run.lab.outside, peer, &halves(run, v6, run.port(OPEN))[1..])
                    })
                    .twin(in_order)
                    .counts("world", "vm", "deny", "fragment", 1),
            )
            .case(
                Case::new("one that writes over what was judged")
                    .attempt(move |run| {
                        let [first, _] = halves(run, v6, run.port(OPEN));
                        let over = inward(run, v6).fragment(7, 8, true).carry(protocol::UDP, b"over it!");
                        send_raw(&run.lab.outside, &[first])?;
                        run.crosses(&run.lab.outside, peer, &[over])
                    })
                    .twin(in_order)
                    .counts("world", "vm", "allow", "allow-rule", 1)
                    .counts("world", "vm", "deny", "fragment", 1),
            );
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_02_on_the_wire_the_table_of_first_fragments_is_bounded() {
    require_agent!();
    let (peer, lab) = lab();
    let agent = Agent::prepare(&lab.root, &policy())
        .in_ns(lab.node().unwrap())
        .flag("--guard-interfaces=port*")
        .flag("--guard-wire=port2")
        .start()
        .unwrap();
    let run = Try::by_hand(&lab, 0);
    let before = agent.counters().unwrap();
    let ip = inward(&run, false);
    let payload = ip.udp_payload(4000, OPEN, b"the first half, the second");
    let first = |id: u16| ip.clone().fragment(id, 0, true).carry(protocol::UDP, &payload[..16]);
    let over = 200;
    let socket = lab.outside.raw(false).unwrap();
    for id in 1..=REMEMBERED + over {
        lab.outside.send(&socket, &first(id), Some(at(SPARE, 0))).unwrap();
    }
    let moved = agent.counters().unwrap().since(&before);
    let [allowed, denied] = [("allow", "allow-rule"), ("deny", "fragment")]
        .map(|(verdict, reason)| moved.get(&Pair::new("world", "vm", verdict, reason)));
    assert_eq!((denied.flows, denied.packets), (1, u64::from(over)), "{moved:?}");
    assert_eq!((allowed.flows, moved.iter().count()), (1, 2), "{moved:?}");

    // What was let in goes on, and what is whole passes.
    let rest = ip.clone().fragment(1, 16, false).carry(protocol::UDP, &payload[16..]);
    assert!(run.crosses(&lab.outside, &peer, &[rest]).unwrap());
    assert!(reaches(&run, &peer, false, OPEN, &[ip.udp(4000, OPEN, b"whole")]).unwrap());
}

#[test]
fn row_03_on_the_wire_an_atomic_fragment_is_judged_as_the_packet_that_it_is() {
    require_agent!();
    let (peer, lab) = lab();
    let send = |run: &Try<'_>, port: u16| {
        let packet = inward(run, true).fragment(7, 0, false).udp(4000, port, b"atomic");
        reaches(run, &peer, true, port, &[packet])
    };
    guarded()
        .case(
            Case::new("forwarded")
                .attempt(|run| send(run, run.port(SHUT)))
                .twin(|run| send(run, run.port(OPEN)))
                .counts("world", "vm", "deny", "default", 1),
        )
        .run(&lab)
        .unwrap();
}
