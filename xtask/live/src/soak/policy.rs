//! Two policies that call the same programs by other zones, found in other ways: a switch between them
//! changes nearly every table. Each allows [`NEVER`] between zones that only the *other* one puts anybody
//! into, so that whoever reads one policy's zones and the other's rules lets it through.

use std::net::SocketAddr;

/// Both allow it.
pub(crate) const ALWAYS: u16 = 7001;
/// Only the first one allows it.
pub(crate) const FIRST: u16 = 7002;
/// Only the second one allows it.
pub(crate) const SECOND: u16 = 7003;
/// Both deny it.
pub(crate) const NEVER: u16 = 7004;

/// The server's addresses.
pub(crate) const SERVERS: [&str; 2] = ["10.61.9.9", "fd00:61:9::9"];

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Policy {
    A,
    B,
}

impl Policy {
    /// The other one.
    pub(crate) fn other(self) -> Policy {
        match self {
            Policy::A => Policy::B,
            Policy::B => Policy::A,
        }
    }

    /// The port that only this one allows.
    pub(crate) fn own(self) -> u16 {
        match self {
            Policy::A => FIRST,
            Policy::B => SECOND,
        }
    }

    /// Its zone file.
    pub(crate) fn text(self) -> String {
        let (zones, ours, theirs) = match self {
            Policy::A => (A, ["red", "red-six", "db"], ["blue", "store"]),
            Policy::B => (B, ["blue", "blue-six", "store"], ["red", "db"]),
        };
        zones.replace("FILLER", &filler(self)) + &rules(ours, theirs, self.own())
    }
}

/// Clients by address, by cgroup and by both; the server by address.
const A: &str = r#"
[zone.red]
cidrs = ["10.61.1.0/24", FILLER]
cgroups = ["two", "three", "churn"]
[zone.red-six]
cidrs = ["fd00:61:3::/64", "10.61.3.0/24"]
[zone.db]
cidrs = ["10.61.9.0/24", "fd00:61:9::/64"]
[zone.blue]
cidrs = ["198.51.100.0/25"]
cgroups = ["nobody"]
[zone.store]
cidrs = ["198.51.100.128/25"]
"#;

/// Clients by narrower addresses and other cgroups; the server by cgroup.
const B: &str = r#"
[zone.blue]
cidrs = ["10.61.1.1/32", "10.61.2.2/32", FILLER]
cgroups = ["three", "churn"]
[zone.blue-six]
cidrs = ["fd00:61:3::3/128", "10.61.3.3/32"]
[zone.store]
cgroups = ["server"]
[zone.red]
cidrs = ["198.51.100.0/26"]
[zone.db]
cidrs = ["198.51.100.192/26"]
cgroups = ["nobody"]
"#;

/// What is right between the policy's own zones, and the trap between those of the other one.
fn rules([client, six, server]: [&str; 3], [other_client, other_server]: [&str; 2], own: u16) -> String {
    let mut rules = format!(
        "[[allow]]\nfrom = [\"{client}\", \"{six}\"]\nto = \"{server}\"\n\
         ports = [\"tcp/{ALWAYS}\", \"udp/{ALWAYS}\", \"tcp/{own}\", \"udp/{own}\"]\n"
    );
    for (from, to) in [(other_client, server), (client, other_server), (other_client, other_server)] {
        rules += &format!(
            "[[allow]]\nfrom = \"{from}\"\nto = \"{to}\"\nports = [\"tcp/{NEVER}\", \"udp/{NEVER}\"]\n"
        );
    }
    rules
}

/// Prefixes of nobody, so that a switch has much to write.
fn filler(policy: Policy) -> String {
    let second = if policy == Policy::A { 100 } else { 101 };
    let prefixes = (0..=255).map(|n| format!("\"10.{second}.{n}.0/24\""));
    prefixes.collect::<Vec<_>>().join(", ")
}

/// The server on a port, by IPv4 or IPv6.
pub(crate) fn server(v6: bool, port: u16) -> SocketAddr {
    let [v4, six] = SERVERS;
    let address = if v6 { six } else { v4 };
    address.parse().map_or_else(|_| SocketAddr::from(([0, 0, 0, 0], port)), |ip| SocketAddr::new(ip, port))
}
