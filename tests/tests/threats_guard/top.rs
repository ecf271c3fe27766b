//! The agent above everything, as on an ordinary node: its root is the machine's, and what kernels say by themselves
//! is seen at the socket layer, too.
//!
//! It guards other tests' programs as well, so nothing here is about anybody but this lab's own, whose addresses no
//! other test has. Of `web` only its cgroup tells. Its far end is on the same machine, with addresses that only a route
//! makes its own: who asks it is then known by address alone, so that side is open.

use std::time::Duration;

use bulkhead_tests::harness::threat::at;
use bulkhead_tests::harness::{Agent, Cgroup, Dial, Peer, Topology};
use bulkhead_tests::require_agent;

use crate::answers::{closes, cookies};
use crate::errors::{SMALL, Ways, expires, is_too_large, unheard};
use crate::lab::{OPEN, guarding};

const WEB: [&str; 2] = ["10.97.1.1", "fd00:97:1::1"];
const DB: [&str; 2] = ["10.97.2.1", "fd00:97:2::1"];
const OUTSIDE: [&str; 2] = ["10.97.9.1", "fd00:97:9::1"];
const LONG: Duration = Duration::from_secs(20);

/// Dropped from the top.
struct Lab {
    peers: [Peer; 3],
    cgroups: [Cgroup; 3],
    net: Topology,
    root: Cgroup,
}

impl Lab {
    fn new() -> Lab {
        let net = Topology::routed(&[
            ("web", &["10.97.1.1/24", "fd00:97:1::1/64"]),
            ("db", &["10.97.2.1/24", "fd00:97:2::1/64"]),
            ("outside", &["10.97.9.1/24", "fd00:97:9::1/64"]),
        ])
        .unwrap();
        let router = net.ns("router").unwrap();
        router
            .ip("route add 10.97.9.0/24 via 10.97.9.1 dev port2\n\
                 route add fd00:97:9::/64 via fd00:97:9::1 dev port2")
            .unwrap();
        router.ip(&format!("link set port2 mtu {SMALL}")).unwrap();
        let outside = net.ns("outside").unwrap();
        outside.ip(&format!("link set eth0 mtu {SMALL}")).unwrap();
        outside.ip("route add local 10.97.9.0/24 dev lo\nroute add local fd00:97:9::/64 dev lo").unwrap();
        let root = Cgroup::new("top").unwrap();
        let cgroups = ["web", "db", "outside"].map(|name| root.child(name).unwrap());
        let peer = |at: usize| {
            let name = ["web", "db", "outside"][at];
            Peer::spawn(Some(net.ns(name).unwrap()), Some(&cgroups[at])).unwrap()
        };
        Lab { peers: [peer(0), peer(1), peer(2)], cgroups, net, root }
    }

    fn policy(&self, far: &str) -> String {
        let mount = self.root.path().parent().unwrap();
        let [web, db, _] = self.cgroups.each_ref().map(|cgroup| cgroup.below(mount).unwrap());
        let zones = format!(
            "[zone.top-web]\ncgroups = [\"{web}\"]\n[zone.top-db]\ncgroups = [\"{db}\"]\n\
             cidrs = [\"10.97.2.0/24\", \"fd00:97:2::/64\"]\n\
             [zone.top-far]\ncidrs = [\"10.97.9.0/24\", \"fd00:97:9::/64\"]\n\
             {far}"
        );
        let ports = format!("ports = [\"icmp/echo\", \"udp/{OPEN}\", \"tcp/{OPEN}-{}\"]\n", OPEN + 1);
        let rule = |(from, to): (&str, &str)| {
            format!("[[allow]]\nfrom = \"top-{from}\"\nto = \"top-{to}\"\n{ports}")
        };
        zones + &[("web", "far"), ("far", "db"), ("web", "db")].map(rule).concat()
    }
}

#[test]
fn row_10_above_everything_kernels_are_heard_and_believed_no_more_than_that() {
    require_agent!();
    let lab = Lab::new();
    let [web, db, outside] = &lab.peers;
    let addresses = [0, 1].map(|family| [WEB[family], DB[family], OUTSIDE[family]]);
    let ways = Ways { web, outside, addresses };
    assert_eq!(unheard(&ways, 20), Vec::<String>::new(), "agent off");
    lab.net.ns("db").unwrap().sysctl("ipv4/tcp_syncookies", "2").unwrap();

    let setup = Agent::prepare(&lab.root, &lab.policy("default = { ingress = \"allow\" }\n"))
        .in_ns(lab.net.ns("router").unwrap());
    let agent = guarding(setup.over_everything().unwrap()).start().unwrap();
    let before = agent.counters().unwrap();
    assert_eq!(unheard(&ways, 40), Vec::<String>::new(), "with an agent");
    let mut missing = Vec::new();
    for (name, client) in [("web", web), ("outside", outside)] {
        let spaces = [lab.net.ns(name).unwrap(), lab.net.ns("db").unwrap()];
        for to in DB {
            // The larger one and its answer come in fragments.
            for size in if name == "web" { &[8, 3000][..] } else { &[8] } {
                let answered = client.ping_of(to.parse().unwrap(), *size, LONG);
                missing.extend(answered.err().map(|error| format!("{name} pings {to}, {size}: {error}")));
            }
            closes(client, (db, at(to, OPEN)), spaces);
        }
    }
    assert!(cookies(lab.net.ns("db").unwrap()) >= 8, "the kernel did send cookies");
    let moved = agent.counters().unwrap().since(&before);
    assert!(missing.is_empty(), "{missing:#?}; moved {moved:?}");
    let denied: Vec<_> = moved.iter().filter(|(pair, _)| pair.verdict != "allow").collect();
    assert!(denied.is_empty(), "{denied:?}");
    // Where the far end is closed, too, to whoever its address does not tell of.
    agent.apply(&lab.policy("")).unwrap();
    for (here, there) in WEB.into_iter().zip(OUTSIDE) {
        assert!(expires(web, here, there, 60), "{here}");
        // Of a connected socket's flow only the socket knows.
        let far = format!("{}60", there.trim_end_matches('1'));
        let socket = web.connect(&Dial::udp(at(&far, OPEN))).unwrap();
        assert!(is_too_large(web, &socket, None, 60), "{here}");
        web.close(&socket).unwrap();
    }
    let denied = agent.counters().unwrap().since(&before);
    assert!(denied.iter().all(|(pair, _)| pair.verdict == "allow"), "{denied:?}");
    // What no rule lets in is denied all the same.
    web.ping_of(OUTSIDE[0].parse().unwrap(), 8, LONG).unwrap();
    assert!(db.connect(&Dial::tcp(at(OUTSIDE[0], OPEN))).is_err());
}
