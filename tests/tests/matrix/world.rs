//! The two ends as processes, and one try of one cell.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bulkhead_tests::harness::{
    Called, Cgroup, Dial, Errno, Kind as SocketKind, Ns, Peer, Served, Socket, Topology,
};

use super::axes::{Cell, Family, Server, Transport};
use super::placement::{OLDER_PORTS, Placement, YOUNGER_PORTS};

/// Limit for what must arrive, and must therefore not depend on how busy the machine is.
const ARRIVES: Duration = Duration::from_secs(20);
/// Limit for what must not.
const SILENT: Duration = Duration::from_millis(300);

/// Two peers, their cgroups, their network. Peers come first: they are dropped first.
pub struct World {
    client: Peer,
    server: Peer,
    servers: Vec<(Cell, Socket)>,
    _cgroups: [Cgroup; 2],
    pub roots: Vec<Cgroup>,
    placement: Placement,
    _net: Net,
}

/// What came of a try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Got {
    /// It arrived and was answered.
    Answer,
    /// A call failed.
    Error(Errno),
    /// Nothing came back.
    Silence,
    /// The peers disagree.
    Odd,
}

/// A try: what the client saw, and whether the server saw anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tried {
    pub got: Got,
    /// `None` where the kernel answers.
    pub seen: Option<bool>,
}

/// Kept for its drop.
enum Net {
    One { _ns: Ns },
    Pair { _pair: Topology },
}

impl World {
    pub fn new(placement: Placement) -> World {
        let roots: Vec<Cgroup> = (0..placement.nodes()).map(|_| Cgroup::new("matrix").unwrap()).collect();
        let home = |end: usize| roots.get(end).unwrap_or(&roots[0]);
        let cgroups = [home(0).child("client").unwrap(), home(1).child("server").unwrap()];
        let (net, client, server) = if placement == Placement::Loopback {
            let ns = Ns::new("matrix").unwrap();
            let client = Peer::spawn(Some(&ns), Some(&cgroups[0])).unwrap();
            let server = Peer::spawn(Some(&ns), Some(&cgroups[1])).unwrap();
            (Net::One { _ns: ns }, client, server)
        } else {
            let pair = Topology::pair().unwrap();
            let client = Peer::spawn(Some(pair.ns("a").unwrap()), Some(&cgroups[0])).unwrap();
            let server = Peer::spawn(Some(pair.ns("b").unwrap()), Some(&cgroups[1])).unwrap();
            (Net::Pair { _pair: pair }, client, server)
        };
        World { client, server, servers: Vec::new(), _cgroups: cgroups, roots, placement, _net: net }
    }

    /// Makes the servers of that age.
    pub fn serve(&mut self, age: Server) {
        let first = if age == Server::Older { OLDER_PORTS } else { YOUNGER_PORTS };
        for (number, cell) in Cell::all().into_iter().enumerate() {
            if cell.server != age || cell.transport == Transport::IcmpEcho {
                continue;
            }
            let address =
                if cell.family == Family::Mapped { "::".parse().unwrap() } else { self.address(cell) };
            let at = SocketAddr::new(address, first + u16::try_from(number).unwrap());
            let socket = if cell.transport == Transport::Tcp {
                self.server.tcp_echo(at)
            } else {
                self.server.udp_echo(at)
            };
            self.servers.push((cell, socket.unwrap()));
        }
    }

    /// Closes the servers that are to be made anew.
    pub fn close_younger(&mut self) {
        let (close, keep) = std::mem::take(&mut self.servers)
            .into_iter()
            .partition::<Vec<_>, _>(|(cell, _)| cell.server == Server::Younger);
        self.servers = keep;
        close.iter().for_each(|(_, socket)| self.server.close(socket).unwrap());
    }

    /// Talks once by a new socket.
    pub fn try_once(&self, cell: Cell, arrives: bool) -> Tried {
        let limit = if arrives { ARRIVES } else { SILENT };
        let Some(server) = self.servers.iter().find(|(other, _)| *other == cell).map(|(_, socket)| *socket)
        else {
            let ping = self.client.ping(self.address(cell), limit);
            return Tried { got: got(ping.map(drop)), seen: None };
        };
        let before = self.server.served(&server).unwrap();
        let got = got(self.talk(cell, SocketAddr::new(self.address(cell), server.local.port()), limit));
        let after = self.server.served(&server).unwrap();
        let one = Served {
            accepted: u64::from(cell.transport == Transport::Tcp),
            messages: 1,
            bytes: 32,
            refused: 0,
        };
        let seen = after != before;
        let expected = Served {
            accepted: before.accepted + one.accepted,
            messages: before.messages + one.messages,
            bytes: before.bytes + one.bytes,
            ..before
        };
        let odd = (got == Got::Answer) != seen || (seen && after != expected);
        Tried { got: if odd { Got::Odd } else { got }, seen: Some(seen) }
    }

    fn talk(&self, cell: Cell, to: SocketAddr, limit: Duration) -> Called<()> {
        let v6 = cell.family != Family::V4;
        let dial = |dial: Dial| if v6 { dial.v6_socket().within(limit) } else { dial.within(limit) };
        match cell.transport {
            Transport::Tcp => {
                let socket = self.client.connect(&dial(Dial::tcp(to)))?;
                let answer = self.client.exchange(&socket, 1, limit).map(drop);
                self.client.reset(&socket)?;
                answer
            }
            Transport::UdpConnected => {
                let socket = self.client.connect(&dial(Dial::udp(to)))?;
                let answer = self.client.exchange(&socket, 1, limit).map(drop);
                self.client.close(&socket)?;
                answer
            }
            Transport::UdpUnconnected => {
                let socket = self.client.open(SocketKind::Udp, None, v6)?;
                let answer = self.client.exchange_with(&socket, to, 1, limit).map(drop);
                self.client.close(&socket)?;
                answer
            }
            Transport::IcmpEcho => self.client.ping(to.ip(), limit).map(drop),
        }
    }

    /// The server's address.
    fn address(&self, cell: Cell) -> IpAddr {
        let text = match (self.placement, cell.family) {
            (Placement::Loopback, Family::V6) => "::1",
            (Placement::Loopback, _) => "127.0.0.1",
            (_, Family::V6) => "fd00:77::2",
            (_, _) => "10.77.0.2",
        };
        text.parse().unwrap()
    }
}

fn got(called: Called<()>) -> Got {
    match called {
        Ok(()) => Got::Answer,
        Err(error) if error.is_timeout() => Got::Silence,
        Err(error) => error.errno().map_or(Got::Odd, Got::Error),
    }
}
