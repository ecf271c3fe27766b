//! Verdicts, and why.

/// Which way a packet crosses the socket layer of the workload at hand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// Towards the workload.
    Ingress = 0,
    /// Away from the workload.
    Egress = 1,
}

/// Which end's rules are asked: the opener's (egress side) or the receiver's (ingress side).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Side {
    /// The side of whoever opens the flow.
    Egress = 0,
    /// The side of whoever receives it.
    Ingress = 1,
}

/// What happens to a flow. Ordered by severity, so that the verdict of two sides is their maximum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[must_use = "a verdict that nobody acts on is a firewall that lets everything through"]
pub enum Verdict {
    /// It passes.
    Allow = 1,
    /// It passes, and is reported: enforcement would have denied it.
    Audit = 2,
    /// It does not pass.
    Deny = 3,
}

impl Verdict {
    /// Every verdict, in code order.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Audit, Self::Deny];

    /// The verdict with this code; any other code denies, because nothing unknown may pass.
    #[inline(always)]
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Allow,
            2 => Self::Audit,
            _ => Self::Deny,
        }
    }

    /// Whether the packet goes on.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        !matches!(self, Self::Deny)
    }

    /// The word used in metrics, logs and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Deny => "deny",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// Why a verdict fell. A closed set: it is a metric label.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $name = $code,)*
        }

        impl Reason {
            /// Every reason, in code order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason with this code; unknown codes read as [`Reason::Inconsistent`].
            #[inline(always)]
            pub const fn from_code(code: u8) -> Self {
                match code {
                    $($code => Self::$name,)*
                    _ => Self::Inconsistent,
                }
            }

            /// The word used in metrics, logs and on the command line.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    /// No zone of this side isolates the direction, and no rule spoke.
    Open = 1, "open";
    /// An `[[allow]]` rule.
    AllowRule = 2, "allow-rule";
    /// Both ends share a zone that is not `isolated`.
    WithinZone = 3, "within-zone";
    /// A failsafe port of the node itself.
    Failsafe = 4, "failsafe";
    /// The receiver is a virtual address: the guard judges who really receives.
    Virtual = 5, "virtual";
    /// By way of the node's proxy, which gives it mutual TLS.
    Proxied = 6, "proxied";
    /// Between two workloads of this node, for which the kernel vouches instead of the proxy
    /// (`local = "attest"`).
    Attested = 7, "attested";
    /// A `[[deny]]` rule.
    DenyRule = 16, "deny-rule";
    /// A zone isolates the direction, and no rule allowed it.
    Default = 17, "default";
    /// As `Default`, for a protocol that only a rule naming it can allow.
    UnknownProtocol = 18, "unknown-protocol";
    /// A segment that belongs to no flow and cannot open one.
    Stray = 19, "stray";
    /// Headers that end too early, lie about their length, or nest too deep.
    Unparsable = 20, "unparsable";
    /// A fragment that cannot be judged.
    Fragment = 21, "fragment";
    /// No room for a new flow.
    FlowTableFull = 22, "flow-table-full";
    /// An IPv4-mapped address in an IPv6 header, which no honest sender writes (RFC 6890).
    MappedAddress = 23, "mapped-address";
    /// IPv4 options (source routing is one), or an IPv6 routing header that is of type 0 (RFC 5095) or
    /// has segments left.
    IpOptions = 24, "ip-options";
    /// An ICMP error about a flow that does not exist.
    IcmpError = 25, "icmp-error";
    /// A source address that is not the sender's.
    Spoofed = 26, "spoofed";
    /// A frame of a packet socket (`AF_PACKET`), which no socket layer has judged.
    PacketSocket = 27, "packet-socket";
    /// Clear text, where the rule's `tls` wants it encrypted.
    ClearText = 28, "clear-text";
    /// Bytes of which nobody knows whether they are encrypted, where the rule's `tls` wants to know.
    Unclassified = 29, "unclassified";
    /// TLS of a version, or encryption of a kind, that the rule's `tls` does not accept.
    WeakEncryption = 30, "weak-encryption";
    /// The tables disagree with themselves: a defect, so it denies and must be reported.
    Inconsistent = 31, "inconsistent";
    /// The rule's `tls` wants it to go by way of the proxy, and none listens where it begins.
    NoProxy = 32, "no-proxy";
    /// The rule's `tls` wants it to go by way of the proxy, and it did not; or a socket of the proxy's did
    /// what it is not for.
    OutsideProxy = 33, "outside-proxy";
}

/// How a rule wants its flows encrypted, from lax to strict.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Tls {
    /// Seen and counted.
    #[default]
    Off = 0,
    /// Clear text is a finding.
    Report = 1,
    /// Clear text is stopped.
    Require = 2,
    /// The proxy gives both ends mutual TLS.
    Mutual = 3,
    /// The proxy ends the client's TLS.
    Terminate = 4,
    /// The proxy begins TLS towards the server.
    Originate = 5,
}

impl Tls {
    /// Whether a flow's own bytes must be encrypted, so that they are looked at. Under mutual TLS by the proxy
    /// the programs speak as they like: there it matters which way they go.
    #[inline(always)]
    pub const fn is_read(self) -> bool {
        matches!(self, Self::Require | Self::Terminate | Self::Originate)
    }

    /// The level with this code; any other code is the strictest that the kernel enforces itself, because
    /// nothing unknown may be read as "anything goes".
    #[inline(always)]
    pub const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Off,
            1 => Self::Report,
            3 => Self::Mutual,
            4 => Self::Terminate,
            5 => Self::Originate,
            _ => Self::Require,
        }
    }
}
