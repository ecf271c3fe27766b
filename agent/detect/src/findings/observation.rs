//! What the findings are made of: the one closed list of things that can be told to them.
//!
//! Everything comes with the moment it was seen, by [`Findings::observe`](super::Findings::observe).
//! Events may be missing (the ring drops them under flood), counters are exact; no machine relies on an
//! event where a counter says the same.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bulkhead_abi::{App, Class, Protocol, Reason, Tls, Verdict};
use serde::{Deserialize, Serialize};

use super::time::Time;

/// The zones of one end as a metric label: several joined by `+`; `world`, `node`.
pub type Zone = Arc<str>;

/// From whom to whom: zones of the opener, zones of the receiver.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Edge {
    /// Zones of whoever opens flows.
    pub from: Zone,
    /// Zones of whoever receives them.
    pub to: Zone,
}

impl Edge {
    /// The edge between these.
    pub fn new(from: impl Into<Zone>, to: impl Into<Zone>) -> Self {
        Self { from: from.into(), to: to.into() }
    }

    /// What is about the node itself, not about an edge.
    pub fn node() -> Self {
        Self::new("node", "node")
    }

    /// What is about many edges.
    pub fn any() -> Self {
        Self::new("any", "any")
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.from, self.to)
    }
}

/// One flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Its zones.
    pub edge: Edge,
    /// The opener's address.
    pub src: IpAddr,
    /// The receiver's.
    pub dst: IpAddr,
    /// The receiver's port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl Flow {
    /// The receiver's port as in zone files: `tcp/5432`.
    pub fn port_name(&self) -> String {
        let name = match Protocol(self.protocol) {
            Protocol::TCP => "tcp",
            Protocol::UDP => "udp",
            Protocol::ICMP => "icmp",
            Protocol::ICMPV6 => "icmpv6",
            other => return format!("proto/{}", other.0),
        };
        format!("{name}/{}", self.port)
    }
}

/// How strong the encryption of a flow is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Strength {
    /// Not known.
    #[default]
    Unknown,
    /// Nothing to say against it.
    Strong,
    /// Without forward secrecy, or with a mode that newer ones have replaced: CBC, static RSA.
    Legacy,
    /// Broken, or no encryption at all: RC4, DES, 3DES, NULL, EXPORT, anonymous (RFC 9325, 4.2.1).
    Weak,
}

/// What kind of key exchange was chosen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum GroupKind {
    /// Not known.
    #[default]
    Unknown,
    /// Elliptic curves or finite fields, or RSA.
    Classical,
    /// With a part that withstands quantum computers, as X25519MLKEM768.
    PostQuantum,
}

/// What a handshake showed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TlsFacts {
    /// Negotiated version as the minor number on the wire: 0 is SSL 3.0, 1 is TLS 1.0, 4 is TLS 1.3;
    /// `None` if it was not seen.
    pub version: Option<u8>,
    /// The cipher by name, where known.
    pub cipher: Option<String>,
    /// Its strength.
    pub strength: Strength,
    /// Kind of the chosen key exchange.
    pub group: GroupKind,
    /// The server's own certificate ends then; absent where it was not seen (TLS 1.3 hides it).
    pub not_after: Option<Time>,
    /// The certificate's subject or the name that was asked for.
    pub name: Option<String>,
}

/// Something that was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Observation {
    /// A flow was opened and let through.
    Opened(Flow),
    /// A flow was denied, or would have been.
    Denied {
        /// The flow.
        flow: Flow,
        /// Deny or audit.
        verdict: Verdict,
        /// Why.
        reason: Reason,
    },
    /// The class of a flow is known.
    Classified {
        /// The flow.
        flow: Flow,
        /// How it is encrypted.
        class: Class,
        /// What it speaks.
        app: App,
        /// What its rule wants.
        level: Tls,
        /// What came of it.
        verdict: Verdict,
    },
    /// A handshake was read.
    Handshake {
        /// The flow.
        flow: Flow,
        /// What was read.
        facts: TlsFacts,
    },
    /// What was counted on an edge since it was last told. With no flows: the edge is known from before.
    Counted {
        /// The edge.
        edge: Edge,
        /// What was decided.
        verdict: Verdict,
        /// Why.
        reason: Reason,
        /// Flows opened or refused.
        flows: u64,
        /// Packets.
        packets: u64,
        /// Bytes of IP packets.
        bytes: u64,
    },
    /// How full a kernel table is.
    Table {
        /// Its name.
        table: &'static str,
        /// Entries in it.
        entries: u64,
        /// Entries that fit.
        capacity: u64,
        /// Whether something is refused for want of room, or was in the last seconds.
        refusing: bool,
    },
    /// What the node's TCP had to do for want of room for connections in the making, since it was last
    /// told.
    Backlog {
        /// SYN cookies sent (RFC 4987, 3.6).
        cookies: u64,
        /// Connections that were dropped because a listener's queue was full.
        overflows: u64,
    },
    /// Records that the kernel had no room for, since it was last told.
    Lost {
        /// Which, by the word of the metrics.
        what: &'static str,
        /// How many.
        count: u64,
    },
    /// Somebody was at a kernel object of the agent.
    Tampered {
        /// Kind of the object.
        object: &'static str,
        /// Which one.
        name: String,
        /// What was done to it.
        how: &'static str,
        /// What was done about it.
        action: &'static str,
        /// How often since it was last told.
        count: u64,
    },
    /// Somebody could not prove who he is.
    AuthenticationFailed {
        /// The edge.
        edge: Edge,
        /// Where it came from.
        src: IpAddr,
        /// What was wrong, by a word of a closed list.
        why: &'static str,
    },
}
