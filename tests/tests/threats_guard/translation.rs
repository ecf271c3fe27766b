//! Virtual addresses on a lab's node, by nftables.

use std::io::Write;
use std::process::Stdio;

use bulkhead_tests::harness::Ns;
use bulkhead_tests::harness::threat::{DB, DB6, HOST, HOST6, Lab, WEB, WEB6};

/// Is `db`; who asks keeps its address.
pub(crate) const SERVICE: [&str; 2] = ["10.96.0.1", "fd00:96::1"];
/// Is `db`; who asks is masqueraded as the node.
pub(crate) const MASQUERADED: [&str; 2] = ["10.96.0.2", "fd00:96::2"];
/// Is `web`; who asks is masqueraded, so that `web` itself may ask.
pub(crate) const HAIRPIN: [&str; 2] = ["10.96.0.3", "fd00:96::3"];
/// The node's own, whose ports from 7000 to 9999 are `db`'s for whoever comes from outside, as are those
/// from 17000 to 19999, for which he is masqueraded.
pub(crate) const NODE: [&str; 2] = [HOST, HOST6];

/// Zone-file text.
pub(crate) const VIRTUAL: &str = "[virtual]\ncidrs = [\"10.96.0.0/24\", \"fd00:96::/64\"]\n";

/// Translates.
pub(crate) fn translate(lab: &Lab) {
    let table = format!(
        "table inet services {{\n\
         chain translate {{\n\
         ip daddr {{ {}, {} }} dnat ip to {DB}\n\
         ip6 daddr {{ {}, {} }} dnat ip6 to {DB6}\n\
         ip daddr {} dnat ip to {WEB}\n\
         ip6 daddr {} dnat ip6 to {WEB6}\n\
         iifname port2 ip daddr {HOST} th dport {{ 7000-9999, 17000-19999 }} dnat ip to {DB}\n\
         iifname port2 ip6 daddr {HOST6} th dport {{ 7000-9999, 17000-19999 }} dnat ip6 to {DB6}\n\
         }}\n\
         chain pre {{ type nat hook prerouting priority dstnat; jump translate; }}\n\
         chain out {{ type nat hook output priority -100; jump translate; }}\n\
         chain post {{ type nat hook postrouting priority srcnat;\n\
         ct original ip daddr {{ {}, {} }} masquerade\n\
         ct original ip6 daddr {{ {}, {} }} masquerade\n\
         ct original ip daddr {HOST} th dport 17000-19999 masquerade\n\
         ct original ip6 daddr {HOST6} th dport 17000-19999 masquerade\n\
         }}\n}}\n",
        SERVICE[0],
        MASQUERADED[0],
        SERVICE[1],
        MASQUERADED[1],
        HAIRPIN[0],
        HAIRPIN[1],
        MASQUERADED[0],
        HAIRPIN[0],
        MASQUERADED[1],
        HAIRPIN[1],
    );
    let node = lab.node().unwrap();
    nft(node, &table);
    // On the node a packet needs a way before it is translated.
    node.ip(
        "route add 10.96.0.0/24 via 10.99.9.1 dev port2\nroute add fd00:96::/64 via fd00:99:9::1 dev port2",
    )
    .unwrap();
}

/// Puts both pods on a bridge of the node instead of on wires of their own.
pub(crate) fn bridge(lab: &Lab) {
    let node = lab.node().unwrap();
    // Who comes from the bridge and goes back there is not told of a shorter way.
    node.sysctl("ipv4/conf/all/send_redirects", "0").unwrap();
    for name in ["web", "db"] {
        lab.ns(name).unwrap().sysctl("ipv6/conf/eth0/accept_redirects", "0").unwrap();
    }
    let mut commands =
        String::from("link add br0 type bridge stp_state 0 forward_delay 0\nlink set br0 up\n");
    for (port, v4, v6) in [("port0", WEB, WEB6), ("port1", DB, DB6)] {
        commands += &format!("addr flush dev {port}\nlink set {port} master br0\n");
        commands += &format!("route replace {v4} dev br0\nroute replace {v6} dev br0\n");
    }
    commands += &format!("addr add {HOST}/32 dev br0\naddr add {HOST6}/128 dev br0 nodad\n");
    node.ip(&commands).unwrap();
    node.sysctl("ipv4/conf/br0/send_redirects", "0").unwrap();
}

pub(crate) fn nft(ns: &Ns, table: &str) {
    let mut nft = ns.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(table.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "nft refused:\n{table}");
}
