//! Dialogues in clear that turn to TLS.

use bulkhead_abi::App;

use super::{answers, opens, then_tls};
use crate::talk::Flow;

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
            "IMAP, with tags of nine letters",
            then_tls(vec![
                answers("* OK ready\r\n"),
                opens("A00000000 CAPABILITY\r\n"),
                answers("* CAPABILITY IMAP4rev1 STARTTLS\r\nA00000000 OK done\r\n"),
                opens("A00000001 STARTTLS\r\n"),
                answers("A00000001 OK go ahead\r\n"),
            ]),
            App::Imap,
        ),
        (
            "FTP that is denied the first mechanism",
            then_tls(vec![
                answers("220 ready\r\n"),
                opens("AUTH SSL\r\n"),
                answers("504 AUTH SSL is not known\r\n"),
                opens("AUTH TLS\r\n"),
                answers("234 AUTH TLS OK.\r\n"),
            ]),
            App::Ftp,
        ),
        (
            "RDP that is redirected and has a number",
            then_tls(vec![
                opens(
                    [
                        b"\x03\0\0\x37\x32\xe0\0\0\0\0\0\x01\x0a\x08\0\x0b\0\0\0\x06\0\x24\0".as_slice(),
                        &[0x5a; 16],
                        &[0; 16],
                    ]
                    .concat(),
                ),
                answers(b"\x03\0\0\x13\x0e\xd0\0\0\x12\x34\0\x02\x1f\x08\0\x08\0\0\0"),
            ]),
            App::Rdp,
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
