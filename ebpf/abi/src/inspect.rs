//! What a flow's first bytes say: how it is encrypted, what it speaks, and what a rule accepts of that.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Addr, Identity, Tls};

macro_rules! words {
    (
        $(#[$outer:meta])* $name:ident;
        $(#[$first_doc:meta])* $first:ident = $first_code:literal, $first_text:literal;
        $($(#[$doc:meta])* $variant:ident = $code:literal, $text:literal;)*
    ) => {
        $(#[$outer])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        #[repr(u8)]
        pub enum $name {
            $(#[$first_doc])*
            #[default]
            $first = $first_code,
            $($(#[$doc])* $variant = $code,)*
        }

        impl $name {
            /// Every one, in code order.
            pub const ALL: &'static [Self] = &[Self::$first, $(Self::$variant,)*];

            /// The one with this code; codes that nobody gave read as the first, which claims nothing.
            #[inline(always)]
            pub const fn from_code(code: u8) -> Self {
                match code {
                    $($code => Self::$variant,)*
                    _ => Self::$first,
                }
            }

            /// The word used in zone files, metrics, logs and on the command line.
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::$first => $first_text,
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

words! {
    /// How a flow is encrypted, as far as its first bytes tell. A closed set: it is a metric label.
    Class;
    /// Not known (yet): neither called clear nor encrypted.
    Unknown = 0, "unknown";
    /// A ClientHello and a ServerHello were seen (RFC 8446, RFC 5246).
    Tls = 1, "tls";
    /// Both ends sent an SSH identification string (RFC 4253, 4.2).
    Ssh = 2, "ssh";
    /// QUIC (RFC 9000, RFC 9369).
    Quic = 3, "quic";
    /// DTLS (RFC 9147, RFC 6347).
    Dtls = 4, "dtls";
    /// WireGuard.
    WireGuard = 5, "wireguard";
    /// IKE or ESP, also in UDP (RFC 7296, RFC 3948).
    Ipsec = 6, "ipsec";
    /// A clear-text dialogue that may yet turn to TLS.
    StartTls = 7, "starttls";
    /// Clear text.
    Clear = 8, "clear";
    /// By way of the node's proxy, which gives it mutual TLS between the nodes.
    Mutual = 9, "mutual";
}

words! {
    /// The application protocol inside a flow, as far as its first bytes tell; of what is encrypted, the
    /// protocol that the STARTTLS dialogue was of. A closed set: it is a metric label.
    App;
    /// Not known.
    Unknown = 0, "unknown";
    /// HTTP/1.0 and 1.1.
    Http1 = 1, "http1";
    /// HTTP/2, in clear ("h2c").
    Http2 = 2, "http2";
    /// gRPC over HTTP/2 in clear; only user space can tell it from other HTTP/2.
    Grpc = 3, "grpc";
    /// Redis (RESP).
    Redis = 4, "redis";
    /// PostgreSQL, version 3 of its protocol.
    Postgresql = 5, "postgresql";
    /// MySQL and MariaDB.
    Mysql = 6, "mysql";
    /// MongoDB.
    Mongodb = 7, "mongodb";
    /// Apache Kafka.
    Kafka = 8, "kafka";
    /// AMQP 0-9-1 and 1.0.
    Amqp = 9, "amqp";
    /// MQTT.
    Mqtt = 10, "mqtt";
    /// NATS.
    Nats = 11, "nats";
    /// memcached, text and binary.
    Memcached = 12, "memcached";
    /// SMTP and LMTP.
    Smtp = 13, "smtp";
    /// IMAP.
    Imap = 14, "imap";
    /// POP3.
    Pop3 = 15, "pop3";
    /// FTP's control connection.
    Ftp = 16, "ftp";
    /// LDAP.
    Ldap = 17, "ldap";
    /// XMPP.
    Xmpp = 18, "xmpp";
    /// Telnet.
    Telnet = 19, "telnet";
    /// DNS over UDP or TCP.
    Dns = 20, "dns";
    /// SIP.
    Sip = 21, "sip";
    /// SMB 1 to 3.
    Smb = 22, "smb";
    /// RDP, before its upgrade.
    Rdp = 23, "rdp";
    /// Syslog (RFC 5424, RFC 3164).
    Syslog = 24, "syslog";
    /// StatsD.
    Statsd = 25, "statsd";
    /// NTP.
    Ntp = 26, "ntp";
    /// SNMP.
    Snmp = 27, "snmp";
    /// RTSP.
    Rtsp = 28, "rtsp";
    /// IRC.
    Irc = 29, "irc";
    /// VNC's remote framebuffer (RFC 6143).
    Vnc = 30, "vnc";
    /// Apache Cassandra's native protocol (CQL).
    Cassandra = 31, "cassandra";
    /// ZooKeeper.
    Zookeeper = 32, "zookeeper";
    /// BGP.
    Bgp = 33, "bgp";
    /// Kerberos.
    Kerberos = 34, "kerberos";
    /// STUN and TURN.
    Stun = 35, "stun";
    /// TFTP.
    Tftp = 36, "tftp";
    /// DHCP.
    Dhcp = 37, "dhcp";
    /// RADIUS.
    Radius = 38, "radius";
    /// Microsoft SQL Server (TDS).
    Tds = 39, "tds";
    /// Oracle Net (TNS).
    Oracle = 40, "oracle";
    /// Sun RPC and NFS.
    Rpc = 41, "rpc";
    /// STOMP.
    Stomp = 42, "stomp";
    /// rsync's daemon.
    Rsync = 43, "rsync";
    /// Git's own transport.
    Git = 44, "git";
    /// Diameter.
    Diameter = 45, "diameter";
    /// RTP and RTCP.
    Rtp = 46, "rtp";
    /// BitTorrent.
    Bittorrent = 47, "bittorrent";
    /// ClickHouse's native protocol.
    Clickhouse = 48, "clickhouse";
    /// Beanstalk.
    Beanstalk = 49, "beanstalk";
    /// CoAP.
    Coap = 50, "coap";
    /// SOCKS 4 and 5.
    Socks = 51, "socks";
    /// Finger, Gopher, WHOIS and other clear text lines that are no protocol of this list.
    Text = 52, "text";
    /// X11.
    X11 = 53, "x11";
    /// Graphite's plain text protocol.
    Graphite = 54, "graphite";
    /// collectd's binary protocol.
    Collectd = 55, "collectd";
    /// NetFlow, IPFIX and sFlow.
    Netflow = 56, "netflow";
    /// Multicast DNS.
    Mdns = 57, "mdns";
    /// NetBIOS name and datagram service.
    Netbios = 58, "netbios";
    /// SSDP.
    Ssdp = 59, "ssdp";
    /// VXLAN.
    Vxlan = 60, "vxlan";
    /// GENEVE.
    Geneve = 61, "geneve";
    /// GTP.
    Gtp = 62, "gtp";
}

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

/// What has been read of one direction of a flow's opening.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Stream {
    /// The first bytes of the opening; of a STARTTLS dialogue, those of the line at hand.
    pub bytes: [u8; 16],
    /// TCP sequence number of `bytes[0]`.
    pub start: u32,
    /// Sequence number of the first byte that was not read yet.
    pub next: u32,
    /// Where TLS records are followed: sequence number of the next record's header.
    pub record: u32,
    /// How many of `bytes` are there.
    pub have: u8,
    /// What is being read; `bulkhead_core::inspect` gives the codes. 0: nothing was seen yet.
    pub state: u8,
    /// How many bytes of the next record's header are in `header`.
    pub header_have: u8,
    /// Of a STARTTLS dialogue: how many commands this end gave, or how many it answered.
    pub turns: u8,
    /// The first bytes of a record's header that came in pieces.
    pub header: [u8; 8],
    /// How many bytes of a dialogue, or of a header that is looked through, were read; of TLS records how long
    /// the last one was, header and all.
    pub spent: u16,
    /// How many segments came while something before them was missing.
    pub gaps: u8,
    /// What is known of this direction; `bulkhead_core::inspect` gives the bits.
    pub marks: u8,
}

/// What is being found out about a flow, from both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Inspection {
    /// By who sends: the opener, the receiver.
    pub streams: [Stream; 2],
    /// What the rule accepts.
    pub accept: Accept,
    /// [`Tls`] code of the rule's level.
    pub level: u8,
    /// The lowest TLS version, see [`Demand::floor`].
    pub floor: u8,
    /// [`Class`] code.
    pub class: u8,
    /// [`App`] code.
    pub app: u8,
    /// [`Inspection::FRESH`] and the others.
    pub phase: u8,
    /// See the `FLAG_` constants.
    pub flags: u8,
}

impl Inspection {
    /// Phase: nothing was looked at yet; the rule's demand is not known yet either.
    pub const FRESH: u8 = 0;
    /// Phase: openings are being read.
    pub const READING: u8 = 1;
    /// Phase: the class is known, TLS records are followed.
    pub const FOLLOWING: u8 = 2;
    /// Phase: nothing is left to look at.
    pub const DONE: u8 = 3;
    /// Phase: something contradicted what is accepted; nothing passes any more.
    pub const REFUSED: u8 = 4;

    /// It was not seen from its beginning.
    pub const FLAG_MIDSTREAM: u8 = 1;
    /// Its class was counted and told.
    pub const FLAG_TOLD: u8 = 2;
    /// It turned from clear text to TLS by STARTTLS.
    pub const FLAG_UPGRADED: u8 = 4;
    /// A PROXY protocol header or an HTTP CONNECT was looked through.
    pub const FLAG_TUNNELLED: u8 = 8;
    /// It is known where the opener's direction begins; of the receiver's, twice this.
    pub const FLAG_BEGUN: u8 = 16;
    /// STARTTLS was asked for, and the answer is not complete.
    pub const FLAG_ASKED: u8 = 64;
    /// Segments that come in went on ahead of their turn: see [`Ahead`].
    pub const FLAG_AHEAD: u8 = 128;
}

/// A stretch of TLS records that went on while bytes before it were missing, and what is claimed of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Early {
    /// Sequence number of its first byte.
    pub start: u32,
    /// Sequence number of the first byte behind it; `start` where there is none.
    pub end: u32,
    /// Where the first record's header in it stands, if one does.
    pub first: u32,
    /// Where the next header behind it stands; `start` where no header stands in it.
    pub next: u32,
    /// Its first bytes.
    pub head: [u8; 4],
}

/// What went on ahead of its turn at a socket, in no order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ahead {
    /// The stretches.
    pub spans: [Early; Ahead::SPANS],
}

impl Ahead {
    /// How many stretches there may be at once.
    pub const SPANS: usize = 32;
}

/// What is being found out about a flow of datagrams (UDP).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Conversation {
    /// What the rule accepts.
    pub accept: Accept,
    /// [`Tls`] code of the rule's level.
    pub level: u8,
    /// The lowest TLS version, see [`Demand::floor`].
    pub floor: u8,
    /// [`Class`] code.
    pub class: u8,
    /// [`App`] code.
    pub app: u8,
    /// [`Inspection::FRESH`] and the others; of a conversation that was refused, `memory` is the reason.
    pub phase: u8,
    /// What is kept of the datagrams so far; `bulkhead_core::inspect` gives the meaning.
    pub memory: u8,
}

/// How far the bytes of a flow are looked at, and what was told of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reading {
    /// Generation whose rules were asked how the flow is to be encrypted, 0 before.
    pub asked: u64,
    /// Of a stream: not zero while a hook reads a segment of it.
    pub lock: u32,
    /// Not zero: its bytes are not looked at, or not any more.
    pub settled: u8,
    /// [`Tls`] code of the level that the rule asks for. What is acted on is less where node or zones only
    /// report.
    pub level: u8,
    /// [`Reason`](crate::Reason) code of why the flow would have been refused, where node or zones only
    /// report; 0 where it would not.
    pub audited: u8,
    /// One more than the [`Class`] code that was counted and told last, 0 before.
    pub told: u8,
}

/// What a flow keeps of the datagrams that were read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Datagrams {
    /// How far.
    pub reading: Reading,
    /// What they say.
    pub conversation: Conversation,
}

/// Key of the counter of flows by class.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ClassKey {
    /// The opener's identity.
    pub from: Identity,
    /// The receiver's.
    pub to: Identity,
    /// [`Class`] code.
    pub class: u8,
    /// [`App`] code.
    pub app: u8,
    /// [`Tls`] code of the rule's level.
    pub level: u8,
    /// [`Verdict`](crate::Verdict) code of what came of it: allow, audit (it would have been stopped) or
    /// deny.
    pub verdict: u8,
}

/// Value of the counter of flows by class.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClassCount {
    /// Flows.
    pub flows: u64,
    /// When one of them was told of last, `CLOCK_MONOTONIC` nanoseconds.
    pub told: u64,
}

/// One record of the ring of opening bytes: a piece of a handshake, for user space to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Piece {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub time: u64,
    /// The socket at hand (`SO_COOKIE`): it and `sender` name the stream.
    pub cookie: u64,
    /// Its network namespace cookie.
    pub netns: u64,
    /// The opener's address.
    pub src: Addr,
    /// The receiver's.
    pub dst: Addr,
    /// The opener's identity.
    pub from: Identity,
    /// The receiver's.
    pub to: Identity,
    /// Where in its stream the piece begins: bytes since the first byte of the TLS opening. Of datagrams, where
    /// in the datagram.
    pub offset: u32,
    /// The opener's port.
    pub src_port: u16,
    /// The receiver's.
    pub dst_port: u16,
    /// How many of `bytes` count.
    pub len: u16,
    /// Who sent it: 0 the opener, 1 the receiver.
    pub sender: u8,
    /// [`App`] code of the STARTTLS dialogue that led here, or `unknown`.
    pub app: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// [`Tls`] code of the rule's level.
    pub level: u8,
    /// See [`Demand::floor`].
    pub floor: u8,
    /// Not zero: the rest of the same datagram follows.
    pub more: u8,
    /// The bytes.
    pub bytes: [u8; Piece::BYTES],
}

impl Piece {
    /// The most that one record carries.
    pub const BYTES: usize = 1024;
    /// The most that is told of one direction.
    pub const STREAM_BYTES: u32 = 4096;
    /// The most that is told of one datagram.
    pub const DATAGRAM_BYTES: u32 = 2048;
    /// The highest floor ([`Demand::floor`]) that shows to the kernel: one above is enforced by who reads pieces.
    pub const KERNEL_FLOOR: u8 = 3;
}

const _: () = {
    assert!(size_of::<Stream>() == 44);
    assert!(size_of::<Inspection>() == 96);
    assert!(size_of::<Ahead>() == 20 * Ahead::SPANS);
    assert!(size_of::<Conversation>() == 8);
    assert!(size_of::<Reading>() == 16);
    assert!(size_of::<Datagrams>() == 24);
    assert!(size_of::<ClassKey>() == 12);
    assert!(size_of::<ClassCount>() == 16);
    assert!(size_of::<Piece>() == 80 + Piece::BYTES);
};
