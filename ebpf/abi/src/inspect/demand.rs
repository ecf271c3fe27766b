//! What a rule asks of its flows.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Tls;

/// What a rule accepts under [`Tls::Require`]: a set of bits.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct Accept(pub u16);

impl Accept {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// TLS from the first byte on.
    pub const TLS: Self = Self(1 << 0);
    /// SSH.
    pub const SSH: Self = Self(1 << 1);
    /// QUIC.
    pub const QUIC: Self = Self(1 << 2);
    /// DTLS.
    pub const DTLS: Self = Self(1 << 3);
    /// WireGuard.
    pub const WIREGUARD: Self = Self(1 << 4);
    /// IKE and ESP.
    pub const IPSEC: Self = Self(1 << 5);
    /// What cannot be told.
    pub const UNKNOWN: Self = Self(1 << 6);
    /// SMTP and LMTP that turn to TLS by STARTTLS (RFC 3207).
    pub const SMTP: Self = Self(1 << 7);
    /// IMAP that turns to TLS by STARTTLS (RFC 9051, 6.2.1).
    pub const IMAP: Self = Self(1 << 8);
    /// POP3 that turns to TLS by STLS (RFC 2595).
    pub const POP3: Self = Self(1 << 9);
    /// LDAP that turns to TLS by an extended operation (RFC 4511, 4.14).
    pub const LDAP: Self = Self(1 << 10);
    /// XMPP that turns to TLS by STARTTLS (RFC 6120, 5).
    pub const XMPP: Self = Self(1 << 11);
    /// PostgreSQL that turns to TLS by SSLRequest.
    pub const POSTGRESQL: Self = Self(1 << 12);
    /// MySQL that turns to TLS by its SSL request.
    pub const MYSQL: Self = Self(1 << 13);
    /// FTP's control connection that turns to TLS by AUTH TLS (RFC 4217).
    pub const FTP: Self = Self(1 << 14);
    /// RDP that turns to TLS by its negotiation request (MS-RDPBCGR).
    pub const RDP: Self = Self(1 << 15);

    /// What `tls = "require"` accepts: everything that is encrypted from its first byte on, and the two
    /// databases whose first message asks for TLS and carries nothing else.
    pub const ENCRYPTED: Self = Self(
        Self::TLS.0
            | Self::SSH.0
            | Self::QUIC.0
            | Self::DTLS.0
            | Self::WIREGUARD.0
            | Self::IPSEC.0
            | Self::POSTGRESQL.0,
    );

    /// Each with its word in zone files.
    pub const WORDS: [(Self, &'static str); 15] = [
        (Self::TLS, "tls"),
        (Self::SSH, "ssh"),
        (Self::QUIC, "quic"),
        (Self::DTLS, "dtls"),
        (Self::WIREGUARD, "wireguard"),
        (Self::IPSEC, "ipsec"),
        (Self::SMTP, "starttls/smtp"),
        (Self::IMAP, "starttls/imap"),
        (Self::POP3, "starttls/pop3"),
        (Self::LDAP, "starttls/ldap"),
        (Self::XMPP, "starttls/xmpp"),
        (Self::POSTGRESQL, "starttls/postgresql"),
        (Self::MYSQL, "starttls/mysql"),
        (Self::FTP, "starttls/ftp"),
        (Self::RDP, "starttls/rdp"),
    ];

    /// Whether all of `other` is accepted.
    #[inline(always)]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is accepted.
    #[inline(always)]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// What both accept.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What either accepts.
    #[inline(always)]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How a rule wants a flow encrypted: its level, under [`Tls::Require`] what it accepts, and under
/// [`Tls::Mutual`] what becomes of a flow that stays on the node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Demand {
    /// The level.
    pub level: Tls,
    /// What is accepted; [`Accept::NONE`] below `require`.
    pub accept: Accept,
    /// Under `require` the lowest TLS version, as the minor number on the wire (1 is TLS 1.0, 4 is
    /// TLS 1.3), 0 for any; under `mutual` bits such as [`Demand::ATTEST`].
    pub floor: u8,
}

impl Demand {
    /// Seen and counted, nothing more.
    pub const OFF: Self = Self { level: Tls::Off, accept: Accept::NONE, floor: 0 };
    /// What `tls = "require"` means.
    pub const REQUIRE: Self = Self { level: Tls::Require, accept: Accept::ENCRYPTED, floor: 0 };

    /// A bit of `floor` under [`Tls::Mutual`] (`local = "attest"`): between two workloads of one node the
    /// flow passes as it is, because the kernel itself knows both ends. Without it (`local = "tls"`) it
    /// takes the proxies all the same.
    pub const ATTEST: u8 = 1;
    /// What `tls = "mutual"` means.
    pub const MUTUAL: Self = Self { level: Tls::Mutual, accept: Accept::NONE, floor: 0 };

    /// Whether the proxies may be left out between two workloads of one node.
    #[inline(always)]
    pub const fn is_attested(self) -> bool {
        matches!(self.level, Tls::Mutual) && self.floor & Self::ATTEST != 0
    }

    /// The stricter of two: the higher level, what both accept, the higher floor; under `mutual` the
    /// proxies are left out only where both leave them out.
    #[inline(always)]
    pub const fn with(self, other: Self) -> Self {
        let (a, b) = (self.level as u8, other.level as u8);
        if a < b {
            return other;
        }
        if b < a {
            return self;
        }
        let floor = match self.level {
            Tls::Mutual => self.floor & other.floor,
            _ if self.floor > other.floor => self.floor,
            _ => other.floor,
        };
        Self { level: self.level, accept: self.accept.and(other.accept), floor }
    }
}
