//! What the beginning of a TLS handshake looks like, and where its records end.

use super::head::{Head, begins, may_begin};

/// How well bytes fit what they are compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Fit {
    /// They are something else.
    No = 0,
    /// They may be the beginning of it.
    May = 1,
    /// They are it.
    Is = 2,
}

impl Fit {
    /// The one with this code, which is two bits of what is handed in.
    #[inline(always)]
    pub(super) const fn from_code(code: u32) -> Self {
        match code & 3 {
            0 => Self::No,
            1 => Self::May,
            _ => Self::Is,
        }
    }
}

/// How many bytes make sure of a hello: a record's header (RFC 8446, 5.1), a handshake message's header
/// (4), and the version.
const HELLO: u32 = 11;

/// Whether this is a ClientHello (RFC 8446, 4.1.2; RFC 5246, 7.4.1.2). It may be cut into several records,
/// but the first one must hold all that is looked at here.
#[inline(always)]
pub(super) const fn client_hello(head: Head) -> Fit {
    hello(head, 1)
}

/// Whether this is a ServerHello or a HelloRetryRequest (RFC 8446, 4.1.3).
#[inline(always)]
pub(super) const fn server_hello(head: Head) -> Fit {
    hello(head, 2)
}

#[inline(always)]
const fn hello(head: Head, kind: u8) -> Fit {
    let have = head.have();
    // Type handshake, version 3.0 to 3.3.
    if !may_begin!(head, b"\x16\x03") || (have > 2 && head.byte::<2>() > 3) {
        return Fit::No;
    }
    let record = head.u16_at::<3>();
    if (have > 3 && record >> 8 > 0x40) || (have > 4 && (record < 6 || record > MOST_CLEAR)) {
        return Fit::No;
    }
    if (have > 5 && head.byte::<5>() != kind) || (have > 6 && head.byte::<6>() != 0) {
        return Fit::No;
    }
    // The message has at least a version, a random number, and the lengths of what follows; a ClientHello
    // has its record for itself.
    let message = head.u16_at::<7>();
    if have > 8 && (message < 38 || (kind == 1 && message + 4 < record)) {
        return Fit::No;
    }
    if (have > 9 && head.byte::<9>() != 3) || (have > 10 && head.byte::<10>() > 3) {
        return Fit::No;
    }
    if have < HELLO { Fit::May } else { Fit::Is }
}

/// Whether this is the alert of a server that refuses the handshake (RFC 8446, 6).
#[inline(always)]
pub(super) const fn alert(head: Head) -> Fit {
    let have = head.have();
    if !may_begin!(
        head,
        b"\x15\x03\x00\x00\x02",
        b"\x15\x03\x01\x00\x02",
        b"\x15\x03\x02\x00\x02",
        b"\x15\x03\x03\x00\x02"
    ) || (have > 5 && !matches!(head.byte::<5>(), 1 | 2))
        || (have > 6 && head.byte::<6>() > 121)
    {
        return Fit::No;
    }
    if have < 7 { Fit::May } else { Fit::Is }
}

/// Whether this is a ClientHello in the format of SSL 2.0 (RFC 5246, E.2) that offers SSL 3.0 or more.
#[inline(always)]
pub(super) fn old_client_hello(head: Head) -> bool {
    let (record, ciphers, session, challenge) =
        (head.u16_at::<0>() & 0x7fff, head.u16_at::<5>(), head.u16_at::<7>(), head.u16_at::<9>());
    head.have() >= HELLO
        && head.byte::<0>() & 0x80 != 0
        && begins!(head.behind(2), b"\x01\x03\x00", b"\x01\x03\x01", b"\x01\x03\x02", b"\x01\x03\x03")
        && ciphers != 0
        && ciphers % 3 == 0
        && matches!(session, 0 | 16 | 32)
        && matches!(challenge, 16..=32)
        && record == 9 + ciphers + session + challenge
}

/// The version that a hello names, as its minor number: 1 is TLS 1.0. TLS 1.3 hides behind 3.
#[inline(always)]
pub(super) const fn version(hello: Head) -> u8 {
    hello.byte::<10>()
}

/// How long the record is whose header stands here, header and all.
#[inline(always)]
pub(super) const fn record_len(head: Head) -> u32 {
    5 + head.u16_at::<3>()
}

/// The most that a record carries before encryption.
const MOST_CLEAR: u32 = 1 << 14;
/// The most that encryption makes of it (RFC 5246, 6.2.3; TLS 1.3 allows less).
const MOST: u32 = MOST_CLEAR + 2048;

/// Whether this, as far as it is there, is the header of a record that may follow a hello.
#[inline(always)]
pub(super) const fn is_record(header: Head) -> bool {
    let have = header.have();
    if have == 0 {
        return true;
    }
    let least = match header.byte::<0>() {
        // Changes of the cipher and handshake messages.
        20 | 22 => 1,
        21 => 2,
        // An empty message under the shortest tag there is, and TLS 1.3's byte for its type.
        23 => 9,
        // Heartbeats.
        24 => 9,
        _ => return false,
    };
    if (have > 1 && header.byte::<1>() != 3) || (have > 2 && header.byte::<2>() > 4) {
        return false;
    }
    let len = header.u16_at::<3>();
    !(have > 3 && header.byte::<3>() > (MOST >> 8) as u8) && !(have > 4 && (len < least || len > MOST))
}
