//! Overlapping cidrs and exceptions to a table in which the longest match alone is the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bulkhead_abi::{Addr, Identity};

use super::sets::{SetId, Sets, ZoneIndex, merged};
use crate::model::{Model, Zone};
use crate::prefix::Prefix;

/// What an address means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    World,
    Node,
    Virtual,
    Zones(SetId),
}

impl Place {
    /// The zones, if it is in some.
    pub(super) const fn set(self) -> Option<SetId> {
        match self {
            Self::Zones(set) => Some(set),
            Self::World | Self::Node | Self::Virtual => None,
        }
    }
}

/// The flat table, with the sets that it names.
#[derive(Debug, Default)]
pub(super) struct Flat {
    pub(super) entries: Vec<(Prefix, Place)>,
    pub(super) sets: Sets,
}

impl Flat {
    /// What an address means.
    pub(super) fn place(&self, addr: Addr) -> Place {
        let at = |len| {
            let wanted = Prefix::new(addr, len);
            let found = self.entries.binary_search_by_key(&wanted, |(prefix, _)| *prefix).ok()?;
            self.entries.get(found).map(|(_, place)| *place)
        };
        (0..=128).rev().find_map(at).unwrap_or(Place::World)
    }
}

/// The flat table of the last policy.
#[derive(Debug, Default)]
pub(super) struct FlatMemo {
    zones: Vec<Arc<Zone>>,
    virtuals: Arc<[Prefix]>,
    node: BTreeSet<Addr>,
    flat: Option<Arc<Flat>>,
    table: Option<Arc<Table>>,
}

/// The flat table with identities.
type Table = BTreeMap<Prefix, Identity>;

impl FlatMemo {
    /// The flat table of this policy on a host with these addresses.
    pub(super) fn flat(&mut self, model: &Model, node: &BTreeSet<Addr>) -> Arc<Flat> {
        let zones = model.zones();
        let same_zone = |(a, b): (&Arc<Zone>, &Arc<Zone>)| {
            Arc::ptr_eq(a, b) || (a.name == b.name && a.cidrs == b.cidrs && a.except == b.except)
        };
        let same = self.zones.len() == zones.len()
            && self.zones.iter().zip(zones).all(same_zone)
            && self.virtuals == *model.virtuals()
            && self.node == *node;
        match &self.flat {
            Some(flat) if same => Arc::clone(flat),
            _ => {
                let flat = Arc::new(flatten(model, node));
                *self = Self {
                    zones: zones.to_vec(),
                    virtuals: Arc::clone(model.virtuals()),
                    node: node.clone(),
                    flat: Some(Arc::clone(&flat)),
                    table: None,
                };
                flat
            }
        }
    }

    /// The last flat table with identities. Numbers do not change under it, so it is made once.
    pub(super) fn table(&mut self, make: impl FnOnce() -> Table) -> Arc<Table> {
        Arc::clone(self.table.get_or_insert_with(|| Arc::new(make())))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    /// A zone begins to hold the addresses below.
    In(ZoneIndex),
    /// A zone excepts the addresses below.
    Out(ZoneIndex),
    /// The addresses below are this host's own.
    Node,
    /// The addresses below are virtual.
    Virtual,
    /// Nothing from above is meant for the addresses below.
    Barrier,
}

/// A prefix that the sweep is inside of.
struct Frame {
    prefix: Prefix,
    within: Vec<ZoneIndex>,
    without: Vec<ZoneIndex>,
    node: bool,
    is_virtual: bool,
    place: Place,
}

/// Sweeps all prefixes in address order, a longer one after the shorter ones around it, and keeps the
/// ones that change what the next shorter one says.
fn flatten(model: &Model, node: &BTreeSet<Addr>) -> Flat {
    let marks = marks(model, node);
    let mut flat = Flat::default();
    let mut open: Vec<Frame> = Vec::new();
    for group in marks.chunk_by(|a, b| a.0 == b.0) {
        let Some(&(prefix, _)) = group.first() else { continue };
        while open.last().is_some_and(|frame| !frame.prefix.covers_prefix(&prefix)) {
            open.pop();
        }
        let outer = open.last();
        let outer_place = outer.map_or(Place::World, |frame| frame.place);
        let is = |mark: Mark| group.iter().any(|(_, found)| *found == mark);
        let inherited = outer.filter(|_| !is(Mark::Barrier));
        let listed = |wanted: fn(&Mark) -> Option<ZoneIndex>| -> Vec<ZoneIndex> {
            group.iter().filter_map(|(_, mark)| wanted(mark)).collect()
        };
        let begins = listed(|mark| if let Mark::In(zone) = mark { Some(*zone) } else { None });
        let ends = listed(|mark| if let Mark::Out(zone) = mark { Some(*zone) } else { None });
        let within = merged(inherited.map_or(&[], |frame| &frame.within), &begins);
        let without = merged(inherited.map_or(&[], |frame| &frame.without), &ends);
        let node = inherited.is_some_and(|frame| frame.node) || is(Mark::Node);
        let is_virtual = inherited.is_some_and(|frame| frame.is_virtual) || is(Mark::Virtual);
        let zones: Vec<ZoneIndex> =
            within.iter().copied().filter(|zone| without.binary_search(zone).is_err()).collect();
        let place = match flat.sets.intern(&zones) {
            SetId::EMPTY if node => Place::Node,
            SetId::EMPTY if is_virtual => Place::Virtual,
            SetId::EMPTY => Place::World,
            set => Place::Zones(set),
        };
        if place != outer_place {
            flat.entries.push((prefix, place));
        }
        open.push(Frame { prefix, within, without, node, is_virtual, place });
    }
    flat
}

fn marks(model: &Model, node: &BTreeSet<Addr>) -> Vec<(Prefix, Mark)> {
    let mut marks = vec![
        (Prefix::ALL_V4, Mark::Barrier),
        (Prefix::new(Addr::v4([127, 0, 0, 0]), 96 + 8), Mark::Node),
        (Prefix::host(Addr::from_octets([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])), Mark::Node),
    ];
    marks.extend(node.iter().map(|addr| (Prefix::host(*addr), Mark::Node)));
    marks.extend(model.virtuals().iter().map(|cidr| (*cidr, Mark::Virtual)));
    for (index, zone) in (0..).zip(model.zones()) {
        marks.extend(zone.cidrs.iter().map(|cidr| (*cidr, Mark::In(index))));
        marks.extend(zone.except.iter().map(|cidr| (*cidr, Mark::Out(index))));
    }
    marks.sort_unstable();
    marks
}
