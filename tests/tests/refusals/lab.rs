//! Two peers in two cgroups, and what their tests have in common.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bulkhead_tests::harness::{Called, Cgroup, Errno, Ns, Peer, Socket, Topology};

/// Limit for what must come, however busy the machine is.
pub const SOON: Duration = Duration::from_secs(20);

/// Limit for the end of what a policy change denies. It takes milliseconds, on a machine that is idle.
pub const ENDED: Duration = Duration::from_secs(20);

/// Both peers' cgroups are zones, by cgroup.
pub const ZONES: &str = "[zone.client]\ncgroups = [\"client\"]\n[zone.server]\ncgroups = [\"server\"]\n";

/// Lets the client reach these ports of the server.
pub fn allow(ports: &[&str]) -> String {
    let ports: Vec<String> = ports.iter().map(|port| format!("\"{port}\"")).collect();
    format!("{ZONES}[[allow]]\nfrom = \"client\"\nto = \"server\"\nports = [{}]\n", ports.join(", "))
}

/// A client and a server, and where they are. Peers come first: they are dropped first.
pub struct Lab {
    pub client: Peer,
    pub server: Peer,
    _cgroups: Vec<Cgroup>,
    /// The client's node.
    pub root: Cgroup,
    /// The server's, when it is another one.
    pub elsewhere: Option<Cgroup>,
    pub net: Net,
}

/// The network of a lab.
pub enum Net {
    Loopback(Ns),
    Pair(Topology),
}

impl Lab {
    /// Two namespaces of one node.
    pub fn pair() -> Lab {
        Lab::new(Net::Pair(Topology::pair().unwrap()), None)
    }

    /// Two namespaces, and the server is not on the client's node.
    pub fn two_nodes() -> Lab {
        Lab::new(Net::Pair(Topology::pair().unwrap()), Some(Cgroup::new("elsewhere").unwrap()))
    }

    /// One namespace of one node.
    pub fn loopback() -> Lab {
        Lab::new(Net::Loopback(Ns::new("lab").unwrap()), None)
    }

    fn new(net: Net, elsewhere: Option<Cgroup>) -> Lab {
        let root = Cgroup::new("node").unwrap();
        let client = root.child("client").unwrap();
        let server = elsewhere.as_ref().unwrap_or(&root).child("server").unwrap();
        let (here, there) = match &net {
            Net::Loopback(ns) => (ns, ns),
            Net::Pair(pair) => (pair.ns("a").unwrap(), pair.ns("b").unwrap()),
        };
        Lab {
            client: Peer::spawn(Some(here), Some(&client)).unwrap(),
            server: Peer::spawn(Some(there), Some(&server)).unwrap(),
            _cgroups: vec![client, server],
            root,
            elsewhere,
            net,
        }
    }

    /// The server's addresses, one for each family.
    pub fn addresses(&self) -> [&'static str; 2] {
        match self.net {
            Net::Loopback(_) => ["127.0.0.1", "::1"],
            Net::Pair(_) => ["10.77.0.2", "fd00:77::2"],
        }
    }
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port)
}

/// The most that an attempt is made until one is refused in time.
pub const TRIES: usize = 12;

/// Makes three attempts, and more (at most [`TRIES`]) as long as none is refused within `limit`: a busy
/// machine may hold up any one of them. Each must fail with one of `errors`. Answers how many it made.
pub fn refused_within(limit: Duration, errors: &[Errno], mut attempt: impl FnMut() -> Called<()>) -> u64 {
    let (mut best, mut tries) = (Duration::MAX, 0);
    while tries < 3 || (best >= limit && tries < TRIES) {
        let error = attempt().expect_err("a denied attempt worked");
        let errno = error.errno().unwrap_or_else(|| panic!("expected one of {errors:?}: {error}"));
        assert!(errors.contains(&errno), "expected one of {errors:?}: {error}");
        best = best.min(error.elapsed().unwrap());
        tries += 1;
    }
    assert!(best < limit, "refused after {best:?} only");
    tries as u64
}

/// Both ends of a connection.
pub struct Connection {
    pub near: Socket,
    pub far: Socket,
}

impl Lab {
    /// Connects to a listener that holds what comes.
    pub fn connect(&self, listener: &Socket) -> Connection {
        let near = self.client.connect(&bulkhead_tests::harness::Dial::tcp(listener.local)).unwrap();
        let far = self.server.accept(listener, SOON).unwrap();
        Connection { near, far }
    }

    /// Says something in both directions, by which both ends are seen to live.
    pub fn talk(&self, connection: &Connection) {
        for (from, near, to, far) in [
            (&self.client, &connection.near, &self.server, &connection.far),
            (&self.server, &connection.far, &self.client, &connection.near),
        ] {
            from.send(near, b"still there", None).unwrap();
            let (data, _) = to.recv(far, SOON).unwrap();
            assert_eq!(data, b"still there");
        }
    }

    /// Sees both ends of a connection come to an error, in time.
    pub fn see_end(&self, connection: &Connection) {
        let near = self.client.begin_ended(&connection.near, ENDED);
        let far = self.server.begin_ended(&connection.far, ENDED);
        for (end, ended) in [("client", near.wait()), ("server", far.wait())] {
            let ended = ended.unwrap_or_else(|error| panic!("the {end} noticed nothing: {error}"));
            let error = ended.error().unwrap_or_else(|| panic!("the {end} saw an orderly end"));
            assert!([Errno::CONNABORTED, Errno::CONNRESET, Errno::PIPE].contains(&error), "{end}: {error}");
        }
    }
}
