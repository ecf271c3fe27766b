//! The machines that attacks are tried on.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use super::super::{Cgroup, Ns, Peer, Topology};

/// The workload `web`'s address, and the same in IPv6.
pub const WEB: &str = "10.99.1.1";
/// See [`WEB`].
pub const WEB6: &str = "fd00:99:1::1";
/// The workload `db`'s.
pub const DB: &str = "10.99.2.1";
/// See [`DB`].
pub const DB6: &str = "fd00:99:2::1";
/// The outside machine's.
pub const OUTSIDE: &str = "10.99.9.1";
/// See [`OUTSIDE`].
pub const OUTSIDE6: &str = "fd00:99:9::1";
/// The address of the namespace `spare`, in which nobody is at first.
pub const SPARE: &str = "10.99.3.1";
/// See [`SPARE`].
pub const SPARE6: &str = "fd00:99:3::1";
/// Begins the addresses of strangers: the outside machine answers for all of them.
pub const STRANGERS: &str = "10.99.9.";
/// See [`STRANGERS`].
pub const STRANGERS6: &str = "fd00:99:9::";
/// Begins addresses that are routed to the outside machine and that its kernel takes no part in: a test
/// speaks for them, with raw packets and captures.
pub const PUPPETS: &str = "10.99.8.";
/// See [`PUPPETS`].
pub const PUPPETS6: &str = "fd00:99:8::";
/// The node's own, on each of its interfaces.
pub const HOST: &str = "169.254.1.1";
/// See [`HOST`].
pub const HOST6: &str = "fd00:ffff::1";

/// Zone-file text: both workloads are zones, by cgroup and by address; `outside` is in none.
pub const WEB_AND_DB: &str = "[zone.web]\ncgroups = [\"web\"]\ncidrs = [\"10.99.1.0/24\", \"fd00:99:1::/64\"]\n\
     [zone.db]\ncgroups = [\"db\"]\ncidrs = [\"10.99.2.0/24\", \"fd00:99:2::/64\"]\n";

/// A node with two workloads, `web` and `db`, each in a namespace of its own, and a machine `outside`
/// that the node routes to. The agent's place is the node's namespace, its cgroup root [`Lab::root`].
///
/// The host's sides of the wires are in the node's namespace: `port0` is `web`'s, `port1` `db`'s,
/// `port2` leads outside, `port3` is `spare`'s, a namespace that waits for a use; in every other namespace the interface is `eth0`.
///
/// Peers come first: they are dropped first.
#[derive(Debug)]
pub struct Lab {
    /// A program of the workload `web`.
    pub web: Peer,
    /// A program of the workload `db`.
    pub db: Peer,
    /// A program on the outside machine, which is not of this node.
    pub outside: Peer,
    cgroups: Mutex<BTreeMap<String, Cgroup>>,
    /// The node's cgroup root.
    pub root: Cgroup,
    /// Where the outside machine's programs are.
    pub elsewhere: Cgroup,
    /// All namespaces.
    pub net: Topology,
}

impl Lab {
    /// The machines with a peer in each of `web`, `db` and `outside`.
    pub fn new() -> Result<Lab> {
        let net = Topology::routed(&[
            ("web", &["10.99.1.1/24", "fd00:99:1::1/64"]),
            ("db", &["10.99.2.1/24", "fd00:99:2::1/64"]),
            ("outside", &["10.99.9.1/24", "fd00:99:9::1/64"]),
            ("spare", &["10.99.3.1/24", "fd00:99:3::1/64"]),
        ])?;
        net.ns("router")?.ip(
            "route add 10.99.9.0/24 via 10.99.9.1 dev port2\nroute add fd00:99:9::/64 via fd00:99:9::1 dev port2\n\
             route add 10.99.8.0/24 via 10.99.9.1 dev port2\nroute add fd00:99:8::/64 via fd00:99:9::1 dev port2",
        )?;
        net.ns("outside")?
            .ip("route add local 10.99.9.0/24 dev lo\nroute add local fd00:99:9::/64 dev lo")?;
        let root = Cgroup::new("node")?;
        let elsewhere = Cgroup::new("outside")?;
        let [of_web, of_db] = [root.child("web")?, root.child("db")?];
        let peer = |name: &str, cgroup: &Cgroup| Peer::spawn(Some(net.ns(name)?), Some(cgroup));
        let [web, db, outside] = [peer("web", &of_web)?, peer("db", &of_db)?, peer("outside", &elsewhere)?];
        let cgroups = Mutex::new([("web".to_owned(), of_web), ("db".to_owned(), of_db)].into());
        Ok(Lab { web, db, outside, cgroups, root, elsewhere, net })
    }

    /// The node's own namespace.
    pub fn node(&self) -> Result<&Ns> {
        self.net.ns("router")
    }

    /// A namespace: `node`, `web`, `db`, `outside` or `spare`.
    pub fn ns(&self, name: &str) -> Result<&Ns> {
        if name == "node" { self.node() } else { self.net.ns(name) }
    }

    /// One more program: in a namespace, and in a cgroup below the node's root, which is made when it is
    /// not there yet.
    pub fn spawn(&self, namespace: &str, cgroup: &str) -> Result<Peer> {
        let mut cgroups = self.cgroups.lock().unwrap_or_else(PoisonError::into_inner);
        if !cgroups.contains_key(cgroup) {
            cgroups.insert(cgroup.to_owned(), self.root.child(cgroup)?);
        }
        Peer::spawn(Some(self.ns(namespace)?), cgroups.get(cgroup))
    }
}
