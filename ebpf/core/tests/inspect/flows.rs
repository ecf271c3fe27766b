//! Flows that were recorded from real programs, and flows put together from their specifications.

use bulkhead_abi::{App, Class};

use crate::talk::Flow;

pub fn recorded(text: &str) -> Flow {
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (who, digits) = line.split_once(' ').unwrap();
            let bytes = digits
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
            (u8::from(who == "<"), bytes.collect())
        })
        .collect()
}

/// Flows that are encrypted from their first byte on, with their class and the lowest floor that refuses
/// them where the kernel can see it.
pub fn encrypted() -> Vec<(&'static str, Flow, Class)> {
    vec![
        ("TLS 1.0", recorded(include_str!("flows/tls10.txt")), Class::Tls),
        ("TLS 1.1", recorded(include_str!("flows/tls11.txt")), Class::Tls),
        ("TLS 1.2", recorded(include_str!("flows/tls12.txt")), Class::Tls),
        ("TLS 1.3", recorded(include_str!("flows/tls13.txt")), Class::Tls),
        ("TLS refused by the server", recorded(include_str!("flows/alert.txt")), Class::Tls),
        ("SSH", recorded(include_str!("flows/ssh.txt")), Class::Ssh),
    ]
}

/// TLS 1.3 alone.
pub fn tls() -> Flow {
    recorded(include_str!("flows/tls13.txt"))
}

fn says(sender: u8, bytes: impl AsRef<[u8]>) -> (u8, Vec<u8>) {
    (sender, bytes.as_ref().to_vec())
}

fn opens(bytes: impl AsRef<[u8]>) -> (u8, Vec<u8>) {
    says(0, bytes)
}

fn answers(bytes: impl AsRef<[u8]>) -> (u8, Vec<u8>) {
    says(1, bytes)
}

fn then_tls(mut dialogue: Flow) -> Flow {
    dialogue.extend(tls());
    dialogue
}

/// Dialogues that turn to TLS.
pub fn upgraded() -> Vec<(&'static str, Flow, App)> {
    let mysql_request = {
        let mut bytes = b"\x20\0\0\x01\x85\xae\xff\x19\0\0\0\x01\xff".to_vec();
        bytes.resize(36, 0);
        bytes
    };
    let mut greeting = b"\x4a\0\0\0\x0a8.0.36\0".to_vec();
    greeting.resize(4 + 0x4a, b'x');
    vec![
        (
            "SMTP",
            then_tls(vec![
                answers("220 mail.example.org ESMTP Postfix (Debian)\r\n"),
                opens("EHLO client.example.org\r\n"),
                answers(
                    "250-mail.example.org\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-STARTTLS\r\n250 SMTPUTF8\r\n",
                ),
                opens("STARTTLS\r\n"),
                answers("220 2.0.0 Ready to start TLS\r\n"),
            ]),
            App::Smtp,
        ),
        (
            "SMTP, commands together",
            then_tls(vec![
                answers("220-mail\r\n220 x\r\n"),
                opens("EHLO a\r\nNOOP\r\nSTARTTLS\r\n"),
                answers("250 a\r\n250 ok\r\n220 go\r\n"),
            ]),
            App::Smtp,
        ),
        (
            "IMAP",
            then_tls(vec![
                answers("* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] Dovecot ready.\r\n"),
                opens("a1 CAPABILITY\r\n"),
                answers(
                    "* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED\r\na1 OK Pre-login capabilities listed.\r\n",
                ),
                opens("a2 STARTTLS\r\n"),
                answers("a2 OK Begin TLS negotiation now.\r\n"),
            ]),
            App::Imap,
        ),
        (
            "POP3",
            then_tls(vec![
                answers("+OK Dovecot ready.\r\n"),
                opens("CAPA\r\n"),
                answers("+OK\r\nCAPA\r\nTOP\r\nUIDL\r\nSTLS\r\nSASL\r\n.\r\n"),
                opens("STLS\r\n"),
                answers("+OK Begin TLS negotiation now.\r\n"),
            ]),
            App::Pop3,
        ),
        (
            "FTP",
            then_tls(vec![
                answers("220 (vsFTPd 3.0.3)\r\n"),
                opens("AUTH TLS\r\n"),
                answers("234 Proceed with negotiation.\r\n"),
            ]),
            App::Ftp,
        ),
        (
            "FTP that is asked for its features first",
            then_tls(vec![
                answers("220-Welcome\r\n to this server\r\n220 ready\r\n"),
                opens("FEAT\r\n"),
                answers("211-Features:\r\n AUTH TLS\r\n UTF8\r\n211 End\r\n"),
                opens("AUTH TLS\r\n"),
                answers("234 AUTH TLS OK.\r\n"),
            ]),
            App::Ftp,
        ),
        (
            "LDAP",
            then_tls(vec![
                opens(b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037"),
                answers(b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00"),
            ]),
            App::Ldap,
        ),
        (
            "LDAP from Windows",
            then_tls(vec![
                opens(
                    b"\x30\x84\0\0\0\x21\x02\x01\x01\x77\x84\0\0\0\x18\x80\x161.3.6.1.4.1.1466.20037"
                        .as_slice(),
                ),
                answers(b"\x30\x84\0\0\0\x10\x02\x01\x01\x78\x84\0\0\0\x07\x0a\x01\0\x04\0\x04\0"),
            ]),
            App::Ldap,
        ),
        (
            "XMPP",
            then_tls(vec![
                opens(
                    "<?xml version='1.0'?><stream:stream to='example.org' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>",
                ),
                answers(
                    "<?xml version='1.0'?><stream:stream id='x' from='example.org' version='1.0' xmlns='jabber:client'>",
                ),
                answers(
                    "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>",
                ),
                opens("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"),
                answers("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"),
            ]),
            App::Xmpp,
        ),
        ("PostgreSQL", then_tls(vec![opens(b"\0\0\0\x08\x04\xd2\x16\x2f"), answers("S")]), App::Postgresql),
        (
            "PostgreSQL without GSSAPI",
            then_tls(vec![
                opens(b"\0\0\0\x08\x04\xd2\x16\x30"),
                answers("N"),
                opens(b"\0\0\0\x08\x04\xd2\x16\x2f"),
                answers("S"),
            ]),
            App::Postgresql,
        ),
        ("MySQL", then_tls(vec![answers(greeting), opens(mysql_request)]), App::Mysql),
        (
            "RDP",
            then_tls(vec![
                opens(b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x0b\0\0\0"),
                answers(b"\x03\0\0\x13\x0e\xd0\0\0\x12\x34\0\x02\x1f\x08\0\x02\0\0\0"),
            ]),
            App::Rdp,
        ),
        (
            "RDP with a cookie",
            then_tls(vec![
                opens(
                    b"\x03\0\0\x2c\x27\xe0\0\0\0\0\0Cookie: mstshash=eltons\r\n\x01\0\x08\0\x03\0\0\0"
                        .as_slice(),
                ),
                answers(b"\x03\0\0\x13\x0e\xd0\0\0\x12\x34\0\x02\x1f\x08\0\x01\0\0\0"),
            ]),
            App::Rdp,
        ),
    ]
}

/// Flows that are not accepted as a dialogue anywhere, but are encrypted in the end.
pub fn late() -> Vec<(&'static str, Flow, App)> {
    vec![
        (
            "NATS",
            then_tls(vec![answers(
                "INFO {\"server_id\":\"NA\",\"version\":\"2.10.7\",\"tls_required\":true} \r\n",
            )]),
            App::Nats,
        ),
        ("AMQP 1.0", then_tls(vec![opens(b"AMQP\x02\x01\0\0"), answers(b"AMQP\x02\x01\0\0")]), App::Amqp),
    ]
}

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

/// Flows of which nobody can tell what they are: no class may be claimed.
pub fn unknown() -> Vec<(&'static str, Flow)> {
    vec![
        (
            "OpenVPN",
            vec![
                opens(b"\0\x0e\x38\x91\x22\x33\x44\x55\x66\x77\x88\0\0\0\0\0"),
                answers(b"\0\x1a\x40\x11\x22\x33\x44\x55\x66\x77\x88\x01\0\0\0\0\0"),
            ],
        ),
        (
            "random",
            vec![
                opens(b"\x8f\x12\xe5\x99\x01\xaa\x03\x77\x20\xfe\xdc\xba\x98\x76\x54\x32\x10"),
                answers(b"\x91\xa2\xb3\xc4\xd5\xe6\xf7\x08\x19\x2a\x3b\x4c\x5d\x6e\x7f\x80\x91"),
            ],
        ),
        (
            "SQL Server with TLS for the login",
            vec![
                opens(PRELOGIN),
                answers(PRELOGIN_ANSWER),
                opens(b"\x12\x01\0\xf3\0\0\0\0\x16\x03\x01\0\xe6\x01\0\0\xe2\x03\x03"),
            ],
        ),
    ]
}
