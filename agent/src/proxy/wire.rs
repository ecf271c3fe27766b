//! What the agent and its proxy tell each other.
//!
//! The proxy is the side that asks: who somebody is, who may, and for sockets that it cannot make. The
//! agent tells it where to listen, with whose credentials, and when what it was told may no longer hold.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bulkhead_credentials::SpiffeId;
use serde::{Deserialize, Serialize};

/// Which program this process is: its version, and its file as it was when it was started. A proxy that is
/// another program than the agent gives way to a new one.
pub fn version() -> String {
    use std::os::unix::fs::MetadataExt as _;

    let file = std::fs::metadata("/proc/self/exe");
    let file = file.map_or_else(
        |_| String::new(),
        |file| format!(" {}:{}:{}.{}", file.dev(), file.ino(), file.mtime(), file.mtime_nsec()),
    );
    format!("{}{file}", env!("CARGO_PKG_VERSION"))
}

/// From the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "tell", rename_all = "kebab-case")]
pub enum Order {
    /// The first message.
    Welcome {
        /// [`version`] of the agent.
        version: String,
        /// How it is to work.
        settings: Settings,
    },
    /// The map of turned connections (its descriptor is beside the message).
    Turned,
    /// Listen: the listener's descriptor is beside the message. A listener of the same place and kind that
    /// is open already is replaced.
    Listen {
        /// Cookie of the network namespace.
        place: u64,
        /// What comes in there.
        kind: Kind,
    },
    /// Stop to listen there; connections go on.
    Unlisten {
        /// Cookie of the network namespace.
        place: u64,
    },
    /// The answer to [`Report::Ask`]; sockets are beside it.
    Answer {
        /// Of the question.
        id: u64,
        /// What it is.
        answer: Answer,
    },
    /// What is believed; replaces what was.
    Bundle(Box<bulkhead_credentials::Bundle>),
    /// The credentials of a name; replaces what it had.
    Credentials(Box<bulkhead_credentials::Credentials>),
    /// A name is shown no more.
    Forget {
        /// It.
        name: SpiffeId,
    },
    /// What was answered before may no longer hold: ask again, for live connections, too.
    Changed {
        /// Counts up.
        serial: u64,
    },
    /// Send [`Report::Connections`].
    ListConnections {
        /// Comes back with the answer.
        id: u64,
    },
    /// Take no new connection, let the old ones end, and go after so many seconds.
    Drain {
        /// The deadline.
        seconds: u64,
    },
    /// Go at once, and do not come back.
    Quit,
}

/// From the proxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum Report {
    /// The first message.
    Hello {
        /// [`version`] of the proxy.
        version: String,
        /// Its process, and that of its keeper.
        processes: Vec<u32>,
        /// How many [`Report::Held`] follow.
        held: usize,
    },
    /// It listens there already, for an agent that comes back; the listener is beside the message.
    Held {
        /// Cookie of the network namespace.
        place: u64,
        /// What comes in there.
        kind: Kind,
    },
    /// A question.
    Ask {
        /// Comes back with the answer.
        id: u64,
        /// What it is.
        question: Question,
    },
    /// Connections that have ended.
    Ended {
        /// They.
        records: Vec<Record>,
    },
    /// How things stand; sent every second while something changes.
    Stats(Box<Stats>),
    /// The answer to [`Order::ListConnections`].
    Connections {
        /// Of the request.
        id: u64,
        /// Live ones.
        connections: Vec<Record>,
    },
}

/// What comes in at a listener.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Connections of programs that were turned in.
    Capture,
    /// HBONE.
    Tunnel,
}

/// How the proxy is to work; takes effect at once, also on a proxy that has served an earlier agent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Settings {
    /// Most connections at a time.
    pub connections: u32,
    /// Most handshakes a second that others may begin.
    pub handshakes_per_second: u32,
    /// Bytes that the proxy may have resident before it refuses new connections.
    pub memory: u64,
}

/// What the proxy asks.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Question {
    /// Whether a flow may go out that the kernel turned in, under which name, and to whom.
    Outbound {
        /// Identity of the client, as the kernel told it.
        from: u32,
        /// Of the server.
        to: u32,
        /// Where to.
        destination: SocketAddr,
    },
    /// Whether somebody with this name may come in.
    Inbound {
        /// Cookie of the network namespace.
        place: u64,
        /// The verified name.
        peer: SpiffeId,
        /// The client's address.
        from: IpAddr,
        /// Where to.
        destination: SocketAddr,
    },
    /// The name that whoever has an address shows.
    NameOf {
        /// Cookie of the network namespace.
        place: u64,
        /// The address.
        address: IpAddr,
    },
    /// Sockets.
    Sockets {
        /// Cookie of the network namespace.
        place: u64,
        /// To dial a tunnel: the address to bind to. `None`: for last hops, unbound.
        bound: Option<IpAddr>,
        /// Whether they are for IPv6.
        ipv6: bool,
        /// What the kernel counts their flows as.
        mark: Mark,
        /// How many.
        count: u8,
    },
}

impl Question {
    /// The question whose answer, where it is a yes, is the answer to this one, too: who may go out is judged
    /// by identities and port, whatever the address.
    pub fn anywhere(&self) -> Option<Self> {
        match self {
            Self::Outbound { from, to, destination } => {
                let destination = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), destination.port());
                Some(Self::Outbound { from: *from, to: *to, destination })
            }
            _ => None,
        }
    }
}

/// What the agent answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// It may go out.
    Outbound {
        /// The name to show.
        own: SpiffeId,
        /// Names of which the other side must show one.
        expected: Vec<SpiffeId>,
        /// For the books.
        edge: Edge,
        /// How long the connection may outlive its certificates, in seconds; as it likes if nothing is said.
        max_age: Option<u64>,
    },
    /// It may come in.
    Inbound {
        /// For the books.
        edge: Edge,
        /// For the socket of the last hop.
        mark: Mark,
        /// How long the connection may outlive its certificates, in seconds; as it likes if nothing is said.
        max_age: Option<u64>,
        /// Of a dry run: the word and the story of why it would be refused.
        audited: Option<(String, String)>,
    },
    /// The name, if it has one.
    Name {
        /// It.
        name: Option<SpiffeId>,
    },
    /// They are beside the message.
    Sockets,
    /// No.
    Denied {
        /// A word of a closed set: see [`reason`].
        reason: String,
        /// The whole story.
        text: String,
        /// As far as it is known.
        edge: Option<Edge>,
    },
}

/// What the kernel counts a flow as: identities and rule by number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Mark {
    /// The opener's identity.
    pub from: u32,
    /// The receiver's.
    pub to: u32,
    /// The rule.
    pub rule: u32,
}

/// Zones at both ends, and the rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Edge {
    /// The client's zones.
    pub from: String,
    /// The server's.
    pub to: String,
    /// Name and place of the rule.
    pub rule: String,
}

/// A connection, live or ended: a line of the access log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// `outbound` or `inbound`.
    pub direction: String,
    /// The client.
    pub client: SocketAddr,
    /// Where to.
    pub destination: SocketAddr,
    /// The client's name, as it was shown or verified.
    pub client_name: Option<String>,
    /// The server's.
    pub server_name: Option<String>,
    /// Zones and rule.
    pub edge: Option<Edge>,
    /// Bytes from the client.
    pub sent: u64,
    /// Bytes to the client.
    pub received: u64,
    /// Age in seconds.
    pub seconds: f64,
    /// How it ended, a word of a closed set; empty while it lives.
    pub outcome: String,
    /// Of a refused one, or one that was let in by a dry run, the word of the reason; else empty.
    pub reason: String,
    /// The whole story, where it did not end well.
    pub text: String,
}

/// How things stand.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// By edge: zones, and direction.
    pub edges: Vec<(String, String, String, EdgeStats)>,
    /// Handshakes that were made: by the client's zones, the server's, and direction.
    pub handshakes: Vec<(String, String, String, u64)>,
    /// Those that failed: by the client's zones, the server's, direction and reason.
    pub failures: Vec<(String, String, String, String, u64)>,
    /// Connections that were refused, by the client's zones, the server's, and reason.
    pub refused: Vec<(String, String, String, u64)>,
    /// The same of those that a dry run has let in.
    pub audited: Vec<(String, String, String, u64)>,
    /// Tunnels to other nodes.
    pub pooled: u64,
    /// Records that were dropped because nobody took them in time.
    pub lost: u64,
}

/// How an edge stands.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct EdgeStats {
    /// Connections that were begun.
    pub connections: u64,
    /// Open now.
    pub open: u64,
    /// Bytes from clients.
    pub sent: u64,
    /// Bytes to clients.
    pub received: u64,
    /// Time to the first byte of the answer, in seconds: upper bounds with their counts, cumulative.
    pub first_byte: Vec<(f64, u64)>,
    /// How many there were.
    pub first_byte_count: u64,
    /// Sum of those times.
    pub first_byte_sum: f64,
}

impl EdgeStats {
    /// Counts another one in.
    pub fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.open += other.open;
        self.sent += other.sent;
        self.received += other.received;
        for (mine, its) in self.first_byte.iter_mut().zip(&other.first_byte) {
            mine.1 += its.1;
        }
        self.first_byte_count += other.first_byte_count;
        self.first_byte_sum += other.first_byte_sum;
    }
}

/// Reasons of the proxy's refusals that are the agent's to give: metric labels, with those of certificates
/// (`bulkhead_credentials`) and of the wire (`bulkhead_proxy`).
pub mod reason {
    /// Nobody was there to ask.
    pub const NO_AGENT: &str = "no-agent";
    /// The kernel did not turn this connection in.
    pub const NOT_TURNED: &str = "not-turned";
    /// No rule lets it.
    pub const DENIED: &str = "denied";
    /// A `[[deny]]` names it.
    pub const DENIED_BY_RULE: &str = "denied-by-rule";
    /// The peer's name belongs to no zone.
    pub const UNKNOWN_NAME: &str = "unknown-name";
    /// A rule lets it, but none with `tls = "mutual"`.
    pub const NOT_MUTUAL: &str = "not-mutual";
    /// There is no certificate to show.
    pub const NO_CERTIFICATE: &str = "no-own-certificate";
    /// No namespace of this node.
    pub const NO_PLACE: &str = "no-such-namespace";

    /// All of them.
    pub const ALL: [&str; 8] =
        [NO_AGENT, NOT_TURNED, DENIED, DENIED_BY_RULE, UNKNOWN_NAME, NOT_MUTUAL, NO_CERTIFICATE, NO_PLACE];
}
