//! Flows in clear text, of every protocol that is told by name.

use bulkhead_abi::App;

use super::{answers, opens};
use crate::talk::Flow;

/// Flows in clear text.
pub fn clear() -> Vec<(&'static str, Flow, App)> {
    let mut mysql = b"\x4a\0\0\0\x0a8.0.36\0".to_vec();
    mysql.resize(4 + 0x4a, b'x');
    let mut mysql_login = b"\x55\0\0\x01\x85\xa6\xff\x19\0\0\0\x01\xff".to_vec();
    mysql_login.resize(4 + 0x55, 0);
    vec![
        (
            "HTTP",
            vec![opens("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), answers("HTTP/1.1 200 OK\r\n\r\n")],
            App::Http1,
        ),
        ("HTTP, HEAD", vec![opens("HEAD /index.html HTTP/1.0\r\n\r\n")], App::Http1),
        (
            "HTTP, an unusual method",
            vec![opens("BREW /pot HTTP/1.1\r\n\r\n"), answers("HTTP/1.1 418 x\r\n\r\n")],
            App::Http1,
        ),
        (
            "HTTP/2",
            vec![
                opens("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
                answers(b"\0\0\0\x04\0\0\0\0\0"),
            ],
            App::Http2,
        ),
        ("Redis", vec![opens("*3\r\n$3\r\nset\r\n$1\r\na\r\n$1\r\nb\r\n"), answers("+OK\r\n")], App::Redis),
        ("Redis, long array", vec![opens("*17\r\n$4\r\nMSET\r\n"), answers("+OK\r\n")], App::Redis),
        ("Redis, inline", vec![opens("PING\r\n"), answers("+PONG\r\n")], App::Redis),
        ("Redis, inline, small letters", vec![opens("set a b\r\n"), answers("+OK\r\n")], App::Redis),
        (
            "PostgreSQL",
            vec![opens(b"\0\0\0\x54\0\x03\0\0user\0postgres\0"), answers(b"R\0\0\0\x08\0\0\0\0")],
            App::Postgresql,
        ),
        ("PostgreSQL 3.9999", vec![opens(b"\0\0\0\x54\0\x03\x27\x0fuser\0postgres\0")], App::Postgresql),
        (
            "Kafka, a client without a name",
            vec![opens(b"\0\0\0\x0a\0\x12\0\0\0\0\0\x01\0\0")],
            App::Kafka,
        ),
        (
            "memcached, two lines",
            vec![opens("ms foo 3\r\nbar\r\n"), answers("HD\r\n")],
            App::Memcached,
        ),
        ("SIP to a number", vec![opens("INVITE tel:+12015550123 SIP/2.0\r\n")], App::Sip),
        (
            "PostgreSQL, TLS denied",
            vec![
                opens(b"\0\0\0\x08\x04\xd2\x16\x2f"),
                answers("N"),
                opens(b"\0\0\0\x54\0\x03\0\0user\0postgres\0"),
            ],
            App::Postgresql,
        ),
        (
            "PostgreSQL, cancel",
            vec![opens(b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\x12\x34\x11\x22\x33\x44")],
            App::Postgresql,
        ),
        ("MySQL", vec![answers(mysql), opens(mysql_login)], App::Mysql),
        ("MySQL, host blocked", vec![answers(b"\x45\0\0\0\xff\x6a\x04Host 'x' is not allowed")], App::Mysql),
        ("MongoDB", vec![opens(b"\x3b\x01\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0")], App::Mongodb),
        (
            "MongoDB, old",
            vec![opens(b"\x3b\x01\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0\0\0\0\0admin.$cmd\0")],
            App::Mongodb,
        ),
        ("Kafka", vec![opens(b"\0\0\0\x2a\0\x12\0\x03\0\0\0\x01\0\x0drdkafka-1.2.3\0\0")], App::Kafka),
        (
            "Kafka, nobody's name",
            vec![opens(b"\0\0\0\x0e\0\x03\0\x01\0\0\0\x00\xff\xff\xff\xff\xff\xff")],
            App::Kafka,
        ),
        (
            "Kafka, the shortest request",
            vec![opens(b"\0\0\0\x0a\0\x12\0\0\0\0\0\x01\xff\xff"), answers(b"\0\0\x01\x08\0\0\0\x01\0\0\0\0\0\x2a")],
            App::Kafka,
        ),
        (
            "AMQP 0-9-1",
            vec![opens(b"AMQP\0\0\x09\x01"), answers(b"\x01\0\0\0\0\x01\xd6\0\x0a\0\x0a")],
            App::Amqp,
        ),
        ("AMQP 1.0, SASL", vec![opens(b"AMQP\x03\x01\0\0"), answers(b"AMQP\x03\x01\0\0")], App::Amqp),
        (
            "MQTT",
            vec![opens(b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04abcd"), answers(b"\x20\x02\0\0")],
            App::Mqtt,
        ),
        ("MQTT, long", vec![opens(b"\x10\xa0\x02\0\x04MQTT\x05\x02\0\x3c\0")], App::Mqtt),
        (
            "NATS",
            vec![
                answers("INFO {\"server_id\":\"NA\"} \r\n"),
                opens("CONNECT {\"verbose\":false}\r\nPING\r\n"),
            ],
            App::Nats,
        ),
        ("memcached", vec![opens("get key\r\n"), answers("END\r\n")], App::Memcached),
        ("memcached, set", vec![opens("set key 0 0 5\r\nhello\r\n"), answers("STORED\r\n")], App::Memcached),
        ("memcached, an error", vec![opens("gets key\r\n"), answers("ERROR\r\n")], App::Memcached),
        (
            "memcached, binary",
            vec![opens(b"\x80\0\0\x03\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0key")],
            App::Memcached,
        ),
        (
            "SMTP",
            vec![
                answers("220 a ESMTP\r\n"),
                opens("EHLO b\r\n"),
                answers("250-a\r\n250 STARTTLS\r\n"),
                opens("MAIL FROM:<a@b>\r\n"),
            ],
            App::Smtp,
        ),
        (
            "SMTP, login",
            vec![
                answers("220 a ESMTP\r\n"),
                opens("EHLO b\r\n"),
                answers("250 AUTH PLAIN\r\n"),
                opens("AUTH PLAIN AGEAYg==\r\n"),
            ],
            App::Smtp,
        ),
        (
            "SMTP, STARTTLS refused",
            vec![
                answers("220 a\r\n"),
                opens("EHLO b\r\n"),
                answers("250 a\r\n"),
                opens("STARTTLS\r\n"),
                answers("454 not now\r\n"),
                opens("MAIL FROM:<a@b>\r\n"),
            ],
            App::Smtp,
        ),
        ("IMAP", vec![answers("* OK ready\r\n"), opens("a LOGIN x y\r\n"), answers("a OK\r\n")], App::Imap),
        ("POP3", vec![answers("+OK ready\r\n"), opens("USER a\r\n"), answers("+OK\r\n")], App::Pop3),
        (
            "FTP",
            vec![answers("220 (vsFTPd 3.0.3)\r\n"), opens("USER anonymous\r\n"), answers("331 x\r\n")],
            App::Ftp,
        ),
        (
            "LDAP",
            vec![
                opens(b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0"),
                answers(b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\0\x04\0\x04\0"),
            ],
            App::Ldap,
        ),
        (
            "LDAP from Windows, with a name and a password",
            vec![
                opens(
                    b"\x30\x84\0\0\0\x30\x02\x01\x01\x60\x84\0\0\0\x27\x02\x01\x03\x04\x16cn=admin,dc=example,dc=org"
                        .as_slice(),
                ),
                answers(b"\x30\x84\0\0\0\x10\x02\x01\x01\x61\x84\0\0\0\x07\x0a\x01\0\x04\0\x04\0"),
            ],
            App::Ldap,
        ),
        (
            "LDAP, search",
            vec![opens(b"\x30\x25\x02\x01\x01\x63\x20\x04\x00\x0a\x01\0\x0a\x01\0\x02\x01\0\x02\x01\0")],
            App::Ldap,
        ),
        (
            "LDAP from Windows",
            vec![opens(b"\x30\x84\0\0\0\x55\x02\x01\x01\x63\x84\0\0\0\x4c\x04\0\x0a\x01\0\x0a\x01\0")],
            App::Ldap,
        ),
        (
            "XMPP",
            vec![
                opens("<?xml version='1.0'?><stream:stream to='a' xmlns='jabber:client'>"),
                answers("<stream:stream id='x'>"),
                opens("<iq type='set' id='1'>"),
            ],
            App::Xmpp,
        ),
        (
            "Telnet",
            vec![answers(b"\xff\xfd\x18\xff\xfd\x20\xff\xfd\x23"), opens(b"\xff\xfb\x18")],
            App::Telnet,
        ),
        (
            "DNS",
            vec![
                opens(b"\0\x1d\xaa\xbb\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01"),
                answers(b"\0\x2d\xaa\xbb\x81\x80\0\x01\0\x01\0\0\0\0\x07example\x03com\0"),
            ],
            App::Dns,
        ),
        (
            "DNS, EDNS",
            vec![opens(b"\0\x28\xaa\xbb\x01\x20\0\x01\0\0\0\0\0\x01\x07example\x03com\0\0\x01\0\x01")],
            App::Dns,
        ),
        ("SIP", vec![opens("REGISTER sip:example.org SIP/2.0\r\n"), answers("SIP/2.0 200 OK\r\n")], App::Sip),
        (
            "SMB 2",
            vec![
                opens(b"\0\0\0\x6c\xfeSMB\x40\0\0\0\0\0\0\0"),
                answers(b"\0\0\0\xf8\xfeSMB\x40\0\0\0\0\0\0\0"),
            ],
            App::Smb,
        ),
        ("SMB 1", vec![opens(b"\0\0\0\x54\xffSMBr\0\0\0\0\x18\x01\x28")], App::Smb),
        (
            "RDP's own security",
            vec![opens(b"\x03\0\0\x0b\x06\xe0\0\0\0\0\0"), answers(b"\x03\0\0\x0b\x06\xd0\0\0\x12\x34\0")],
            App::Rdp,
        ),
        (
            "RDP that stays clear",
            vec![
                opens(b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\0\0\0\0"),
                answers(b"\x03\0\0\x0b\x06\xd0\0\0\x12\x34\0"),
                opens(b"\x03\0\x01\x9c\x02\xf0\x80\x7f\x65"),
            ],
            App::Rdp,
        ),
        (
            "syslog, counted",
            vec![opens("83 <34>1 2026-10-11T22:14:15.003Z host su - ID47 - x\n")],
            App::Syslog,
        ),
        ("syslog", vec![opens("<34>Oct 11 22:14:15 mymachine su: failed\n")], App::Syslog),
        (
            "Cassandra",
            vec![opens(b"\x04\0\0\0\x05\0\0\0\0"), answers(b"\x84\0\0\0\x06\0\0\0\x3a")],
            App::Cassandra,
        ),
        (
            "Cassandra, startup",
            vec![opens(b"\x04\0\0\x01\x01\0\0\0\x16\0\x01\0\x0bCQL_VERSION\0\x053.0.0")],
            App::Cassandra,
        ),
        ("ZooKeeper", vec![opens(b"\0\0\0\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x75\x30\0\0\0\0")], App::Zookeeper),
        ("ZooKeeper, four letters", vec![opens("ruok"), answers("imok")], App::Zookeeper),
        ("BGP", vec![opens([&[0xff; 16][..], b"\0\x1d\x01\x04"].concat())], App::Bgp),
        ("TDS without prelogin", vec![opens(b"\x10\x01\0\x90\0\0\x01\0\x88\0\0\0\x02\0\x09\x72")], App::Tds),
        (
            "TDS of a server without TLS",
            vec![
                opens(PRELOGIN),
                answers(b"\x04\x01\0\x25\0\0\x01\0\0\0\x15\0\x06\x01\0\x1b\0\x01\x02\0\x1c\0\x01\x03\0\x1d\0\0\xff\x0e\0\x0b\xbc\0\0\x02\0".as_slice()),
            ],
            App::Tds,
        ),
        (
            "TDS, no encryption",
            vec![
                opens(PRELOGIN),
                answers(PRELOGIN_ANSWER),
                opens(b"\x10\x01\0\x90\0\0\x01\0\x88\0\0\0\x02\0\x09\x72"),
            ],
            App::Tds,
        ),
        ("Oracle", vec![opens(b"\0\xf6\0\0\x01\0\0\0\x01\x3d\x01\x2c\x0c\x41\x20\0")], App::Oracle),
        (
            "NFS",
            vec![opens(b"\x80\0\0\x28\x12\x34\x56\x78\0\0\0\0\0\0\0\x02\0\x01\x86\xa3\0\0\0\x04")],
            App::Rpc,
        ),
        (
            "STOMP",
            vec![opens("CONNECT\naccept-version:1.2\n\n\0"), answers("CONNECTED\nversion:1.2\n")],
            App::Stomp,
        ),
        ("rsync", vec![answers("@RSYNCD: 31.0\n"), opens("@RSYNCD: 31.0\n")], App::Rsync),
        ("Git", vec![opens("0033git-upload-pack /project.git\0host=myserver.com\0")], App::Git),
        ("Diameter", vec![opens(b"\x01\0\0\x9c\x80\0\x01\x01\0\0\0\0\x12\x34\x56\x78")], App::Diameter),
        ("BitTorrent", vec![opens(b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0")], App::Bittorrent),
        ("ClickHouse", vec![opens(b"\0\x11ClickHouse client\x17")], App::Clickhouse),
        ("Beanstalk", vec![opens("put 0 0 60 5\r\nhello\r\n"), answers("INSERTED 1\r\n")], App::Beanstalk),
        (
            "SOCKS 5",
            vec![opens(b"\x05\x01\0"), answers(b"\x05\0"), opens(b"\x05\x01\0\x01\x0a\0\0\x01\0\x50")],
            App::Socks,
        ),
        ("RTSP", vec![opens("OPTIONS rtsp://a/b RTSP/1.0\r\n"), answers("RTSP/1.0 200 OK\r\n")], App::Rtsp),
        (
            "IRC",
            vec![opens("NICK me\r\nUSER me 0 * :me\r\n"), answers(":server 001 me :Welcome\r\n")],
            App::Irc,
        ),
        ("VNC", vec![answers("RFB 003.008\n"), opens("RFB 003.008\n")], App::Vnc),
        ("X11", vec![opens(b"l\0\x0b\0\0\0\x12\0\x10\0\0\0MIT-MAGIC-COOKIE-1")], App::X11),
        (
            "Kerberos",
            vec![opens(b"\0\0\0\xc8\x6a\x81\xc5\x30\x81\xc2\xa1\x03\x02\x01\x05\xa2\x03\x02\x01\x0a")],
            App::Kerberos,
        ),
        ("finger", vec![opens("somebody\r\n"), answers("Login: somebody\r\n")], App::Text),
        ("a text of its own", vec![opens("temperature of the room please\n"), answers("21\n")], App::Text),
    ]
}

pub const PRELOGIN: &[u8] = b"\x12\x01\0\x2f\0\0\x01\0\0\0\x1a\0\x06\x01\0\x20\0\x01\x02\0\x21\0\x01\x03\0\x22\0\x04\x04\0\x26\0\x01\xff\x11\0\0\0\0\0\0\0\0\0\0\0\0";
pub const PRELOGIN_ANSWER: &[u8] =
    b"\x04\x01\0\x20\0\0\x01\0\0\0\x10\0\x06\x01\0\x16\0\x01\xff\x0f\0\x07\xd0\0\0\0\0\0\0\0\0\0";
