//! ICMP echo, by ping sockets and by raw ones.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bulkhead_tests::harness::protocol::{Exchanged, Kind};
use rustix::net::bind;

use crate::micros;
use crate::sockets::{Fault, Socket, any, make};
use crate::talk;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Echo requests, so many of so many bytes, one after the other, each answered within `limit`.
pub(crate) fn ping(
    to: IpAddr,
    from: Option<IpAddr>,
    raw: bool,
    (count, size): (u64, usize),
    limit: Duration,
) -> Result<Exchanged, Fault> {
    let v6 = to.is_ipv6();
    let kind = match (raw, v6) {
        (false, _) => Kind::Ping,
        (true, false) => Kind::Raw(ICMP),
        (true, true) => Kind::Raw(ICMPV6),
    };
    let socket = Socket { fd: make(kind, v6)?, kind, served: Default::default() };
    bind(&socket.fd, &SocketAddr::new(from.unwrap_or_else(|| any(v6)), 0))?;

    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    for number in 0..count {
        let asked = Instant::now();
        let sequence = u16::try_from(number % 65536).unwrap_or_default();
        let request = echo_request(v6, sequence, size);
        talk::send(&socket, &request, Some(SocketAddr::new(to, 0))).map_err(|fault| fault.after(number))?;
        while !is_reply(
            &receive(&socket, asked + limit).map_err(|fault| fault.after(number))?,
            v6,
            raw,
            sequence,
        ) {}
        slowest = slowest.max(asked.elapsed());
    }
    Ok(Exchanged { count, elapsed_us: micros(started.elapsed()), slowest_us: micros(slowest) })
}

fn receive(socket: &Socket, deadline: Instant) -> Result<Vec<u8>, Fault> {
    talk::recv(socket, 1 << 16, deadline).map(|(packet, _)| packet)
}

/// The identifier of raw requests; ping sockets get theirs from the kernel.
fn identifier() -> [u8; 2] {
    let [.., high, low] = std::process::id().to_be_bytes();
    [high, low]
}

fn echo_request(v6: bool, sequence: u16, size: usize) -> Vec<u8> {
    let mut packet = vec![if v6 { 128 } else { 8 }, 0, 0, 0];
    packet.extend(identifier());
    packet.extend(sequence.to_be_bytes());
    packet.extend(b"bulkhead".iter().cycle().take(size));
    if !v6 {
        // The kernel computes ICMPv6's by itself, which needs the addresses.
        let [high, low] = checksum(&packet).to_be_bytes();
        packet.splice(2..4, [high, low]);
    }
    packet
}

fn is_reply(packet: &[u8], v6: bool, raw: bool, sequence: u16) -> bool {
    let header = match packet.first() {
        // Raw IPv4 sockets receive the IP header too.
        Some(first) if raw && !v6 => usize::from(first & 0xf) * 4,
        _ => 0,
    };
    let Some([kind, 0, _, _, id_high, id_low, high, low, ..]) = packet.get(header..) else {
        return false;
    };
    let ours = !raw || [*id_high, *id_low] == identifier();
    *kind == (if v6 { 129 } else { 0 }) && ours && u16::from_be_bytes([*high, *low]) == sequence
}

fn checksum(packet: &[u8]) -> u16 {
    let mut sum: u32 = packet
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
            [high] => u32::from(*high) << 8,
            _ => 0,
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}
