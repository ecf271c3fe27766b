//! An end of a flow, as somebody at a keyboard names it.

use std::net::IpAddr;
use std::sync::Arc;

use bulkhead_abi::{Addr, Identity};
use bulkhead_policy::oracle::{Party, party};
use bulkhead_policy::prefix::{from_ip, to_ip};
use bulkhead_policy::{Endpoint, Facts, Image, Model};

use super::{EndView, QuestionError};
use crate::datapath::EndpointQuery;

/// Addresses for documentation (RFC 5737, RFC 3849), to stand for the world.
const NOWHERE: [Addr; 3] = [
    Addr::v4([203, 0, 113, 1]),
    Addr::v4([198, 51, 100, 1]),
    Addr::from_octets([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
];

/// Who is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// An address, perhaps with the cgroup that has it.
    Address(Endpoint),
    /// A cgroup, whatever its address.
    Cgroup(String),
    /// Somebody in exactly this zone, or in none.
    Zone(Party),
}

impl End {
    /// Understands `asked`: an address, `ADDRESS@CGROUP`, a zone of the model, `world`, `node`, `virtual`, or a
    /// cgroup's path below the cgroup root.
    pub fn parse(asked: &str, model: &Model, facts: &Facts) -> Result<Self, QuestionError> {
        if let Some((address, cgroup)) = asked.split_once('@') {
            let Ok(ip) = address.parse::<IpAddr>() else {
                let hint = format!(" (`{address}` before the @ is no address)");
                return Err(QuestionError::End { asked: asked.to_owned(), hint });
            };
            let cgroup = Some(cgroup.trim_matches('/').to_owned());
            return Ok(Self::Address(Endpoint { addr: from_ip(ip), cgroup }));
        }
        if let Ok(ip) = asked.parse::<IpAddr>() {
            return Ok(Self::Address(Endpoint::at(from_ip(ip))));
        }
        match asked {
            "world" => return Ok(Self::Zone(Party::World)),
            "node" => return Ok(Self::Zone(Party::Node)),
            "virtual" => return Ok(Self::Zone(Party::Virtual)),
            _ => {}
        }
        if let Some(zone) = model.zone(asked) {
            return Ok(Self::Zone(Party::Zones(vec![Arc::clone(&zone.name)])));
        }
        let path = asked.trim_matches('/');
        if facts.cgroups.values().any(|known| known == path) || path.contains('/') {
            return Ok(Self::Cgroup(path.to_owned()));
        }
        let zones: Vec<&str> = model.zones().iter().take(12).map(|zone| &*zone.name).collect();
        let hint =
            if zones.is_empty() { String::new() } else { format!(" (zones are {})", zones.join(", ")) };
        Err(QuestionError::End { asked: asked.to_owned(), hint })
    }

    /// The address, if one was given.
    pub fn addr(&self) -> Option<Addr> {
        match self {
            Self::Address(endpoint) => Some(endpoint.addr),
            Self::Cgroup(_) | Self::Zone(_) => None,
        }
    }

    /// Who that is to the rules.
    pub fn party(&self, model: &Model, facts: &Facts) -> Party {
        match self {
            Self::Address(endpoint) => party(model, facts, endpoint),
            // `::` is in no zone but one of every IPv6 address.
            Self::Cgroup(path) => {
                party(model, facts, &Endpoint { addr: Addr::ANY, cgroup: Some(path.clone()) })
            }
            Self::Zone(party) => party.clone(),
        }
    }

    /// How it is shown.
    pub fn view(&self, asked: &str, party: &Party) -> EndView {
        match self {
            Self::Address(endpoint) => {
                EndView::new(asked, Some(to_ip(endpoint.addr).to_string()), endpoint.cgroup.clone(), party)
            }
            Self::Cgroup(path) => EndView::new(asked, None, Some(path.clone()), party),
            Self::Zone(_) => EndView::new(asked, None, None, party),
        }
    }

    /// What should be known about how it was understood.
    pub fn note(&self, asked: &str, facts: &Facts) -> Option<String> {
        match self {
            Self::Cgroup(path) | Self::Address(Endpoint { cgroup: Some(path), .. })
                if !facts.cgroups.values().any(|known| known == path) =>
            {
                Some(format!("there is no cgroup {path} at the moment; it is judged as if it were there"))
            }
            Self::Cgroup(_) => {
                Some(format!("{asked} was given without an address: only its cgroup's zones count"))
            }
            _ => None,
        }
    }

    /// How to ask the kernel about it; `None` where nobody could stand for it.
    pub fn query(&self, image: &Image, facts: &Facts) -> Option<EndpointQuery> {
        match self {
            Self::Address(Endpoint { addr, cgroup }) => {
                let cgroup = cgroup.as_deref().and_then(|path| anchor(path, image, facts));
                Some(EndpointQuery { addr: *addr, cgroup })
            }
            Self::Cgroup(path) => Some(EndpointQuery { addr: Addr::ANY, cgroup: anchor(path, image, facts) }),
            Self::Zone(Party::World) => by_address(image, NOWHERE, Identity::WORLD),
            Self::Zone(Party::Node) => {
                let own = facts.node_addresses.iter().copied().chain([Addr::v4([127, 0, 0, 1])]);
                by_address(image, own, Identity::NODE)
            }
            Self::Zone(Party::Virtual) => by_prefix(image, Identity::VIRTUAL),
            Self::Zone(Party::Zones(zones)) => {
                let identity = image.identity_of_zones(zones)?;
                by_prefix(image, identity).or_else(|| {
                    let mut workloads = image.workloads.iter();
                    let (cgroup, _) = workloads.find(|(_, found)| **found == identity)?;
                    let alone = image.identity(*cgroup, Addr::ANY) == Some(identity);
                    alone.then_some(EndpointQuery { addr: Addr::ANY, cgroup: Some(*cgroup) })
                })
            }
        }
    }
}

fn by_prefix(image: &Image, identity: Identity) -> Option<EndpointQuery> {
    let prefixes = image.prefixes.iter().filter(|(_, found)| **found == identity);
    by_address(image, prefixes.map(|(prefix, _)| prefix.addr), identity)
}

fn by_address(
    image: &Image,
    candidates: impl IntoIterator<Item = Addr>,
    identity: Identity,
) -> Option<EndpointQuery> {
    let mut candidates = candidates.into_iter();
    let addr = candidates.find(|addr| image.identity_of_addr(*addr) == identity)?;
    Some(EndpointQuery { addr, cgroup: None })
}

/// The cgroup at `path`, or the nearest one above it, that the kernel's table has.
fn anchor(path: &str, image: &Image, facts: &Facts) -> Option<u64> {
    let mut path = path;
    loop {
        let id = facts.cgroups.iter().find(|(_, known)| *known == path).map(|(id, _)| *id);
        match id {
            Some(id) if image.workloads.contains_key(&id) => return Some(id),
            _ if path.is_empty() => return None,
            _ => path = path.rsplit_once('/').map_or("", |(above, _)| above),
        }
    }
}
