//! What of a TCP segment matters to whoever reads the stream: where its bytes stand, and in it.

use bulkhead_abi::Protocol;

use super::{Bytes, Words, is_extension};

/// A TCP segment's place in its stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Span {
    /// Sequence number of the first payload byte.
    pub seq: u32,
    /// Offset of the payload in the packet.
    pub at: u32,
    /// Length of the payload.
    pub len: u32,
    /// Offset of the TCP options.
    pub options: u32,
    /// TCP's flags. No `bool`s: the verifier does not know that those are 0 or 1.
    pub flags: u32,
}

impl Span {
    /// It begins its direction (SYN).
    #[inline(always)]
    pub const fn begins(&self) -> bool {
        self.flags & 0x02 != 0
    }

    /// It ends its direction (FIN).
    #[inline(always)]
    pub const fn ends(&self) -> bool {
        self.flags & 0x01 != 0
    }

    /// It has urgent data, or announces some (RFC 9293, 3.8.5).
    #[inline(always)]
    pub const fn is_urgent(&self) -> bool {
        self.flags & 0x20 != 0
    }

    /// It has TCP options.
    #[inline(always)]
    pub const fn has_options(&self) -> bool {
        self.options < self.at
    }
}

/// Where a segment stands in its stream; `None` for what is no TCP segment that can be read.
#[inline(always)]
pub fn read_span(bytes: &impl Bytes) -> Option<Span> {
    let Words([first, _, b2, b3, b4, b5, next, frag_lo, _, protocol, rest @ ..]) = bytes.first::<40>()?;
    let (protocol, transport, end) = match first >> 4 {
        4 => {
            let total = u32::from(u16::from_be_bytes([b2, b3]));
            // The fragment's offset and "more" stand where IPv6 has the next header and the hop limit.
            if first != 0x45 || next & 0x3f != 0 || frag_lo != 0 || total > bytes.len() {
                return None;
            }
            let [_, _, _, _, _, _, _, _, _, _, tcp @ ..] = rest;
            let end = if total == 0 { bytes.len() } else { total };
            return span(&tcp, 20, end).filter(|_| protocol == Protocol::TCP.0);
        }
        6 => {
            let payload = u32::from(u16::from_be_bytes([b4, b5]));
            let end = if payload == 0 { bytes.len() } else { payload + 40 };
            if end > bytes.len() {
                return None;
            }
            match is_extension(next) {
                false => (Protocol(next), 40, end),
                true => match bytes.behind_extensions(next) {
                    Ok((protocol, at)) => (protocol, at, end),
                    Err(_) => return None,
                },
            }
        }
        _ => return None,
    };
    let mut tcp = [0u8; HEADER];
    if protocol != Protocol::TCP || bytes.load(transport, &mut tcp) < HEADER as u32 {
        return None;
    }
    span(&tcp, transport, end)
}

/// What a TCP header has at least.
const HEADER: usize = 20;

/// `transport` is the header's offset, `end` the offset behind the packet's last byte.
#[inline(always)]
fn span(tcp: &[u8; HEADER], transport: u32, end: u32) -> Option<Span> {
    let [_, _, _, _, s0, s1, s2, s3, _, _, _, _, offset, flags, ..] = *tcp;
    let header = u32::from(offset >> 4) * 4;
    let at = transport + header;
    if header < HEADER as u32 || at > end {
        return None;
    }
    let flags = u32::from(flags);
    let seq = u32::from_be_bytes([s0, s1, s2, s3]).wrapping_add(flags >> 1 & 1);
    Some(Span { seq, at, len: end - at, options: transport + HEADER as u32, flags })
}

/// Whether a segment's options make it a part of an MPTCP connection (RFC 8684): its bytes stand then in
/// another stream than TCP's own, at a place that they name themselves. What an option of the handshake
/// merely offers is none yet.
#[inline(always)]
pub fn is_multipath(bytes: &impl Bytes, span: &Span) -> bool {
    const MPTCP: u8 = 30;
    // Timestamps alone (RFC 7323, appendix A), as nearly every segment has them.
    const TIMESTAMPS: [u8; 4] = [1, 1, 8, 10];
    let mut head = [0u8; 4];
    if span.at - span.options == 12 && bytes.load(span.options, &mut head) == 4 && head == TIMESTAMPS {
        return false;
    }
    let mut at = span.options;
    for _ in 0..MOST_OPTIONS {
        if at >= span.at {
            break;
        }
        let mut option = [0u8; 3];
        if bytes.load(at, &mut option) < 2 {
            break;
        }
        let [kind, len, subtype] = option;
        match kind {
            0 => break,
            1 => at += 1,
            _ if len < 2 => break,
            // Joins another one (MP_JOIN), or carries data of one (MP_CAPABLE behind the handshake, DSS).
            MPTCP if subtype >> 4 == 1 || (span.len != 0 && subtype >> 4 < 3) => return true,
            _ => at += u32::from(len),
        }
    }
    false
}

/// A TCP header has room for 40 bytes of options.
const MOST_OPTIONS: u32 = 40;
