//! The words for what a flow is: codes in the tables, labels of metrics, names in zone files.

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
