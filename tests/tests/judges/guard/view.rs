//! A policy with what is true of the node while it holds, and how the ends of a packet look by it.

use std::collections::HashMap;

use bulkhead_abi::{Addr, Identity, ListenerKey, Reason, Verdict};
use bulkhead_policy::oracle::Party;
use bulkhead_policy::{Endpoint, Flow};

use super::lanes::{Packet, Reads};
use crate::policy::{Asked, Decision, Policy, name};

/// The guard's numbers in the mark: what they say of a packet's sender.
pub const UNMARKED: u32 = 0;
pub const JUDGED: u32 = 1;
pub const FROM_WIRE: u32 = 2;
/// Without a socket, from an endpoint that is in no zone.
pub const ROUTED: u32 = 3;
/// On its way back to an endpoint without a socket.
pub const BACK: u32 = 4;
pub const WORLD: u32 = 8;
pub const NODE: u32 = 9;
pub const UNKNOWN: u32 = 10;

/// A policy, and what is true of the node while it holds.
pub struct View<'a> {
    pub policy: &'a Policy,
    pub number: usize,
    pub around: &'a Around,
    /// Nanoseconds.
    pub now: u64,
}

#[derive(Clone, Default)]
pub struct Around {
    /// Addresses of this node's namespaces, with their cookies.
    pub locals: HashMap<Addr, u64>,
    /// The cookie of the node's own namespace.
    pub host: u64,
    /// Bound sockets, with their cgroups.
    pub listeners: HashMap<ListenerKey, String>,
    /// Whether the policy has virtual addresses.
    pub has_virtual: bool,
    /// The largest number that the mark holds, all ones. Beyond its half, a number is of an endpoint
    /// without a socket.
    pub room: u32,
}

impl Around {
    /// The number of an endpoint without a socket whose identity is this, or one beyond the room.
    pub fn number_of_endpoint(&self, Identity(identity): Identity) -> u32 {
        let half = self.room / 2;
        half + 1 + if identity <= half { identity } else { UNKNOWN }
    }

    /// The identity that the mark has of an endpoint without a socket.
    pub fn endpoint(&self, mark: u32) -> Option<Identity> {
        let identity = mark.checked_sub(self.room / 2 + 1)?;
        Some(if identity < Identity::FIRST { Identity::UNKNOWN } else { Identity(identity) })
    }
}

/// An end, to rules.
pub enum Who {
    Known(Party),
    /// Of an identity that means nothing: closed.
    Closed(Identity),
}

impl Who {
    pub fn is_zoned(&self) -> bool {
        !matches!(self, Who::Known(Party::World | Party::Node | Party::Virtual))
    }
}

impl View<'_> {
    /// The mark of a socket's packet: judged, or who sent it to a virtual address.
    pub fn mark_of_socket(&self, packet: &Packet, cgroup: &str) -> (u32, &'static str) {
        let to = self.policy.party(&Endpoint::at(packet.dst.0));
        if to != Party::Virtual {
            return (JUDGED, "of a socket");
        }
        let own = Endpoint { addr: packet.src.0, cgroup: Some(cgroup.to_owned()) };
        match self.policy.party(&own) {
            Party::World | Party::Virtual => (WORLD, "carried: world"),
            Party::Node => (NODE, "carried: node"),
            Party::Zones(names) => match self.policy.image.identity_of_zones(&names) {
                Some(Identity(number)) if number <= self.around.room / 2 => (number, "carried: zones"),
                _ => (UNKNOWN, "carried: beyond the room"),
            },
        }
    }

    /// The mark of a packet that no socket here sent, and no other machine: who has its address.
    pub fn mark_of_endpoint(&self, packet: &Packet) -> (u32, &'static str) {
        if !packet.is_ip() || packet.reads == Reads::Discovery {
            return (ROUTED, "routed, of nobody");
        }
        let who = self.at(packet.src.0);
        if !who.is_zoned() {
            return (ROUTED, "routed");
        }
        let number = self.around.number_of_endpoint(self.number_of(&who));
        let known = self.around.endpoint(number) != Some(Identity::UNKNOWN);
        (number, if known { "routed: zones" } else { "routed: beyond the room" })
    }

    /// The sender that the mark tells of instead of the source address: a socket's, or an endpoint without
    /// one that has another address by now.
    pub fn told(&self, mark: u32, addr: Addr) -> Option<Identity> {
        self.carried(mark).or_else(|| self.translated(mark, addr))
    }

    /// The endpoint without a socket that the mark tells of, where the source address is not its own.
    pub fn translated(&self, mark: u32, addr: Addr) -> Option<Identity> {
        let endpoint = self.around.endpoint(mark)?;
        let named = self.at(addr);
        let own = match endpoint {
            // There was no room for it. Its address says who it is, if it says that anybody is.
            Identity::UNKNOWN => named.is_zoned(),
            endpoint => endpoint == self.number_of(&named),
        };
        (!own).then_some(endpoint)
    }

    /// The sender that the mark tells of, of a socket.
    pub fn carried(&self, mark: u32) -> Option<Identity> {
        match mark {
            _ if !self.around.has_virtual || mark > self.around.room / 2 => None,
            WORLD => Some(Identity::WORLD),
            NODE => Some(Identity::NODE),
            UNKNOWN => Some(Identity::UNKNOWN),
            number if number >= Identity::FIRST => Some(Identity(number)),
            _ => None,
        }
    }

    pub fn sender(&self, carried: Option<Identity>, addr: Addr) -> Who {
        match carried {
            None => self.at(addr),
            Some(Identity::WORLD) => Who::Known(Party::World),
            Some(Identity::NODE) => Who::Known(Party::Node),
            Some(number) => match self.policy.image.zones.get(&number) {
                Some(zones) => Who::Known(Party::Zones(zones.to_vec())),
                None => Who::Closed(number),
            },
        }
    }

    /// Who has an address, as rules see it.
    pub fn at(&self, addr: Addr) -> Who {
        Who::Known(met(self.policy.party(&Endpoint::at(addr))))
    }

    pub fn receiver(&self, addr: Addr, cgroup: Option<String>) -> Party {
        met(self.policy.party(&Endpoint { addr, cgroup }))
    }

    /// The cgroup of the socket that is bound where a packet goes.
    pub fn listener(&self, packet: &Packet) -> Option<String> {
        let (addr, port) = packet.dst;
        let netns = *self.around.locals.get(&addr).filter(|_| !addr.is_loopback())?;
        if !packet.protocol.has_ports() {
            return None;
        }
        let at = |addr| self.around.listeners.get(&ListenerKey::new(netns, addr, port, packet.protocol));
        let any_v4 = || if addr.is_v4() { at(Addr::ANY_V4) } else { None };
        at(addr).or_else(any_v4).or_else(|| at(Addr::ANY)).cloned()
    }

    pub fn judge(&self, from: &Who, to: &Party, packet: &Packet, port: u16, asked: Asked) -> Decision {
        let port = match packet.reads {
            Reads::EchoRequest | Reads::EchoReply if packet.src.0.is_v4() => 0x0800,
            Reads::EchoRequest | Reads::EchoReply => 0x8000,
            _ if packet.protocol.is_icmp() => packet.icmp,
            _ => port,
        };
        let ends = (Endpoint::at(packet.src.0), Endpoint::at(packet.dst.0));
        let flow = Flow { from: ends.0, to: ends.1, protocol: packet.protocol, port, guarded: false };
        match from {
            Who::Known(from) => self.policy.decide_between(from, to, &flow, asked),
            Who::Closed(_) => {
                let label = (self.name(from), name(to), Verdict::Deny, Reason::Inconsistent);
                Decision { label, rule: None }
            }
        }
    }

    pub fn number_of(&self, who: &Who) -> Identity {
        match who {
            Who::Closed(number) => *number,
            Who::Known(Party::Zones(names)) => self.policy.image.identity_of_zones(names).unwrap(),
            Who::Known(Party::Node) => Identity::NODE,
            Who::Known(Party::World | Party::Virtual) => Identity::WORLD,
        }
    }

    pub fn name(&self, who: &Who) -> String {
        match who {
            Who::Known(party) => name(party),
            Who::Closed(number) => self.policy.image.label(*number),
        }
    }
}

/// To rules, who is nobody is of the world.
fn met(party: Party) -> Party {
    if party == Party::Virtual { Party::World } else { party }
}
