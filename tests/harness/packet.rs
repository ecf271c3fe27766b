//! IP packets and frames as nobody honest makes them: fragments, options, chains of extension headers,
//! any flags and any source, with right checksums.
//!
//! ```
//! # use bulkhead_tests::harness::packet::Ip;
//! let ip = Ip::new("10.0.0.1", "10.0.0.2").options(&[7, 3, 4]);
//! let packet = ip.udp(4000, 53, b"marker");
//! assert_eq!((packet[0], packet.len()), (0x46, 24 + 8 + 6));
//! ```

use std::net::IpAddr;

/// Protocol numbers that tests need by name.
pub mod protocol {
    #![expect(missing_docs, reason = "they are called what IANA calls them")]
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const DCCP: u8 = 33;
    pub const IPV6: u8 = 41;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
    pub const UDPLITE: u8 = 136;
    /// For experiments (RFC 3692).
    pub const EXPERIMENT: u8 = 253;

    /// Extension headers of IPv6.
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION: u8 = 60;
}

/// Flags of TCP.
pub mod flags {
    #![expect(missing_docs, reason = "they are called what RFC 9293 calls them")]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
}

/// What stands in front of a transport header.
#[derive(Clone, Debug)]
pub struct Ip {
    src: IpAddr,
    dst: IpAddr,
    id: u16,
    /// IPv4: flags and offset in units of eight bytes, as they stand in the header.
    fragment: u16,
    hops: u8,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
}

/// What stands in a TCP header beside ports and checksum.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tcp {
    /// See [`flags`].
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledged number.
    pub ack: u32,
}

impl Ip {
    /// From one address to another, of one family. For literals: panics at what is no address.
    #[must_use]
    #[expect(clippy::panic, reason = "a mistake in the test's own text")]
    pub fn new(src: &str, dst: &str) -> Ip {
        let parse = |text: &str| text.parse().unwrap_or_else(|_| panic!("no address: {text}"));
        Ip::between(parse(src), parse(dst))
    }

    /// As [`Ip::new`].
    #[must_use]
    pub fn between(src: IpAddr, dst: IpAddr) -> Ip {
        assert_eq!(src.is_ipv6(), dst.is_ipv6(), "two families in one packet");
        Ip { src, dst, id: 0, fragment: 0, hops: 64, options: Vec::new(), extensions: Vec::new() }
    }

    /// Whether it is IPv6.
    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.src.is_ipv6()
    }

    /// Where it goes.
    #[must_use]
    pub fn dst(&self) -> IpAddr {
        self.dst
    }

    /// With this time to live, or hop limit, instead of 64.
    #[must_use]
    pub fn hops(self, hops: u8) -> Ip {
        Ip { hops, ..self }
    }

    /// With IPv4 options, filled up with zeroes to a multiple of four bytes.
    #[must_use]
    pub fn options(self, options: &[u8]) -> Ip {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        Ip { options, ..self }
    }

    /// With one more IPv6 extension header: its kind, and what follows its first two bytes, filled up
    /// with zeroes.
    #[must_use]
    pub fn extension(mut self, kind: u8, body: &[u8]) -> Ip {
        let mut body = body.to_vec();
        body.resize((body.len() + 2).next_multiple_of(8) - 2, 0);
        self.extensions.push((kind, body));
        self
    }

    /// As one fragment: its identification, its offset in bytes (a multiple of eight), and whether more
    /// follow. In IPv6 an extension header says so.
    #[must_use]
    pub fn fragment(self, id: u16, offset: u16, more: bool) -> Ip {
        assert_eq!(offset % 8, 0, "offsets count in eights");
        if self.is_v6() {
            let [high, low] = (offset | u16::from(more)).to_be_bytes();
            let [id_high, id_low] = id.to_be_bytes();
            return self.extension(protocol::FRAGMENT, &[high, low, 0, 0, id_high, id_low]);
        }
        Ip { id, fragment: (offset / 8) | if more { 0x2000 } else { 0 }, ..self }
    }

    /// The packet with this payload.
    #[must_use]
    pub fn carry(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header = 20 + self.options.len();
                let length = length(header + payload.len());
                let words = u8::try_from(header / 4).unwrap_or(u8::MAX);
                let mut packet = vec![0x40 | words, 0, length[0], length[1]];
                packet.extend(self.id.to_be_bytes());
                packet.extend(self.fragment.to_be_bytes());
                packet.extend([self.hops, protocol, 0, 0]);
                packet.extend(src.octets());
                packet.extend(dst.octets());
                packet.extend(&self.options);
                let sum = checksum(&[&packet]);
                packet.splice(10..12, sum);
                packet.extend(payload);
                packet
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let extensions: usize = self.extensions.iter().map(|(_, body)| body.len() + 2).sum();
                let length = length(extensions + payload.len());
                let mut kinds = self.extensions.iter().map(|(kind, _)| *kind).chain([protocol]);
                let first = kinds.next().unwrap_or(protocol);
                let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], first, self.hops];
                packet.extend(src.octets());
                packet.extend(dst.octets());
                for ((_, body), next) in self.extensions.iter().zip(kinds) {
                    let eights = u8::try_from((body.len() + 2) / 8 - 1).unwrap_or(u8::MAX);
                    packet.extend([next, eights]);
                    packet.extend(body);
                }
                packet.extend(payload);
                packet
            }
            _ => Vec::new(),
        }
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(&self, src: u16, dst: u16, data: &[u8]) -> Vec<u8> {
        self.carry(protocol::UDP, &self.udp_payload(src, dst, data))
    }

    /// A UDP header and its data, to be cut into fragments.
    #[must_use]
    pub fn udp_payload(&self, src: u16, dst: u16, data: &[u8]) -> Vec<u8> {
        let mut payload = ports(src, dst);
        payload.extend(length(8 + data.len()));
        payload.extend([0, 0]);
        payload.extend(data);
        self.seal(protocol::UDP, payload, 6)
    }

    /// A TCP segment without options.
    #[must_use]
    pub fn tcp(&self, src: u16, dst: u16, header: Tcp, data: &[u8]) -> Vec<u8> {
        self.carry(protocol::TCP, &self.tcp_payload(src, dst, header, &[], data))
    }

    /// A TCP header, its options (a multiple of four bytes) and its data.
    #[must_use]
    pub fn tcp_payload(&self, src: u16, dst: u16, header: Tcp, options: &[u8], data: &[u8]) -> Vec<u8> {
        let words = u8::try_from(5 + options.len() / 4).unwrap_or(u8::MAX);
        let mut payload = ports(src, dst);
        payload.extend(header.seq.to_be_bytes());
        payload.extend(header.ack.to_be_bytes());
        payload.extend([words << 4, header.flags, 0xff, 0xff, 0, 0, 0, 0]);
        payload.extend(options);
        payload.extend(data);
        self.seal(protocol::TCP, payload, 16)
    }

    /// An ICMP or ICMPv6 message: type, code, the four bytes behind the checksum, and the rest.
    #[must_use]
    pub fn icmp(&self, kind: u8, code: u8, four: [u8; 4], data: &[u8]) -> Vec<u8> {
        let mut payload = vec![kind, code, 0, 0];
        payload.extend(four);
        payload.extend(data);
        if self.is_v6() {
            return self.carry(protocol::ICMPV6, &self.seal(protocol::ICMPV6, payload, 2));
        }
        let sum = checksum(&[&payload]);
        payload.splice(2..4, sum);
        self.carry(protocol::ICMP, &payload)
    }

    /// An echo request, or the reply to one.
    #[must_use]
    pub fn echo(&self, reply: bool, id: u16, data: &[u8]) -> Vec<u8> {
        let kind = match (self.is_v6(), reply) {
            (false, false) => 8,
            (false, true) => 0,
            (true, false) => 128,
            (true, true) => 129,
        };
        let [high, low] = id.to_be_bytes();
        self.icmp(kind, 0, [high, low, 0, 1], data)
    }

    /// "Port unreachable" about another packet, followed by more data than any router would add.
    #[must_use]
    pub fn unreachable(&self, about: &[u8], data: &[u8]) -> Vec<u8> {
        let quoted = [about.get(..48).unwrap_or(about), data].concat();
        if self.is_v6() { self.icmp(1, 4, [0; 4], &quoted) } else { self.icmp(3, 3, [0; 4], &quoted) }
    }

    /// Puts the checksum over pseudo header and payload at `at`.
    fn seal(&self, protocol: u8, mut payload: Vec<u8>, at: usize) -> Vec<u8> {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let pseudo = [octets(self.src), octets(self.dst), vec![0, protocol], length(payload.len()).to_vec()];
        let sum = checksum(&[&pseudo.concat(), &payload]);
        // UDP's 0 says that there is none.
        let sum = if sum == [0, 0] && protocol == protocol::UDP { [0xff, 0xff] } else { sum };
        payload.splice(at..at + 2, sum);
        payload
    }
}

/// An Ethernet frame around an IP packet.
#[must_use]
pub fn frame(to: [u8; 6], from: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
    let kind: [u8; 2] = if v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    [&to[..], &from, &kind, packet].concat()
}

fn ports(src: u16, dst: u16) -> Vec<u8> {
    [src.to_be_bytes(), dst.to_be_bytes()].concat()
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

/// The internet checksum (RFC 1071) of parts of even length, save the last.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let word = |pair: &[u8]| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    };
    let mut sum: u32 = parts.iter().flat_map(|part| part.chunks(2)).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or_default()).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_sums_up_to_nothing() {
        let packet = Ip::new("10.0.0.1", "10.0.0.2").options(&[7, 3, 4]).udp(1, 2, b"odd");
        assert_eq!(checksum(&[packet.get(..24).unwrap_or_default()]), [0, 0]);
        assert_eq!(packet.len(), 24 + 8 + 3);
    }

    #[test]
    fn the_sum_of_rfc_1071() {
        assert_eq!(
            checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]),
            (!0xddf2_u16).to_be_bytes()
        );
    }

    #[test]
    fn extension_headers_name_one_another() {
        let ip =
            Ip::new("fd00::1", "fd00::2").extension(protocol::DESTINATION, &[1, 4]).fragment(7, 16, true);
        let packet = ip.carry(protocol::UDP, b"x");
        assert_eq!(packet.get(4..8), Some(&[0, 17, protocol::DESTINATION, 64][..]));
        assert_eq!(packet.get(40..48), Some(&[protocol::FRAGMENT, 0, 1, 4, 0, 0, 0, 0][..]));
        assert_eq!(packet.get(48..56), Some(&[protocol::UDP, 0, 0, 17, 0, 0, 0, 7][..]));
    }
}
