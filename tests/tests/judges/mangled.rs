//! Packets that no honest sender writes: the host build and the kernel must read and judge them alike,
//! and neither may fail.

use bulkhead_abi::Direction;
use bulkhead_core::host::Sock;
use bulkhead_core::host::wire::{ACK, RST, SYN};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::conversation::{Conversation, End, Step};
use crate::require_programs;
use crate::three::Court;

const POLICIES: usize = 10;
const PACKETS: usize = 600;

/// What is done to a packet.
#[derive(Clone, Debug)]
enum Blow {
    /// Ends early.
    Cut(Index),
    /// A byte is another.
    Byte(Index, u8),
    /// A byte of the IP header is another.
    Head(usize, u8),
    /// Other TCP flags.
    Flags(u8),
    /// An ICMP error of this type that quotes it.
    Quoted(u8),
    /// The IPv6 payload begins with this extension header.
    Extension(u8, u8),
}

#[test]
fn host_and_kernel_read_mangled_packets_alike() {
    require_programs!();
    let mut court = Court::new(5);
    for number in 0..POLICIES {
        let drawn = court.next_policy();
        for _ in 0..PACKETS {
            let conversation: Conversation = court.source.sample(select(drawn.conversations.clone()));
            let from = court.source.sample(select(vec![End::Opener, End::Receiver]));
            let step = Step { at: from, from, opens: court.source.sample(any::<bool>()) };
            let mut packet = conversation.packet(&step);
            for blow in court.source.sample(proptest::collection::vec(blows(), 0..3)) {
                strike(&mut packet, &blow);
            }
            // The kernel makes no test packet that is shorter than the header of its family.
            if packet.len() < if packet[0] >> 4 == 6 { 40 } else { 20 } {
                continue;
            }
            let direction = court.source.sample(select(vec![Direction::Ingress, Direction::Egress]));
            let cgroup = conversation.cgroup(End::Opener);
            let sock = Sock::plain(court.chamber.cgroup(cgroup), court.chamber.seen_netns);
            let host = court.node.packet(&sock, direction, &packet).passes();
            let [kernel] = court.chamber.run(cgroup, vec![(direction, packet.clone())])[..] else { panic!() };
            assert_eq!(host, kernel, "policy {number}, {direction:?} at {cgroup:?}: {packet:02x?}");
        }
        assert_eq!(court.node.take_counters(), court.chamber.take_counters(), "policy {number}");
        court.compare_flows(number);
        court.forget();
    }
}

fn blows() -> impl Strategy<Value = Blow> {
    prop_oneof![
        any::<Index>().prop_map(Blow::Cut),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Blow::Byte(at, byte)),
        (0..10usize, any::<u8>()).prop_map(|(at, byte)| Blow::Head(at, byte)),
        select(vec![0, SYN, SYN | ACK, RST, RST | ACK, ACK, SYN | RST, 0xff]).prop_map(Blow::Flags),
        select(vec![1, 2, 3, 4, 5, 11, 12, 133, 143]).prop_map(Blow::Quoted),
        (select(vec![0, 43, 44, 60, 135]), 0..3u8).prop_map(|(kind, third)| Blow::Extension(kind, third)),
    ]
}

fn strike(packet: &mut Vec<u8>, blow: &Blow) {
    let v4 = packet[0] >> 4 == 4;
    let header = if v4 { 20 } else { 40 };
    match *blow {
        Blow::Cut(at) => packet.truncate(header.min(packet.len()) + at.index(packet.len())),
        Blow::Byte(at, byte) => {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        Blow::Head(at, byte) if at < packet.len() => packet[at] = byte,
        Blow::Flags(flags) if packet.len() > header + 13 => packet[header + 13] = flags,
        Blow::Quoted(kind) if packet.len() > header => {
            let mut error = packet[..header].to_vec();
            error[if v4 { 9 } else { 6 }] = if v4 { 1 } else { 58 };
            let len = if v4 { header + 8 + packet.len() } else { 8 + packet.len() } as u16;
            error[if v4 { 2 } else { 4 }..][..2].copy_from_slice(&len.to_be_bytes());
            error.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
            error.extend_from_slice(packet);
            *packet = error;
        }
        Blow::Extension(kind, third) if !v4 && packet.len() >= header => {
            let next = std::mem::replace(&mut packet[6], kind);
            packet.splice(header..header, [next, 0, 0, third, 0, 0, 0, 0]);
            let len = (packet.len() - header) as u16;
            packet[4..6].copy_from_slice(&len.to_be_bytes());
        }
        _ => {}
    }
}
