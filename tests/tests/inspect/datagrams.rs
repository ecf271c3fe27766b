//! UDP: datagrams in clear are stopped, each by itself.

use std::net::SocketAddr;

use bulkhead_tests::harness::{Agent, Dial, Kind, Pair, Serve, Socket};
use bulkhead_tests::require_agent;

use crate::lab::{Lab, NOTHING, SOON, counted};

/// Asks for the address of `example.com`.
const QUERY: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";

#[test]
fn no_datagram_in_clear_arrives_where_encryption_is_required() {
    require_agent!();
    for lab in [Lab::one_node(), Lab::receiver_alone()] {
        let agent = lab.agent("require");
        for (port, connected) in [(7100, false), (7101, true)] {
            let before = agent.counters().unwrap();
            let talk = lab.talk(port, connected);
            for _ in 0..3 {
                // Refused where the sender's node looks.
                let _refused = talk.ask(&lab, QUERY);
            }
            assert!(lab.server.recv(&talk.far, NOTHING).is_err(), "a query arrived");
            counted(&agent, &before, "deny", "clear-text", 1);
        }
    }
}

#[test]
fn a_refused_datagram_is_counted_as_that_and_nowhere_else() {
    require_agent!();
    for lab in [Lab::one_node(), Lab::sender_alone(), Lab::receiver_alone()] {
        let agent = lab.agent("require");
        for (port, connected) in [(7150, false), (7151, true)] {
            let before = agent.counters().unwrap();
            let talk = lab.talk(port, connected);
            for sent in 1..4 {
                let _refused = talk.ask(&lab, QUERY);
                assert!(lab.server.recv(&talk.far, NOTHING).is_err(), "a query arrived");
                let moved = agent.counters().unwrap().since(&before);
                let refused = Pair::new("client", "server", "deny", "clear-text");
                let counter = moved.get(&refused);
                assert_eq!((counter.flows, counter.packets), (1, sent), "{moved:?}");
                assert!(moved.iter().all(|(pair, _)| *pair == refused), "{moved:?}");
            }
        }
    }
}

#[test]
fn what_is_encrypted_passes_and_nothing_else_of_its_flow() {
    require_agent!();
    for lab in [Lab::one_node(), Lab::receiver_alone()] {
        let agent = lab.agent("require");
        for (port, connected) in [(7200, false), (7201, true)] {
            let before = agent.counters().unwrap();
            let talk = lab.talk(port, connected);
            let back = talk.delivers(&lab, &initial());
            lab.server.send(&talk.far, &initial(), Some(back)).unwrap();
            assert_eq!(lab.client.recv(&talk.near, SOON).unwrap().0, initial());
            for _ in 0..20 {
                let _from = talk.delivers(&lab, &[0x57, 0xa7, 0xe1, 0x99].repeat(15));
            }
            let _refused = talk.ask(&lab, b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n");
            assert!(lab.server.recv(&talk.far, NOTHING).is_err(), "clear text arrived");
            counted(&agent, &before, "deny", "clear-text", 1);
        }
    }
}

#[test]
fn what_is_not_required_passes() {
    require_agent!();
    let lab = Lab::one_node();
    let agent = lab.agent("off");
    for (port, level) in [(7300, "off"), (7310, "report")] {
        agent.apply(&lab.policy(level)).unwrap();
        for (port, connected) in [(port, false), (port + 1, true)] {
            let talk = lab.talk(port, connected);
            for _ in 0..20 {
                let _from = talk.delivers(&lab, QUERY);
            }
        }
    }
    drop(agent);
    // And in a node that only reports: told of once.
    let agent = Agent::prepare(&lab.root, &lab.policy("require")).mode("audit").start().unwrap();
    for (port, connected) in [(7320, false), (7321, true)] {
        let before = agent.counters().unwrap();
        let talk = lab.talk(port, connected);
        for _ in 0..3 {
            let _from = talk.delivers(&lab, QUERY);
        }
        counted(&agent, &before, "audit", "clear-text", 1);
    }
}

#[test]
fn a_live_flow_in_clear_stops_when_encryption_becomes_required() {
    require_agent!();
    let lab = Lab::one_node();
    let agent = lab.agent("off");
    let talks = [lab.talk(7400, false), lab.talk(7401, true)];
    for talk in &talks {
        for _ in 0..5 {
            let _from = talk.delivers(&lab, QUERY);
        }
    }
    agent.apply(&lab.policy("require")).unwrap();
    for talk in &talks {
        let _refused = talk.ask(&lab, QUERY);
        assert!(lab.server.recv(&talk.far, NOTHING).is_err(), "a query arrived");
    }
    // And is heard again when it is not.
    agent.apply(&lab.policy("report")).unwrap();
    for talk in &talks {
        let _from = talk.delivers(&lab, QUERY);
    }
}

/// What a QUIC client or server begins with (RFC 9000, 17.2.2), as long as it must be.
fn initial() -> Vec<u8> {
    let mut packet = b"\xc3\0\0\0\x01\x08\x83\x94\xc8\xf0\x3e\x51\x57\x08\0\0\x44\x9e".to_vec();
    packet.resize(1200, 0xa7);
    packet
}

/// Two sockets.
struct Talk {
    near: Socket,
    far: Socket,
    /// Where to, of a socket that is not connected.
    to: Option<SocketAddr>,
}

impl Talk {
    /// Sends, which may be refused.
    fn ask(&self, lab: &Lab, said: &[u8]) -> bool {
        lab.client.send(&self.near, said, self.to).is_ok()
    }

    /// Sends what arrives; from where.
    fn delivers(&self, lab: &Lab, said: &[u8]) -> SocketAddr {
        lab.client.send(&self.near, said, self.to).unwrap();
        let (data, from) = lab.server.recv(&self.far, SOON).unwrap();
        assert_eq!(data, said);
        from.unwrap()
    }
}

impl Lab {
    fn talk(&self, port: u16, connected: bool) -> Talk {
        let at: SocketAddr = format!("10.77.0.2:{port}").parse().unwrap();
        let far = self.server.listen(Kind::Udp, at, Serve::Hold).unwrap();
        if connected {
            return Talk { near: self.client.connect(&Dial::udp(at)).unwrap(), far, to: None };
        }
        Talk { near: self.client.open(Kind::Udp, None, false).unwrap(), far, to: Some(at) }
    }
}
