//! Wherever two workloads of a node meet: in one namespace or in two, over loopback or over the wire, by IPv4
//! and by IPv6.

use std::net::{IpAddr, SocketAddr};

use bulkhead_tests::harness::{Agent, Cgroup, Dial, Kind, Peer, Serve, Step, Topology};
use bulkhead_tests::require_agent;

use crate::lab::{NOTHING, SOON, counted};
use crate::order::conversation;
use crate::streams::{GREETING, REQUEST, see_end, see_reset};

const POLICY: &str = "[zone.client]\ncgroups = [\"client\"]\n[zone.server]\ncgroups = [\"server\"]\n\
     [[allow]]\nfrom = \"client\"\nto = \"server\"\nports = [\"tcp/7000-7999\", \"udp/7000-7999\"]\n\
     tls = \"require\"\n";

/// Asks for the address of `example.com`.
const QUERY: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";

#[test]
fn no_clear_text_arrives_and_tls_does_wherever_they_meet() {
    require_agent!();
    let pair = Topology::pair().unwrap();
    let root = Cgroup::new("node").unwrap();
    let [of_client, of_server] = ["client", "server"].map(|name| root.child(name).unwrap());
    let client = Peer::spawn(Some(pair.ns("a").unwrap()), Some(&of_client)).unwrap();
    let places = [
        ("a", &["127.0.0.1", "::1", "10.77.0.1", "fd00:77::1"][..]),
        ("b", &["10.77.0.2", "fd00:77::2"][..]),
    ];
    pair.ns("a").unwrap().ip("link set lo up").unwrap();
    // Before the agent, which knows where somebody lives when it starts, and learns of later ones in its time.
    let servers = places.map(|(ns, addresses)| {
        (Peer::spawn(Some(pair.ns(ns).unwrap()), Some(&of_server)).unwrap(), addresses)
    });
    let agent = Agent::start(&root, POLICY).unwrap();
    for (server, addresses) in &servers {
        for address in *addresses {
            let address: IpAddr = address.parse().unwrap();
            let lab = Place { agent: &agent, client: &client, server, address };
            lab.stops_clear_streams();
            lab.stops_clear_datagrams();
            lab.passes_tls();
        }
    }
}

/// Two programs, and where one of them listens.
struct Place<'a> {
    agent: &'a Agent,
    client: &'a Peer,
    server: &'a Peer,
    address: IpAddr,
}

impl Place<'_> {
    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    fn stops_clear_streams(&self) {
        for (port, client_speaks) in [(7100, true), (7101, false)] {
            let before = self.agent.counters().unwrap();
            let listener = self.server.listen(Kind::Tcp, self.at(port), Serve::Hold).unwrap();
            let near = self.client.connect(&Dial::tcp(listener.local)).unwrap();
            let far = self.server.accept(&listener, SOON).unwrap();
            if client_speaks {
                self.client.send(&near, REQUEST, None).unwrap();
                see_reset(self.server, &far);
                see_end(self.client, &near);
            } else {
                self.server.send(&far, GREETING, None).unwrap();
                see_reset(self.client, &near);
                see_end(self.server, &far);
            }
            counted(self.agent, &before, "deny", "clear-text", 1);
            self.server.close(&listener).unwrap();
        }
    }

    fn stops_clear_datagrams(&self) {
        let before = self.agent.counters().unwrap();
        let far = self.server.listen(Kind::Udp, self.at(7200), Serve::Hold).unwrap();
        let near = self.client.open(Kind::Udp, None, self.address.is_ipv6()).unwrap();
        let _refused = self.client.send(&near, QUERY, Some(self.at(7200)));
        assert!(self.server.recv(&far, NOTHING).is_err(), "a query arrived at {}", self.address);
        counted(self.agent, &before, "deny", "clear-text", 1);
        self.server.close(&far).unwrap();
    }

    fn passes_tls(&self) {
        let (hellos, _) = conversation();
        let listener = self.server.listen(Kind::Tcp, self.at(7300), Serve::Hold).unwrap();
        let answers = vec![Step::Receive(hellos[0].len()), Step::Send(hellos[1].clone())];
        let far = self.server.begin_play_accepted(&listener, answers, SOON);
        let asks = vec![Step::Send(hellos[0].clone()), Step::Receive(hellos[1].len())];
        let near = self.client.begin_play(self.at(7300), None, asks, SOON).wait().unwrap();
        assert!(near.complete && far.wait().unwrap().complete, "{}", self.address);
        self.server.close(&listener).unwrap();
    }
}
