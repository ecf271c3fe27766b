//! Clearing the flow table takes nothing away that began meanwhile: a tuple is found to have expired, and
//! is another flow's when its turn to be removed comes, with an answer under way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::time::Duration;

use bulkhead_abi::{FlowKey, FlowState, Protocol};
use bulkhead_tests::harness::{Agent, Cgroup, Dial, Kind, Peer, Serve, Socket, Topology};
use bulkhead_tests::require_agent;

const LONG: Duration = Duration::from_secs(20);

/// The client may ask the server, and not the other way around.
const POLICY: &str = r#"
    [zone.clients]
    cidrs = ["10.77.0.1/32", "fd00:77::1/128"]
    [zone.servers]
    cidrs = ["10.77.0.2/32", "fd00:77::2/128"]
    [[allow]]
    from = "clients"
    to = "servers"
    ports = ["udp/7001"]
"#;

/// Dropped from the top.
struct Lab {
    client: Peer,
    server: Peer,
    agent: Agent,
    _node: Cgroup,
    _net: Topology,
}

impl Lab {
    fn new() -> Lab {
        let net = Topology::pair().unwrap();
        let node = Cgroup::new("node").unwrap();
        let agent = Agent::prepare(&node, POLICY).start().unwrap();
        let peer = |name: &str| Peer::spawn(Some(net.ns(name).unwrap()), Some(&node)).unwrap();
        Lab { client: peer("a"), server: peer("b"), agent, _node: node, _net: net }
    }

    /// A question that waits for its answer, and what the table holds of its flow.
    fn ask(&self, server: &Socket) -> (Socket, FlowKey, FlowState) {
        let socket = self.client.connect(&Dial::udp(server.local)).unwrap();
        self.client.send(&socket, b"question", None).unwrap();
        let (question, from) = self.server.recv(server, LONG).unwrap();
        assert_eq!((question.as_slice(), from), (&b"question"[..], Some(socket.local)));
        let flows = self.agent.reader().unwrap().flows().unwrap();
        let port = socket.local.port();
        let mut mine = flows.into_iter().filter(|(key, _)| [key.low_port, key.high_port].contains(&port));
        let (key, flow) = mine.next().unwrap();
        (socket, key, flow)
    }

    /// Whether an answer arrives.
    fn answers(&self, server: &Socket, socket: &Socket) -> bool {
        let sent = self.server.send(server, b"answer", Some(socket.local));
        sent.is_ok() && self.client.recv(socket, LONG).unwrap().0 == b"answer"
    }
}

#[test]
fn a_flow_that_begins_while_its_tuple_is_cleared_is_answered() {
    require_agent!();
    let lab = Lab::new();
    let reader = lab.agent.reader().unwrap();
    let sockets = reader.sockets();
    let flows = &sockets.maps().flows;
    for at in ["10.77.0.2:7001", "[fd00:77::2]:7001"] {
        let server = lab.server.listen(Kind::Udp, at.parse().unwrap(), Serve::Hold).unwrap();

        let (socket, key, was) = lab.ask(&server);
        assert_eq!(flows.remove_if(&[key], |_, _| false).unwrap(), 0, "begun before its turn came");
        assert_eq!(flows.get(&key).unwrap(), Some(was));
        assert!(lab.answers(&server, &socket));

        let (socket, key, was) = lab.ask(&server);
        let mut looks = 0;
        let removed = flows.remove_if(&[key], |_, _| {
            looks += 1;
            looks == 1
        });
        assert_eq!((removed.unwrap(), looks), (0, 2), "begun in the very moment of its turn");
        assert_eq!(flows.get(&key).unwrap(), Some(was));
        assert!(lab.answers(&server, &socket));

        let (socket, key, _) = lab.ask(&server);
        let (other, _) = FlowKey::new((key.low, 1), (key.high, 2), Protocol::UDP, 0);
        assert_eq!(
            flows.remove_if(&[other, key], |_, _| true).unwrap(),
            1,
            "over, and one that is not there"
        );
        assert_eq!(flows.get(&key).unwrap(), None);
        assert!(!lab.answers(&server, &socket), "the answer of a flow that nobody knows is denied");
    }
}
