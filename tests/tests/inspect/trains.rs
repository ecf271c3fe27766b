//! Many datagrams in one packet (`UDP_SEGMENT`, `UDP_GRO`): each is judged, not only the first.

use std::fs;

use bulkhead_tests::harness::{Launch, Program};
use bulkhead_tests::require_agent;

use crate::lab::{Lab, SOON};

/// Receives at port `$1`, together where `$2` says so, and writes down what came.
const RECEIVE: &str = r#"
import os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if sys.argv[2] == "gro":
    s.setsockopt(17, 104, 1)
s.bind(("10.77.0.2", int(sys.argv[1])))
open("ready", "w")
with open("got", "ab", buffering=0) as got:
    while True:
        got.write(s.recv(65536))
"#;

/// Sends datagrams of 1,200 bytes to port `$1` in one call: QUIC's first one, then what `$2` says. The last
/// is marked by `$3`.
const SEND: &str = r#"
import socket, sys
head = bytes.fromhex("c300000001088394c8f03e5157080000449e")
first = head + b"\xa7" * (1200 - len(head))
clear = b"GET /secret HTTP/1.1\r\nHost: example.com\r\n\r\n".ljust(1200, b"x")
last = first[:600] + sys.argv[3].encode().ljust(600, b"\xa7")
datagrams = [first] + [clear] * (sys.argv[2] == "clear") + [first] * 20 + [last]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(17, 103, 1200)
try:
    s.sendto(b"".join(datagrams), ("10.77.0.2", int(sys.argv[1])))
except PermissionError:
    pass
"#;

#[test]
fn each_datagram_of_a_train_is_judged() {
    require_agent!();
    for (lab, begin) in [(Lab::one_node(), 7500), (Lab::receiver_alone(), 7510), (Lab::sender_alone(), 7520)]
    {
        let agent = lab.agent("require");
        for (port, how) in [(begin, "plain"), (begin + 1, "gro")] {
            let receiver = lab.receives(port, how);
            let got = || fs::read(receiver.folder().join("got")).unwrap_or_default();
            let holds = |what: &str| got().windows(what.len()).any(|window| window == what.as_bytes());
            for (what, marker) in [("quic", "first-mark"), ("clear", "second-mark"), ("quic", "third-mark")] {
                lab.sends(port, what, marker);
                if what == "quic" {
                    bulkhead_tests::harness::wait_until(SOON, "a train arrives", || holds(marker)).unwrap();
                }
            }
            assert!(!holds("GET /secret"), "clear text arrived behind the first datagram, {how}");
            assert!(!holds("second-mark"), "and neither did anything behind it, {how}");
        }
        drop(agent);
    }
}

impl Lab {
    fn receives(&self, port: u16, how: &str) -> Program {
        let launch = Launch::new(["python3", "-c", RECEIVE, &port.to_string(), how]);
        let [_, server] = self.cgroups();
        let mut receiver = launch.start(self.pair.ns("b").unwrap(), server).unwrap();
        let ready = receiver.folder().join("ready");
        receiver.wait_until(SOON, || ready.exists()).unwrap();
        receiver
    }

    fn sends(&self, port: u16, what: &str, marker: &str) {
        let [client, _] = self.cgroups();
        let launch = Launch::new(["python3", "-c", SEND, &port.to_string(), what, marker]);
        let said = launch.run(self.pair.ns("a").unwrap(), client, SOON).unwrap();
        assert!(said.errors.is_empty(), "{}", said.errors);
    }
}
