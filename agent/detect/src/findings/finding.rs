//! What somebody should look at.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::observation::Edge;
use super::time::Time;

macro_rules! words {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word of metrics, logs, files and the command line.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// The one with this word.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// What a finding is about. A closed set: it is a metric label.
    Kind {
        /// Clear text where the rule's `tls` wants encryption.
        Plaintext = "plaintext",
        /// A TLS version below the floor.
        TlsTooOld = "tls-too-old",
        /// A broken cipher.
        WeakCipher = "weak-cipher",
        /// A certificate that is past its end.
        CertificateExpired = "certificate-expired",
        /// A certificate that ends soon.
        CertificateExpiring = "certificate-expiring",
        /// What was always encrypted is clear text now.
        EncryptionStopped = "encryption-stopped",
        /// Many denied flows at once.
        DeniedBurst = "denied-burst",
        /// One source tries many ports.
        PortScan = "port-scan",
        /// One source tries many hosts.
        HostSweep = "host-sweep",
        /// Zones that never talked before do.
        NewEdge = "new-edge",
        /// Far more flows than is the edge's habit.
        UnusualRate = "unusual-rate",
        /// Far more bytes than is the edge's habit.
        UnusualVolume = "unusual-volume",
        /// Connections are begun and not made.
        SynFlood = "syn-flood",
        /// The kernel's flow table is nearly full, or full.
        FlowTablePressure = "flow-table-pressure",
        /// Somebody cannot prove who he is, again and again.
        AuthenticationFailures = "authentication-failures",
        /// Somebody was at the agent's kernel objects.
        Tampering = "tampering",
        /// Events were lost: what is found from events may be incomplete.
        EventLoss = "event-loss",
    }
}

impl Kind {
    /// What to do about it, in one line.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Plaintext => {
                "turn TLS on at both ends, then have the rule say `tls = \"require\"`; `bulkhead inventory` shows \
                 who else is on this edge"
            }
            Self::TlsTooOld => {
                "raise the server's lowest TLS version to 1.2 or better, after its clients can"
            }
            Self::WeakCipher => "take RC4, 3DES, NULL, EXPORT and anonymous ciphers off the server's list",
            Self::CertificateExpired => "renew the certificate now, and find out what should have renewed it",
            Self::CertificateExpiring => "renew the certificate, and see why that has not happened by itself",
            Self::EncryptionStopped => {
                "look at what was deployed on either end since the last encrypted flow; `tls = \"require\"` would \
                 have stopped it"
            }
            Self::DeniedBurst => {
                "`bulkhead explain` says which rule; a deployment that lacks an allow, or somebody who tries doors"
            }
            Self::PortScan | Self::HostSweep => {
                "find out what runs at the source; if it is a scanner of your own, acknowledge it"
            }
            Self::NewEdge => "see whether the rule that lets it through is meant as widely as it is written",
            Self::UnusualRate => "look for retries without a pause, a new client, or a loop",
            Self::UnusualVolume => "find out what is being copied, and who asked for it",
            Self::SynFlood => {
                "see where it comes from, and whether net.ipv4.tcp_syncookies is 1; upstream filtering helps most"
            }
            Self::FlowTablePressure => "give it room (`flow_capacity`), or find who opens so many flows",
            Self::AuthenticationFailures => {
                "an expired credential that is tried for ever, or somebody guessing; see the evidence for the source"
            }
            Self::Tampering => {
                "find out who has root on this node and did that; the agent put it back if it says so"
            }
            Self::EventLoss => {
                "the counters stay exact, but findings made of events may be incomplete; find who opens so many flows"
            }
        }
    }
}

words! {
    /// How much it matters. Ordered.
    Severity {
        /// To be read at leisure.
        Low = "low",
        /// To be looked at this week.
        Medium = "medium",
        /// To be looked at today.
        High = "high",
        /// To be looked at now.
        Critical = "critical",
    }
}

words! {
    /// Where it stands.
    State {
        /// Somebody should look.
        Open = "open",
        /// Somebody did, and does not want to hear of it.
        Acknowledged = "acknowledged",
        /// It is over.
        Resolved = "resolved",
    }
}

/// What it is about, within kind and edge.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "about", content = "what", rename_all = "kebab-case")]
pub enum Subject {
    /// The edge as a whole.
    Edge,
    /// A port of the receiver and what is spoken there, as `tcp/5432 postgresql`.
    Port(String),
    /// Who opens the flows.
    Source(IpAddr),
    /// Who receives them.
    Server(SocketAddr),
    /// A thing of this node.
    Object(String),
    /// All the others of this kind, while there are too many to be told one by one.
    Others,
}

impl Subject {
    /// Whether it is an address, which the log tells at DEBUG only.
    pub const fn is_address(&self) -> bool {
        matches!(self, Self::Source(_) | Self::Server(_))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edge => f.write_str("-"),
            Self::Port(text) | Self::Object(text) => f.write_str(text),
            Self::Source(address) => write!(f, "{address}"),
            Self::Server(address) => write!(f, "{address}"),
            Self::Others => f.write_str("more of the same"),
        }
    }
}

/// What makes two sightings one finding.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its edge.
    pub edge: Edge,
    /// Its subject.
    pub subject: Subject,
}

impl Key {
    /// The key of these.
    pub const fn new(kind: Kind, edge: Edge, subject: Subject) -> Self {
        Self { kind, edge, subject }
    }

    /// Ten hexadecimal digits that stay the same over restarts and on every node.
    pub fn id(&self) -> String {
        let text = format!("{}\0{}\0{}\0{}", self.kind, self.edge.from, self.edge.to, self.subject);
        // FNV-1a: stable over releases, which the standard hasher is not.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        format!("{:010x}", (hash ^ (hash >> 40)) & 0xff_ffff_ffff)
    }
}

/// Most facts of one finding.
const FACTS: usize = 12;
/// Longest fact in characters.
const FACT_LENGTH: usize = 200;

/// What speaks for it: a few named facts of bounded length.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Evidence(BTreeMap<String, String>);

impl Evidence {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more fact; what is too long is cut, what is too many is left out.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        if self.0.len() < FACTS {
            let value: String =
                value.to_string().chars().filter(|c| !c.is_control()).take(FACT_LENGTH).collect();
            self.0.insert(name.to_owned(), value);
        }
        self
    }

    /// The facts by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A fact.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// Somebody has seen it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// When.
    pub at: Time,
    /// Until when it is not to be told again, also if it ends and comes back; absent: until it ends.
    pub until: Option<Time>,
    /// What he said.
    pub note: Option<String>,
}

/// Something that somebody should look at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// See [`Key::id`].
    pub id: String,
    /// What makes it one.
    #[serde(flatten)]
    pub key: Key,
    /// How much it matters; the most that it did since it was opened.
    pub severity: Severity,
    /// Where it stands.
    pub state: State,
    /// What speaks for it, as of lately.
    pub evidence: Evidence,
    /// When it was first seen, ever.
    pub first_seen: Time,
    /// When it was opened last.
    pub opened: Time,
    /// When it was last seen.
    pub last_seen: Time,
    /// When it ended.
    pub resolved: Option<Time>,
    /// Sightings since it was first seen: flows, attempts, records, by kind.
    pub count: u64,
    /// How often it was opened.
    pub times: u32,
    /// Who has seen it.
    pub acknowledged: Option<Acknowledgement>,
}

impl Finding {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        self.key.kind
    }

    /// Whether it goes on, acknowledged or not.
    pub const fn is_live(&self) -> bool {
        !matches!(self.state, State::Resolved)
    }
}
