//! Failsafe ports: a policy that puts the whole node into an isolated zone locks nobody out who comes
//! by them; without the list it does. They are the node's own, not its workloads'.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod power;

use std::time::Duration;

use bulkhead_tests::harness::{Agent, Called, Cgroup, Dial, Errno, Kind, Pair, Peer, Topology};
use bulkhead_tests::require_agent;
use power::{LONG, at};

/// The node's own namespace, an operator's machine, and a workload's namespace on the node.
const NODE: &str = "10.65.1.1";
const OPERATOR: &str = "10.65.2.2";
const WORKLOAD: &str = "10.65.3.3";

const SSH: u16 = 22;
const DNS: u16 = 53;
const OTHER: u16 = 8080;

/// How long is waited for what must not arrive.
const SILENCE: Duration = Duration::from_millis(500);

/// Everybody on the node, and nobody allowed.
const POLICY: &str = r#"
    [zone.everything]
    cgroups = ["**"]
    isolated = true
"#;

/// Dropped from the top: peers, then the agent, then what they live in.
struct Lab {
    node: Peer,
    operator: Peer,
    workload: Peer,
    agent: Agent,
    _cgroups: [Cgroup; 4],
    _net: Topology,
}

impl Lab {
    fn new(flags: &[&str]) -> Lab {
        let net = Topology::flat(&[
            ("node", &["10.65.1.1/24"]),
            ("operator", &["10.65.2.2/24"]),
            ("workload", &["10.65.3.3/24"]),
        ])
        .unwrap();
        let root = Cgroup::new("failsafe").unwrap();
        let cgroups =
            [root.child("ssh").unwrap(), root.child("pod").unwrap(), Cgroup::new("else").unwrap(), root];
        let setup = Agent::prepare(&cgroups[3], POLICY).in_ns(net.ns("node").unwrap()).with_metrics();
        let agent = flags.iter().fold(setup, |setup, flag| setup.flag(flag)).start().unwrap();
        let peer = |name: &str, cgroup| Peer::spawn(Some(net.ns(name).unwrap()), Some(cgroup)).unwrap();
        let node = peer("node", &cgroups[0]);
        let workload = peer("workload", &cgroups[1]);
        let operator = peer("operator", &cgroups[2]);
        for (peer, address) in [(&node, NODE), (&operator, OPERATOR), (&workload, WORKLOAD)] {
            for port in [SSH, DNS, OTHER] {
                peer.tcp_echo(at(address, port)).unwrap();
                peer.udp_echo(at(address, port)).unwrap();
            }
        }
        Lab { node, operator, workload, agent, _cgroups: cgroups, _net: net }
    }

    /// Packets that passed by a failsafe port, as `status` shows them.
    fn packets(&self, side: &str, port: &str) -> Option<u64> {
        let status = self.agent.status().unwrap();
        status.failsafe.iter().find(|view| view.side == side && view.port == port).map(|view| view.packets)
    }

    fn flows(&self, from: &str, to: &str, verdict: &str, reason: &str) -> u64 {
        self.agent.counters().unwrap().get(&Pair::new(from, to, verdict, reason)).flows
    }
}

/// A question by TCP; `limit` is [`LONG`] for what must be answered.
fn tcp(from: &Peer, to: &str, port: u16, limit: Duration) -> Called<()> {
    let socket = from.connect(&Dial::tcp(at(to, port)).within(limit))?;
    from.exchange(&socket, 1, LONG)?;
    from.close(&socket)
}

/// As [`tcp`], by UDP.
fn udp(from: &Peer, to: &str, port: u16, limit: Duration) -> Called<()> {
    let socket = from.open(Kind::Udp, None, false)?;
    from.exchange_with(&socket, at(to, port), 1, limit)?;
    from.close(&socket)
}

#[test]
fn the_node_stays_within_reach_by_its_failsafe_ports() {
    require_agent!();
    let lab = Lab::new(&["--failsafe-ingress=tcp/22", "--failsafe-egress=udp/53"]);
    let zone = "everything";

    // In by ssh, out by DNS: by the listed protocol and direction only, and each is counted.
    tcp(&lab.operator, NODE, SSH, LONG).expect("ssh to the node");
    assert_eq!(lab.flows("world", zone, "allow", "failsafe"), 1);
    assert!(lab.packets("ingress", "tcp/22").unwrap() > 0);
    udp(&lab.node, OPERATOR, DNS, LONG).expect("the node's DNS");
    assert_eq!(lab.flows(zone, "world", "allow", "failsafe"), 1);
    assert!(lab.packets("egress", "udp/53").unwrap() > 0);
    let line =
        r#"bulkhead_flows_total{from_zone="world",reason="failsafe",to_zone="everything",verdict="allow"} 1"#;
    let page = lab.agent.metrics().unwrap();
    assert!(page.contains(line), "{page}");
    let status = lab.agent.run("status", &[]).unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("tcp/22") && status.contains("udp/53"), "{status}");

    // Nothing else, in neither direction.
    for port in [DNS, OTHER] {
        let denied = tcp(&lab.operator, NODE, port, SILENCE).unwrap_err();
        assert!(denied.is_timeout(), "tcp/{port} in: {denied}");
    }
    for port in [SSH, DNS, OTHER] {
        let denied = udp(&lab.operator, NODE, port, SILENCE).unwrap_err();
        assert!(denied.is_timeout(), "udp/{port} in: {denied}");
        let denied = tcp(&lab.node, OPERATOR, port, LONG).unwrap_err();
        let told = [Some(Errno::PERM), Some(Errno::CONNABORTED)];
        assert!(told.contains(&denied.errno()), "tcp/{port} out: {denied}");
    }
    for port in [SSH, OTHER] {
        let denied = udp(&lab.node, OPERATOR, port, LONG).unwrap_err();
        assert_eq!(denied.errno(), Some(Errno::PERM), "udp/{port} out: {denied}");
    }

    // A workload in a namespace of its own is not the node.
    assert!(tcp(&lab.operator, WORKLOAD, SSH, SILENCE).unwrap_err().is_timeout(), "ssh to a workload");
    assert_eq!(
        udp(&lab.workload, OPERATOR, DNS, LONG).unwrap_err().errno(),
        Some(Errno::PERM),
        "a workload's DNS"
    );
    assert_eq!(lab.flows("world", zone, "allow", "failsafe"), 1);
    assert_eq!(lab.flows(zone, "world", "allow", "failsafe"), 1);
    assert!(lab.flows("world", zone, "deny", "default") > 0);
    assert!(lab.flows(zone, "world", "deny", "default") > 0);
}

#[test]
fn an_emptied_list_opens_nothing() {
    require_agent!();
    let mut lab = Lab::new(&["--failsafe-ingress=", "--failsafe-egress="]);
    assert!(lab.agent.status().unwrap().failsafe.is_empty());
    assert!(tcp(&lab.operator, NODE, SSH, SILENCE).unwrap_err().is_timeout(), "ssh to the node");
    assert_eq!(udp(&lab.node, OPERATOR, DNS, LONG).unwrap_err().errno(), Some(Errno::PERM), "the node's DNS");
    let counters = lab.agent.counters().unwrap();
    assert!(!counters.iter().any(|(pair, _)| pair.reason == "failsafe"), "{counters:?}");
    lab.agent.terminate().unwrap();
    assert!(tcp(&lab.operator, NODE, SSH, SILENCE).unwrap_err().is_timeout(), "ssh, without an agent");
}

#[test]
fn the_usual_list_lets_an_operator_in() {
    require_agent!();
    let mut lab = Lab::new(&[]);
    tcp(&lab.operator, NODE, SSH, LONG).expect("ssh to the node");
    udp(&lab.node, OPERATOR, DNS, LONG).expect("the node's DNS");
    lab.agent.kill9().unwrap();
    tcp(&lab.operator, NODE, SSH, LONG).expect("ssh to the node, without an agent");
    udp(&lab.node, OPERATOR, DNS, LONG).expect("the node's DNS, without an agent");
}
