//! Clear text in datagrams.

use bulkhead_abi::App;

use super::{Readers, View, piece, text};
use crate::inspect::{
    Payload,
    head::{Head, begins, says},
};

/// It is clear text.
pub(super) const IS: u32 = 0x100;
/// It is clear text, behind which encryption may follow.
pub(super) const LIKELY: u32 = 0x200;
/// It may be a request of a protocol that its answer tells.
pub(super) const REQUEST: u32 = 0x300;
/// It may be an answer.
pub(super) const ANSWER: u32 = 0x400;
/// It is of a protocol whose own encryption is no class.
pub(super) const HIDDEN: u32 = 0x500;
/// Where the half byte of a number begins.
pub(super) const NUMBER: u32 = 16;

/// Says whether a datagram is clear text: an [`App`] code and one of the above; 0 for neither. An answer of
/// CoAP, a request, and a message of STUN carry, in the bits above, half a byte of their number.
#[inline(always)]
pub(super) fn look(payload: &impl Readers) -> u32 {
    match payload.numbers() {
        0 => {}
        found => return found,
    }
    match payload.tunnels() {
        0 => {}
        found => return found,
    }
    match payload.attributes() {
        0 => {}
        found => return found,
    }
    match payload.words() {
        0 => {}
        found => return found,
    }
    payload.metrics()
}

#[inline(always)]
fn is(app: Option<App>) -> u32 {
    match app {
        Some(app) => IS | app as u32,
        None => 0,
    }
}

/// [`Readers::numbers`].
#[inline(always)]
pub fn numbers(payload: &impl Payload) -> u32 {
    let view = View::of(payload);
    if is_stun(&view) {
        return LIKELY | App::Stun as u32 | u32::from(view.head.byte::<15>() & 15) << NUMBER;
    }
    is(numbered(&view, payload))
}

/// [`Readers::tunnels`].
#[inline(always)]
pub fn tunnels(payload: &impl Payload) -> u32 {
    is(tunnel(&View::of(payload), payload))
}

/// [`Readers::attributes`].
#[inline(always)]
pub fn attributes(payload: &impl Payload) -> u32 {
    let view = View::of(payload);
    match is(chained(&view, payload)) {
        0 => {}
        found => return found,
    }
    match snmp(payload, view.head) {
        0 => 0,
        found => found | App::Snmp as u32,
    }
}

/// [`Readers::words`].
#[inline(always)]
pub fn words(payload: &impl Payload) -> u32 {
    is(text::words(&View::of(payload), payload))
}

/// [`Readers::metrics`], and CoAP, which a text may look like.
#[inline(always)]
pub fn metrics(payload: &impl Payload) -> u32 {
    // No more of it is kept than is needed here.
    let view = View { len: payload.len(), head: piece(payload, 0), next: Head::default() };
    match is(text::metrics(&view, payload)) {
        // Its first bytes are letters of no word.
        0 => coap(&view),
        found => found,
    }
}

/// Protocols with a header of their own that tells.
#[inline(always)]
fn numbered(view: &View, payload: &impl Payload) -> Option<App> {
    let head = view.head;
    if let Some(app) = dns(view) {
        return Some(app);
    }
    if is_ntp(view, payload) {
        return Some(App::Ntp);
    }
    // RFC 2131, 3: the magic cookie before the options.
    if begins!(head, b"\x01\x01\x06", b"\x02\x01\x06") && begins!(piece(payload, 236), b"\x63\x82\x53\x63") {
        return Some(App::Dhcp);
    }
    if is_kerberos(head) {
        return Some(App::Kerberos);
    }
    // A call of Sun RPC, of one of Sun's programs.
    if begins!(head.behind(4), b"\0\0\0\0\0\0\0\x02\0\x01\x86") {
        return Some(App::Rpc);
    }
    if is_netflow(view) {
        return Some(App::Netflow);
    }
    // NetBIOS datagrams, from their own port.
    if begins!(head, b"\x10", b"\x11")
        && head.byte::<1>() < 0x10
        && begins!(head.behind(8), b"\0\x8a")
        && view.len >= 14
    {
        return Some(App::Netbios);
    }
    if begins!(head, b"d1:ad2:id20:", b"d1:rd2:id20:", b"\0\0\x04\x17\x27\x10\x19\x80") {
        return Some(App::Bittorrent);
    }
    // memcached's header in UDP: a request's number, the first of one datagram, nothing.
    if begins!(head.behind(2), b"\0\0\0\x01\0\0")
        && says!(
            head.behind(8),
            b"GET ",
            b"GETS ",
            b"SET ",
            b"STATS\r\n",
            b"VERSION",
            b"END\r\n",
            b"VALUE ",
            b"STORED\r\n",
            b"STAT "
        )
    {
        return Some(App::Memcached);
    }
    None
}

/// Packets in packets.
#[inline(always)]
fn tunnel(view: &View, payload: &impl Payload) -> Option<App> {
    let head = view.head;
    if begins!(head, b"\x08\0\0\0") && head.byte::<7>() == 0 && is_ethernet(piece(payload, 8)) {
        return Some(App::Vxlan);
    }
    // Version 0, and no flags but two (RFC 8926, 3.4).
    let options = u32::from(head.byte::<0>() & 0x3f) * 4;
    if head.byte::<0>() & 0xc0 == 0
        && head.byte::<1>() & 0x3f == 0
        && head.byte::<7>() == 0
        && view.len >= 8 + options + 14
    {
        let ethernet = begins!(head.behind(2), b"\x65\x58") && is_ethernet(piece(payload, 8 + options));
        let inner = piece(payload, 8 + options);
        let ip = (begins!(head.behind(2), b"\x08\0") && inner.byte::<0>() == 0x45)
            || (begins!(head.behind(2), b"\x86\xdd") && inner.byte::<0>() >> 4 == 6);
        if ethernet || ip {
            return Some(App::Geneve);
        }
    }
    let (flags, kind, len) = (head.byte::<0>(), head.byte::<1>(), head.u16_at::<2>());
    // A user's packet (TS 29.281), with an IP packet in it, behind what is optional.
    if flags & 0xf8 == 0x30 && kind == 0xff && len + 8 == view.len {
        let inner = piece(payload, if flags & 7 == 0 { 8 } else { 12 }).byte::<0>();
        if inner == 0x45 || inner >> 4 == 6 || (flags & 4 != 0 && inner != 0) {
            return Some(App::Gtp);
        }
    }
    // Echoes, and the control plane (TS 29.274).
    if flags & 0xf8 == 0x30 && matches!(kind, 1 | 2) && len + 8 == view.len && head.u32_at::<4>() == 0 {
        return Some(App::Gtp);
    }
    let spare = if flags == 0x48 { head.byte::<11>() } else { head.byte::<7>() };
    if matches!(flags, 0x40 | 0x48)
        && matches!(kind, 1..=3 | 32..=40 | 64..=73)
        && len + 4 == view.len
        && spare == 0
        && len >= 9
    {
        return Some(App::Gtp);
    }
    None
}

/// Protocols of attributes, whose lengths must lead to the end or to another one.
#[inline(always)]
fn chained(view: &View, payload: &impl Payload) -> Option<App> {
    let head = view.head;
    if matches!(head.byte::<0>(), 1..=5 | 11..=13 | 40..=45)
        && head.u16_at::<2>() == view.len
        && is_radius(view, payload)
    {
        return Some(App::Radius);
    }
    // DHCP for IPv6 (RFC 8415, 8 and 21): a message, its number, and options.
    let len = head.u16_at::<6>();
    if matches!(head.byte::<0>(), 1..=13) && is_option(head.u16_at::<4>()) && len <= 130 && view.len > 8 + len
    {
        let next = piece(payload, 8 + len);
        if next.have() >= 4 && is_option(next.u16_at::<0>()) && next.u16_at::<2>() + 12 + len <= view.len {
            return Some(App::Dhcp);
        }
    }
    // collectd: the host's name as the first part, and a time or another name behind it.
    let len = head.u16_at::<2>();
    if begins!(head, b"\0\0\0")
        && (6..=64).contains(&len)
        && head.behind(4).first(if len > 16 { 12 } else { len - 5 }).is_text()
    {
        let next = piece(payload, len);
        if begins!(next, b"\0\x08\0\x0c", b"\0\x01\0\x0c", b"\0\x02\0") {
            return Some(App::Collectd);
        }
    }
    None
}

/// Options of DHCPv6 that messages begin with.
#[inline(always)]
const fn is_option(code: u32) -> bool {
    matches!(code, 1..=9 | 11..=20 | 22..=25 | 39)
}

/// Whether a datagram's attributes (RFC 2865, 5) end where it ends; there are two at least.
#[inline(always)]
fn is_radius(view: &View, payload: &impl Payload) -> bool {
    let mut at = 20;
    for count in 0..24u32 {
        if at == view.len {
            return count >= 2;
        }
        let attribute = piece(payload, at);
        let len = u32::from(attribute.byte::<1>());
        if attribute.have() < 2 || attribute.byte::<0>() == 0 || len < 2 || len > view.len - at {
            return false;
        }
        at += len;
    }
    true
}

/// A message of DNS (RFC 1035, 4.1.1), of multicast DNS (RFC 6762), of LLMNR, or of NetBIOS' name service.
#[inline(always)]
fn dns(view: &View) -> Option<App> {
    let head = view.head;
    let (flags, questions, answers) = (head.u16_at::<2>(), head.u16_at::<4>(), head.u16_at::<6>());
    let (authorities, more) = (head.u16_at::<8>(), head.u16_at::<10>());
    let opcode = (flags >> 11) & 15;
    if view.len < 17 || head.byte::<12>() > 63 || flags & 0x0040 != 0 {
        return None;
    }
    // A name of NetBIOS is always 32 letters from A to P (RFC 1002, 4.1).
    let netbios = begins!(head.behind(12), b"\x20")
        && is_half_ascii(head.byte::<13>())
        && is_half_ascii(head.byte::<14>())
        && is_half_ascii(head.byte::<15>())
        && is_half_ascii(view.next.byte::<0>());
    if netbios
        && flags & 0x000f <= 7
        && questions <= 1
        && answers <= 1
        && authorities == 0
        && more <= 1
        && matches!(opcode, 0 | 5..=9)
    {
        return Some(App::Netbios);
    }
    if head.u16_at::<0>() == 0
        && matches!(flags, 0 | 0x8400)
        && questions <= 64
        && answers <= 64
        && authorities <= 16
        && more <= 64
        && questions + answers != 0
        && head.byte::<12>() != 0
        && view.head.behind(13).is_text()
    {
        return Some(App::Mdns);
    }
    let asks = flags & 0x8000 == 0;
    let plausible = if asks {
        answers == 0 && authorities <= 1 && more <= 2
    } else {
        answers <= 255 && authorities <= 32 && more <= 64
    };
    let update = opcode == 5 && asks && answers <= 32 && authorities <= 32 && more <= 2;
    if matches!(opcode, 0 | 4 | 5) && questions == 1 && (plausible || update) {
        return Some(App::Dns);
    }
    None
}

/// A letter that half a byte is written as.
#[inline(always)]
const fn is_half_ascii(letter: u8) -> bool {
    matches!(letter, b'A'..=b'P')
}

/// A packet of NTP (RFC 5905, 7.3), as it is, with a digest, or with extensions.
#[inline(always)]
fn is_ntp(view: &View, payload: &impl Payload) -> bool {
    let head = view.head;
    let (version, mode) = ((head.byte::<0>() >> 3) & 7, head.byte::<0>() & 7);
    let (stratum, poll, precision) = (head.byte::<1>(), head.byte::<2>() as i8, head.byte::<3>() as i8);
    let fits = view.len >= 48
        && view.len <= 1400
        && view.len & 3 == 0
        && matches!(version, 1..=4)
        && matches!(mode, 1..=5)
        && stratum <= 16
        && (-8..=17).contains(&poll)
        && (-32..=32).contains(&precision)
        // Less than 256 s to the root, and to the truth.
        && head.byte::<4>() == 0
        && head.byte::<8>() == 0
        && (view.len == 48 || matches!(mode, 3 | 4));
    if !fits {
        return false;
    }
    // Who shows nothing of his clock; else he has looked at it, and heard of the other end, not long ago.
    let silent = head.is_full() && head.behind(4).is_zero();
    let rest = piece(payload, 32);
    let said = rest.u32_at::<8>();
    silent
        || (is_lately(view.next.u32_at::<0>(), said)
            && is_lately(view.next.u32_at::<8>(), said)
            && is_lately(rest.u32_at::<0>(), said))
}

/// Whether a time of NTP, in seconds, is not known, or a year before another one at most.
#[inline(always)]
const fn is_lately(time: u32, now: u32) -> bool {
    time == 0 || now.wrapping_sub(time) < 1 << 25
}

/// A request or an answer of Kerberos (RFC 4120, 5): its application tag, a sequence, version 5.
#[inline(always)]
fn is_kerberos(head: Head) -> bool {
    let sequence = head.behind(header_len(head.byte::<1>()));
    let version = sequence.behind(header_len(sequence.byte::<1>()));
    matches!(head.byte::<0>(), 0x6a..=0x6f | 0x7e)
        && begins!(sequence, b"\x30")
        && begins!(version, b"\xa1\x03\x02\x01\x05", b"\xa0\x03\x02\x01\x05")
}

/// NetFlow 5 and 9, IPFIX (RFC 7011), sFlow 5.
#[inline(always)]
fn is_netflow(view: &View) -> bool {
    let (head, count) = (view.head, view.head.u16_at::<2>());
    if begins!(head, b"\0\0\0\x05\0\0\0\x01", b"\0\0\0\x05\0\0\0\x02") {
        return view.len >= 28;
    }
    if begins!(head, b"\0\x05") {
        return (1..=30).contains(&count) && view.len == 24 + 48 * count;
    }
    let (set, len) = if begins!(head, b"\0\x0a") {
        (view.next.u16_at::<0>(), if count == view.len { view.next.u16_at::<2>() } else { 0 })
    } else if begins!(head, b"\0\x09") && (1..=128).contains(&count) {
        (view.next.u16_at::<4>(), view.next.u16_at::<6>())
    } else {
        return false;
    };
    (set <= 3 || (256..=1024).contains(&set)) && len >= 8 && len + 16 <= view.len
}

/// A message of STUN (RFC 8489, 5).
#[inline(always)]
fn is_stun(view: &View) -> bool {
    view.head.byte::<0>() < 0x40
        && begins!(view.head.behind(4), b"\x21\x12\xa4\x42")
        && view.head.u16_at::<2>() & 3 == 0
        && view.head.u16_at::<2>() + 20 <= view.len
}

/// Whether this is a message of SNMP (RFC 3416, RFC 3412). One of version 3 says of itself whether it is
/// encrypted; those that are follow others that are not.
#[inline(always)]
fn snmp(payload: &impl Payload, head: Head) -> u32 {
    let outer = header_len(head.byte::<1>());
    let message = head.behind(outer);
    if !begins!(head, b"\x30") || !begins!(message, b"\x02\x01") {
        return 0;
    }
    let community = message.behind(3);
    let len = u32::from(community.byte::<1>());
    match message.byte::<2>() {
        0 | 1 => {
            let word = community.behind(2);
            let behind = word.behind(len);
            let fits = begins!(community, b"\x04")
                && len <= 64
                && word.first(len).is_text()
                && (behind.have() == 0 || matches!(behind.byte::<0>(), 0xa0..=0xa8));
            if fits { IS } else { 0 }
        }
        3 if begins!(community, b"\x30") => {
            // Its number, the largest message, the flags.
            let number = piece(payload, outer + 3 + header_len(community.byte::<1>()));
            let size = number.behind(2 + u32::from(number.byte::<1>() & 7));
            let flags = size.behind(2 + u32::from(size.byte::<1>() & 7));
            let fits = begins!(number, b"\x02") && begins!(size, b"\x02") && begins!(flags, b"\x04\x01");
            match flags.byte::<2>() & 2 {
                _ if !fits => 0,
                0 => LIKELY,
                _ => HIDDEN,
            }
        }
        _ => 0,
    }
}

/// Whether this may be a request of CoAP or an answer (RFC 7252, 3). With OSCORE's option it is neither.
#[inline(always)]
fn coap(view: &View) -> u32 {
    let head = view.head;
    let (first, code) = (head.byte::<0>(), head.byte::<1>());
    let token = u32::from(first & 15);
    if first & 0xc0 != 0x40 || token > 8 || view.len < 4 + token {
        return 0;
    }
    let number = u32::from(head.byte::<3>() & 15) << NUMBER;
    let option = head.behind(4 + token);
    match code {
        1..=7 => {
            // Nothing, or the host or the path: a number, and a text.
            let (delta, len) = (option.byte::<0>() >> 4, u32::from(option.byte::<0>() & 15));
            let text = option.behind(1).first(if len > 12 { 12 } else { len });
            let fits = matches!(delta, 3 | 11) && len >= 2 && text.have() >= 2 && text.is_text();
            if fits || view.len == 4 + token { REQUEST | number | App::Coap as u32 } else { 0 }
        }
        // In the acknowledgement, or by itself.
        0x41..=0x45 | 0x80..=0x8f | 0xa0..=0xa5 => ANSWER | number | App::Coap as u32,
        _ => 0,
    }
}

/// Whether an Ethernet header stands here whose type is IP, ARP or a VLAN.
#[inline(always)]
fn is_ethernet(head: Head) -> bool {
    begins!(head.behind(12), b"\x08\0", b"\x08\x06", b"\x86\xdd", b"\x81\0")
}

/// How long the header of a BER element is whose length begins with `first`.
#[inline(always)]
const fn header_len(first: u8) -> u32 {
    if first & 0x80 == 0 { 2 } else { 2 + (first & 7) as u32 }
}
