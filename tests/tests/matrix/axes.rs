//! What a cell of the matrix is made of.

use std::fmt;

/// How a client talks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    Tcp,
    /// `connect`, then `send`.
    UdpConnected,
    /// `sendto`.
    UdpUnconnected,
    IcmpEcho,
}

/// By which addresses and kind of socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    V4,
    V6,
    /// An AF_INET6 socket to `::ffff:a.b.c.d`; the server's is AF_INET6, too.
    Mapped,
}

/// When the server's socket was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Server {
    /// Before there was an agent.
    Older,
    /// Under its eyes.
    Younger,
}

/// What the policy says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// There is no agent yet.
    Off,
    /// A rule allows it.
    Allowed,
    /// No rule speaks.
    DeniedByDefault,
    /// A rule allows it and another denies it.
    DeniedByRule,
    /// No rule speaks, and the zones only report.
    Audit,
    /// A rule denies it, and the whole node only reports.
    NodeAudits,
}

/// A way to talk, tried once for each [`Kind`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    pub transport: Transport,
    pub family: Family,
    pub server: Server,
}

impl Kind {
    /// In the order in which they are tried.
    pub const ALL: [Kind; 6] =
        [Kind::Off, Kind::Allowed, Kind::DeniedByDefault, Kind::DeniedByRule, Kind::Audit, Kind::NodeAudits];

    /// Verdict and reason of the side that decides; `None` where nobody judges.
    pub fn verdict(self) -> Option<(&'static str, &'static str)> {
        match self {
            Kind::Off => None,
            Kind::Allowed => Some(("allow", "allow-rule")),
            Kind::DeniedByDefault => Some(("deny", "default")),
            Kind::DeniedByRule => Some(("deny", "deny-rule")),
            Kind::Audit => Some(("audit", "default")),
            Kind::NodeAudits => Some(("audit", "deny-rule")),
        }
    }

    pub fn is_denied(self) -> bool {
        matches!(self, Kind::DeniedByDefault | Kind::DeniedByRule)
    }
}

impl Cell {
    /// Every cell that exists.
    pub fn all() -> Vec<Cell> {
        let mut cells = Vec::new();
        for transport in
            [Transport::Tcp, Transport::UdpConnected, Transport::UdpUnconnected, Transport::IcmpEcho]
        {
            for family in [Family::V4, Family::V6, Family::Mapped] {
                for server in [Server::Older, Server::Younger] {
                    cells.push(Cell { transport, family, server });
                }
            }
        }
        cells.retain(|cell| cell.missing().is_none());
        cells
    }

    /// Why there is no such cell.
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Cell { transport: Transport::IcmpEcho, family: Family::Mapped, .. } => {
                Some("an AF_INET6 ping socket speaks ICMPv6 only and cannot reach a mapped address")
            }
            Cell { transport: Transport::IcmpEcho, server: Server::Older, .. } => {
                Some("the kernel answers a ping: there is no server whose age could matter")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "TCP",
            Transport::UdpConnected => "UDP connected",
            Transport::UdpUnconnected => "UDP unconnected",
            Transport::IcmpEcho => "ICMP echo",
        };
        let family = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
            Family::Mapped => "mapped",
        };
        let server = match (self.transport, self.server) {
            (Transport::IcmpEcho, _) => "",
            (_, Server::Older) => ", older server",
            (_, Server::Younger) => "",
        };
        f.pad(&format!("{transport}, {family}{server}"))
    }
}
