//! Where the two ends are, how their zones know them, and so what each verdict looks like there.

use std::sync::OnceLock;

use bulkhead_datapath::Features;
use bulkhead_tests::harness::Pair;

use super::axes::{Cell, Family, Kind, Server, Transport};

/// Ports of servers that are older than the agent, and of those that are not.
pub const OLDER_PORTS: u16 = 7000;
pub const YOUNGER_PORTS: u16 = 8000;

/// Where the ends are, and by what they belong to their zones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Two namespaces of one node, zones by prefix.
    Prefix,
    /// Two namespaces of one node, zones by cgroup.
    Cgroup,
    /// Two namespaces of one node; each end is in one zone by cgroup and in another one by prefix.
    Both,
    /// One namespace, two cgroups.
    Loopback,
    /// Two nodes with an agent each.
    TwoNodes,
    /// Two nodes, and the opener is in no zone: only the receiver's node can deny.
    ReceiverAlone,
}

/// What is to be seen of a denied attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sign {
    /// The call fails with EPERM.
    Eperm,
    /// Nothing comes back.
    Silence,
}

impl Placement {
    pub fn nodes(self) -> usize {
        if matches!(self, Placement::TwoNodes | Placement::ReceiverAlone) { 2 } else { 1 }
    }

    /// Why a cell that exists elsewhere is not tried here.
    pub fn skips(self, cell: Cell) -> Option<&'static str> {
        if self == Placement::ReceiverAlone && cell.transport == Transport::IcmpEcho {
            return Some("the kernel answers a ping without a socket: that side belongs to the guard");
        }
        let has_older_socket = cell.server == Server::Older && cell.transport != Transport::IcmpEcho;
        if self == Placement::Loopback && has_older_socket && !tells_namespaces() {
            return Some("before Linux 6.15 it is not known on whose loopback a socket is that is older");
        }
        None
    }

    /// The zone file. Ends are the cgroups `client` and `server` below the cgroup root.
    pub fn policy(self, kind: Kind) -> String {
        let mut text = String::new();
        let mode = if kind == Kind::Audit { "mode = \"audit\"\n" } else { "" };
        for (zone, selector) in self.zones() {
            text += &format!("[zone.{zone}]\n{selector}\n{mode}\n");
        }
        let denied_by_rule = matches!(kind, Kind::DeniedByRule | Kind::NodeAudits);
        if kind == Kind::Allowed || denied_by_rule {
            text += &self.rules("allow");
        }
        if denied_by_rule {
            text += &self.rules("deny");
        }
        text
    }

    /// Counters that move by one flow, for each node.
    pub fn counted(self, cell: Cell, kind: Kind) -> Vec<Option<Pair>> {
        let Some((verdict, reason)) = kind.verdict() else { return vec![None; self.nodes()] };
        let (from, to) = self.labels(cell);
        let decided = Pair::new(from, to, verdict, reason);
        match self {
            Placement::TwoNodes if kind.is_denied() => vec![Some(decided), None],
            // No socket answers a ping, so the receiver's node sees nothing of it.
            Placement::TwoNodes if cell.transport == Transport::IcmpEcho => vec![Some(decided), None],
            Placement::TwoNodes => vec![Some(decided.clone()), Some(decided)],
            Placement::ReceiverAlone => vec![Some(Pair::new(from, to, "allow", "open")), Some(decided)],
            _ => vec![Some(decided)],
        }
    }

    /// What a denial looks like to the client.
    pub fn sign(self, cell: Cell) -> Sign {
        // The kernel's `ping_v6_sendmsg` drops the error that its own output path hands it, and answers
        // that all was sent.
        let mute = cell.transport == Transport::IcmpEcho && cell.family == Family::V6;
        if mute || self == Placement::ReceiverAlone { Sign::Silence } else { Sign::Eperm }
    }

    fn zones(self) -> Vec<(&'static str, &'static str)> {
        const CLIENT_ADDRESSES: &str = "cidrs = [\"10.77.0.1/32\", \"fd00:77::1/128\"]";
        const SERVER_ADDRESSES: &str = "cidrs = [\"10.77.0.2/32\", \"fd00:77::2/128\"]";
        const CLIENT_CGROUP: &str = "cgroups = [\"client\"]";
        const SERVER_CGROUP: &str = "cgroups = [\"server\"]";
        match self {
            Placement::Prefix | Placement::TwoNodes => {
                vec![("client", CLIENT_ADDRESSES), ("server", SERVER_ADDRESSES)]
            }
            Placement::Cgroup | Placement::Loopback => {
                vec![("client", CLIENT_CGROUP), ("server", SERVER_CGROUP)]
            }
            Placement::Both => vec![
                ("client", CLIENT_CGROUP),
                ("client-net", CLIENT_ADDRESSES),
                ("server", SERVER_CGROUP),
                ("server-net", SERVER_ADDRESSES),
            ],
            Placement::ReceiverAlone => vec![("server", SERVER_ADDRESSES)],
        }
    }

    /// Rules for everything that is tried. Where zones are by both, the allowing one names the cgroups'
    /// zones and the denying one the prefixes': only the union of both makes a denial of it.
    fn rules(self, action: &str) -> String {
        let by_prefix = self == Placement::Both && action == "deny";
        let (client, server) = match self {
            Placement::ReceiverAlone => ("world", "server"),
            _ if by_prefix => ("client-net", "server-net"),
            _ => ("client", "server"),
        };
        let ports = [OLDER_PORTS, YOUNGER_PORTS]
            .map(|first| format!("\"tcp/{first}-{last}\", \"udp/{first}-{last}\"", last = first + 99))
            .join(", ");
        let mut text = format!("[[{action}]]\nfrom = \"{client}\"\nto = \"{server}\"\nports = [{ports}]\n");
        // The end of a ping is no workload but an address.
        let pinged = match self {
            Placement::Cgroup => "world",
            Placement::Loopback => "node",
            Placement::Both => "server-net",
            _ => server,
        };
        text += &format!("[[{action}]]\nfrom = \"{client}\"\nto = \"{pinged}\"\nports = [\"icmp/echo\"]\n");
        text
    }

    fn labels(self, cell: Cell) -> (&'static str, &'static str) {
        let ping = cell.transport == Transport::IcmpEcho;
        match self {
            Placement::Both if ping => ("client+client-net", "server-net"),
            Placement::Both => ("client+client-net", "server+server-net"),
            Placement::Cgroup if ping => ("client", "world"),
            Placement::Loopback if ping => ("client", "node"),
            Placement::ReceiverAlone => ("world", "server"),
            _ => ("client", "server"),
        }
    }
}

/// Whether this kernel's packet programs can ask for a socket's namespace.
fn tells_namespaces() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| Features::probe().unwrap().netns_cookie)
}
