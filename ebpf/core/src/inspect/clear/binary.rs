//! Protocols of numbers.

use bulkhead_abi::App;

use crate::inspect::head::{Head, begins, may_begin};

/// The protocol of a client's first message.
#[inline(always)]
pub(super) fn request(head: Head) -> Option<App> {
    if is_postgresql(head) {
        return Some(App::Postgresql);
    }
    if is_mongodb(head) && head.u32_at::<8>() == 0 {
        return Some(App::Mongodb);
    }
    if is_amqp(head) {
        return Some(App::Amqp);
    }
    if is_mqtt(head) {
        return Some(App::Mqtt);
    }
    if is_memcached(head, 0x80) {
        return Some(App::Memcached);
    }
    if is_ldap(head) {
        return Some(App::Ldap);
    }
    if is_telnet(head) {
        return Some(App::Telnet);
    }
    if is_smb(head) {
        return Some(App::Smb);
    }
    if is_dns(head, 0) {
        return Some(App::Dns);
    }
    None
}

/// The protocol of a client's first message, where it is none of those.
#[inline(always)]
pub(super) fn late_request(head: Head) -> Option<App> {
    if is_zookeeper(head) {
        return Some(App::Zookeeper);
    }
    if is_kafka(head) {
        return Some(App::Kafka);
    }
    if is_cassandra(head) {
        return Some(App::Cassandra);
    }
    if is_bgp(head) {
        return Some(App::Bgp);
    }
    if is_oracle(head) {
        return Some(App::Oracle);
    }
    if is_rpc(head) {
        return Some(App::Rpc);
    }
    if is_diameter(head) {
        return Some(App::Diameter);
    }
    if begins!(head, b"\x13BitTorrent prot") {
        return Some(App::Bittorrent);
    }
    if begins!(head.behind(2), b"ClickHouse ") && head.byte::<0>() == 0 && head.byte::<1>() <= 0x40 {
        return Some(App::Clickhouse);
    }
    if begins!(head, b"l\0\x0b\0\0\0", b"B\0\0\x0b\0\0")
        && head.have() >= 12
        && begins!(head.behind(10), b"\0\0")
    {
        return Some(App::X11);
    }
    if is_kerberos(head) {
        return Some(App::Kerberos);
    }
    if is_tds_login(head) {
        return Some(App::Tds);
    }
    if is_plain_rdp(head) {
        return Some(App::Rdp);
    }
    None
}

/// The protocol of a server's first message.
#[inline(always)]
pub(super) fn answer(head: Head) -> Option<App> {
    if is_amqp(head) {
        return Some(App::Amqp);
    }
    if is_mongodb(head) {
        return Some(App::Mongodb);
    }
    if is_memcached(head, 0x81) {
        return Some(App::Memcached);
    }
    if is_telnet(head) {
        return Some(App::Telnet);
    }
    if is_smb(head) {
        return Some(App::Smb);
    }
    if is_bgp(head) {
        return Some(App::Bgp);
    }
    if begins!(head, b"\x13BitTorrent prot") {
        return Some(App::Bittorrent);
    }
    // An error instead of a greeting: length, number 0, 0xff, code 1040 to 1130 ("too many connections",
    // "host is not allowed to connect").
    if head.have() >= 8
        && head.byte::<1>() <= 1
        && begins!(head.behind(2), b"\0\0\xff")
        && head.byte::<6>() == 4
        && head.behind(7).is_text()
    {
        return Some(App::Mysql);
    }
    if is_dns(head, 1) {
        return Some(App::Dns);
    }
    None
}

/// A startup message of protocol 3, or a request to cancel a query.
#[inline(always)]
fn is_postgresql(head: Head) -> bool {
    // Version 3.0, 3.2, and 3.9999, which asks whether a server minds.
    let startup = begins!(head.behind(4), b"\0\x03\0\0", b"\0\x03\0\x02", b"\0\x03\x27\x0f")
        && head.u16_at::<0>() == 0
        && head.u16_at::<2>() >= 9
        && head.u16_at::<2>() <= 10_000
        && head.have() >= 10
        && head.behind(8).first(2).is_text();
    startup || begins!(head, b"\0\0\0\x10\x04\xd2\x16\x2e")
}

/// A header of MongoDB's wire protocol: length, request, answer to, operation, the low byte first.
#[inline(always)]
fn is_mongodb(head: Head) -> bool {
    // OP_REPLY, OP_QUERY, OP_COMPRESSED, OP_MSG, and the old ones.
    let operation =
        begins!(head.behind(12), b"\x01\0\0\0", b"\xd4\x07\0\0", b"\xdc\x07\0\0", b"\xdd\x07\0\0")
            || (begins!(head.behind(13), b"\x07\0\0")
                && head.byte::<12>() >= 0xd1
                && head.byte::<12>() <= 0xd7);
    head.is_full()
        && operation
        && head.byte::<3>() <= 2
        && (head.byte::<0>() >= 16 || head.u16_at::<1>() != 0)
}

/// A protocol header (AMQP 0-9-1, 4.2.2; AMQP 1.0, 2.2 and 5.3.2).
#[inline(always)]
fn is_amqp(head: Head) -> bool {
    begins!(head, b"AMQP\0\0\x09\x01", b"AMQP\0\x01\0\0", b"AMQP\x03\x01\0\0", b"AMQP\x01\x01")
}

/// A CONNECT packet (MQTT 3.1.1, 3.1; MQTT 5.0, 3.1), its length in one byte or in two.
#[inline(always)]
fn is_mqtt(head: Head) -> bool {
    begins!(head, b"\x10")
        && (begins!(head.behind(2), b"\0\x04MQTT", b"\0\x06MQIsdp")
            || begins!(head.behind(3), b"\0\x04MQTT", b"\0\x06MQIsdp"))
}

/// A header of memcached's binary protocol.
#[inline(always)]
fn is_memcached(head: Head, magic: u8) -> bool {
    let (key, extras, body) = (head.u16_at::<2>(), head.byte::<4>(), head.u32_at::<8>());
    head.is_full()
        && head.byte::<0>() == magic
        && head.byte::<1>() <= 0x40
        && key <= 250
        && matches!(extras, 0 | 4 | 8 | 12 | 20)
        && head.byte::<5>() == 0
        && (magic == 0x81 || head.u16_at::<6>() == 0)
        && body >= key + extras as u32
        && body <= 1 << 24
}

/// A message of LDAP (RFC 4511, 4.1.1) that binds with version 2 or 3, searches, or unbinds.
#[inline(always)]
pub(in crate::inspect) fn is_ldap(head: Head) -> bool {
    let message = head.behind(ber_header(head.byte::<1>()));
    let id = message.byte::<1>();
    if !begins!(head, b"\x30") || !begins!(message, b"\x02") || id == 0 || id > 4 {
        return false;
    }
    let operation = message.behind(2 + id as u32);
    let body = operation.behind(ber_header(operation.byte::<1>()));
    match operation.byte::<0>() {
        // The version; where every length takes five bytes only its tag is here.
        0x60 => {
            begins!(body, b"\x02\x01\x02", b"\x02\x01\x03")
                || (head.is_full() && begins!(operation, b"\x60\x84\0\0") && begins!(body, b"\x02"))
        }
        // The base's name; of the longest forms it is not here any more.
        0x63 => begins!(body, b"\x04") || (body.have() == 0 && begins!(operation, b"\x63\x84\0\0")),
        0x42 => begins!(operation, b"\x42\0"),
        // Not before it is clear that it does not ask for TLS.
        0x77 => begins!(body, b"\x80") && head.is_full(),
        _ => false,
    }
}

/// How long the header of a BER element is whose length begins with `first`.
#[inline(always)]
const fn ber_header(first: u8) -> u32 {
    if first & 0x80 == 0 { 2 } else { 2 + (first & 7) as u32 }
}

/// Two commands of Telnet in a row (RFC 854).
#[inline(always)]
fn is_telnet(head: Head) -> bool {
    is_telnet_command(head) && is_telnet_command(head.behind(3))
}

/// WILL, WON'T, DO or DON'T, and an option.
#[inline(always)]
pub(super) fn is_telnet_command(head: Head) -> bool {
    head.have() >= 3
        && begins!(head, b"\xff")
        && head.byte::<1>() >= 0xfb
        && head.byte::<1>() <= 0xfe
        && head.byte::<2>() <= 50
}

/// SMB 1 to 3 over TCP (MS-SMB2, 2.1), or the NetBIOS session request before it (RFC 1002, 4.3.2).
#[inline(always)]
fn is_smb(head: Head) -> bool {
    begins!(head, b"\0") && begins!(head.behind(4), b"\xffSMB", b"\xfeSMB")
        || begins!(head, b"\x81\0\0\x44\x20") && head.behind(5).is_text() && head.have() >= 12
}

/// A message of DNS behind its length (RFC 1035, 4.2.2): one question or zone, and plausible counts.
#[inline(always)]
fn is_dns(head: Head, answer: u8) -> bool {
    let (len, flags) = (head.u16_at::<0>(), head.byte::<4>());
    let opcode = (flags >> 3) & 15;
    let plausible = if answer == 0 {
        // No answers in a question, and nothing but an OPT or TSIG record behind it; IXFR names the old
        // version.
        head.byte::<5>() & 0x4f == 0
            && head.u16_at::<8>() == 0
            && head.u16_at::<10>() <= 1
            && head.u16_at::<12>() <= 2
    } else {
        head.byte::<5>() & 0x40 == 0
            && head.u16_at::<8>() <= 4096
            && head.u16_at::<10>() <= 64
            && head.u16_at::<12>() <= 64
    };
    head.is_full()
        && len >= 17
        && flags >> 7 == answer
        && matches!(opcode, 0 | 4 | 5)
        && head.u16_at::<6>() == 1
        && (plausible || opcode == 5)
        && head.byte::<14>() <= 63
}

/// A connect request (jute): length, version 0, no transaction seen yet.
#[inline(always)]
fn is_zookeeper(head: Head) -> bool {
    begins!(head, b"\0\0\0\x2c\0\0\0\0", b"\0\0\0\x2d\0\0\0\0", b"\0\0\0\x31\0\0\0\0")
        && head.is_full()
        && head.u32_at::<8>() == 0
}

/// A request's header: length, API, its version, number, and the client's name.
#[inline(always)]
fn is_kafka(head: Head) -> bool {
    let name = head.u16_at::<12>();
    let fits = name + 14 <= head.u16_at::<2>() + 4;
    // The shortest request ends with the name that it does not have.
    (head.is_full() || (head.have() == 14 && head.u16_at::<2>() == 10))
        && head.u16_at::<0>() == 0
        && head.u16_at::<2>() >= 10
        && head.u16_at::<4>() <= 92
        && head.u16_at::<6>() <= 20
        && (name == 0xffff
            // Of a client without a name, what a connection begins with: metadata, a mechanism, versions.
            || (name == 0 && matches!(head.u16_at::<4>(), 3 | 17 | 18))
            || ((1..=255).contains(&name)
                && fits
                && head.behind(14).first(if name < 2 { 1 } else { 2 }).is_text()))
}

/// A frame of CQL's versions 3 to 5: OPTIONS, or STARTUP with its first string.
#[inline(always)]
fn is_cassandra(head: Head) -> bool {
    let version = head.byte::<0>();
    let start = (3..=5).contains(&version) && head.byte::<1>() <= 0x10 && head.have() >= 9;
    start
        && (begins!(head.behind(4), b"\x05\0\0\0\0")
            || (begins!(head.behind(4), b"\x01\0\0")
                && begins!(head.behind(9), b"\0")
                && begins!(head.behind(11), b"\0")))
}

/// The marker (RFC 4271, 4.1).
#[inline(always)]
fn is_bgp(head: Head) -> bool {
    head.is_full() && head.u64_at::<0>() == u64::MAX && head.u64_at::<8>() == u64::MAX
}

/// A connect packet: length, no checksum, type 1, versions 300 to 320.
#[inline(always)]
fn is_oracle(head: Head) -> bool {
    begins!(head.behind(2), b"\0\0\x01")
        && head.have() >= 12
        && head.u16_at::<0>() >= 34
        && head.u16_at::<6>() == 0
        && head.u16_at::<8>() >= 0x012c
        && head.u16_at::<8>() <= 0x0141
        && head.u16_at::<10>() >= 0x0100
        && head.u16_at::<10>() <= 0x0141
}

/// A call of Sun RPC behind its record mark (RFC 5531, 9 and 11).
#[inline(always)]
fn is_rpc(head: Head) -> bool {
    begins!(head.behind(8), b"\0\0\0\0\0\0\0\x02") && head.byte::<0>() == 0x80 && head.byte::<1>() == 0
}

/// A capabilities exchange (RFC 6733, 3 and 5.3).
#[inline(always)]
fn is_diameter(head: Head) -> bool {
    begins!(head, b"\x01") && begins!(head.behind(4), b"\x80\0\x01\x01\0\0\0\0", b"\xc0\0\x01\x01\0\0\0\0")
}

/// A request behind its length (RFC 4120, 7.2.2): AS-REQ or TGS-REQ, its sequence, version 5.
#[inline(always)]
fn is_kerberos(head: Head) -> bool {
    let request = head.behind(4);
    let sequence = request.behind(ber_header(request.byte::<1>()));
    let version = sequence.behind(ber_header(sequence.byte::<1>()));
    begins!(head, b"\0\0")
        && begins!(request, b"\x6a", b"\x6c")
        && begins!(sequence, b"\x30")
        && may_begin!(version, b"\xa1\x03\x02\x01\x05")
        && version.have() >= 2
}

/// A login without the message before it that negotiates encryption (MS-TDS, 2.2.6.4).
#[inline(always)]
fn is_tds_login(head: Head) -> bool {
    begins!(head, b"\x10\x01")
        && head.have() >= 12
        && head.u32_at::<4>() & 0xffff_00ff == 0
        && head.byte::<7>() == 0
        && head.byte::<6>() <= 1
        && begins!(head.behind(10), b"\0\0")
}

/// A connection request of X.224 that asks for no other security (MS-RDPBCGR, 2.2.1.1).
#[inline(always)]
fn is_plain_rdp(head: Head) -> bool {
    begins!(head, b"\x03\0\0\x0b\x06\xe0\0\0\0\0\0")
}
