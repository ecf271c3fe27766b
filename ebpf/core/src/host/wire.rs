//! IP packets, byte by byte.

use std::{vec, vec::Vec};

use bulkhead_abi::{Addr, Protocol};

/// TCP flag: no more data from the sender.
pub const FIN: u8 = 0x01;
/// TCP flag: opens.
pub const SYN: u8 = 0x02;
/// TCP flag: ends at once.
pub const RST: u8 = 0x04;
/// TCP flag: the acknowledgement number counts.
pub const ACK: u8 = 0x10;

/// A packet to be written. The family is the source's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wire {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// The transport.
    pub protocol: Protocol,
    /// Source port, where the protocol has ports; the identifier of an ICMP echo.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// ICMP `type << 8 | code`.
    pub icmp: u16,
    /// TCP flags.
    pub flags: u8,
    /// What stands behind the transport header.
    pub payload: Vec<u8>,
}

impl Wire {
    /// A packet of `protocol` from one end to the other; a SYN if it is TCP.
    pub fn new(protocol: Protocol, (src, src_port): (Addr, u16), (dst, dst_port): (Addr, u16)) -> Self {
        Self { src, dst, protocol, src_port, dst_port, icmp: 0, flags: SYN, payload: vec![] }
    }

    /// With these TCP flags.
    #[must_use]
    pub fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    /// With this ICMP type and code.
    #[must_use]
    pub fn icmp(self, kind: u8, code: u8) -> Self {
        Self { icmp: u16::from_be_bytes([kind, code]), ..self }
    }

    /// With this payload.
    #[must_use]
    pub fn payload(self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self }
    }

    /// The same the other way.
    #[must_use]
    pub fn reversed(self) -> Self {
        let Self { src, dst, src_port, dst_port, .. } = self;
        Self { src: dst, dst: src, src_port: dst_port, dst_port: src_port, ..self }
    }

    /// The bytes, from the IP header on. Checksums are 0: nobody here looks at them.
    pub fn bytes(&self) -> Vec<u8> {
        let transport = self.transport();
        let mut bytes = if self.src.is_v4() {
            v4(self.src, self.dst, self.protocol, &[], transport.len())
        } else {
            v6(self.src, self.dst, self.protocol.0, transport.len())
        };
        bytes.extend(transport);
        if self.protocol == Protocol::ICMPV6
            && let Some(hops) = bytes.get_mut(7)
        {
            // What discovery has on its link.
            *hops = match self.icmp >> 8 {
                133..=137 => 255,
                130..=132 | 143 => 1,
                _ => *hops,
            };
        }
        bytes
    }

    /// The transport header and the payload.
    pub fn transport(&self) -> Vec<u8> {
        let ports = [self.src_port.to_be_bytes(), self.dst_port.to_be_bytes()].concat();
        let mut bytes = match self.protocol {
            // Sequence and acknowledgement numbers 0; five words; a window of 0.
            Protocol::TCP => [&ports[..], &[0; 8], &[0x50, self.flags], &[0; 6]].concat(),
            Protocol::UDP | Protocol::UDPLITE => [&ports[..], &[0; 4]].concat(),
            Protocol::SCTP | Protocol::DCCP => [&ports[..], &[0; 12]].concat(),
            Protocol::ICMP | Protocol::ICMPV6 => {
                [&self.icmp.to_be_bytes()[..], &[0; 2], &self.src_port.to_be_bytes(), &[0; 2]].concat()
            }
            _ => vec![0; 8],
        };
        bytes.extend(&self.payload);
        bytes
    }
}

/// An IPv4 header with `options` (a multiple of four bytes) before a transport of `len` bytes.
pub fn v4(src: Addr, dst: Addr, protocol: Protocol, options: &[u8], len: usize) -> Vec<u8> {
    let header = 20 + options.len();
    let words = u8::try_from(header / 4).unwrap_or(15);
    let total = u16::try_from(header + len).unwrap_or(0);
    let mut bytes = vec![0x40 | words, 0];
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 64, protocol.0, 0, 0]);
    for addr in [src, dst] {
        bytes.extend(addr.octets().iter().skip(12));
    }
    bytes.extend(options);
    bytes
}

/// An IPv6 header whose next one is `next`, before `len` bytes.
pub fn v6(src: Addr, dst: Addr, next: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(u16::try_from(len).unwrap_or(0).to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    bytes
}
