//! Who is who: identities of addresses, of cgroups, and of both together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bulkhead_abi::{Addr, Identity, PairKey, limits};

use super::cgroups::Matcher;
use super::named;
use super::prefixes::{Flat, FlatMemo, Place};
use super::sets::{SetId, Sets, ZoneIndex};
use super::{CompileError, capacity};
use crate::model::{Facts, Model};
use crate::numbers::{Digest, Exhausted, Numbers};
use crate::prefix::Prefix;

/// Up to how many unions are made for cgroups that could come, beside those that are there.
const FORESEEN: usize = 16_384;

/// The member tables of an image.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) prefixes: Arc<BTreeMap<Prefix, Identity>>,
    pub(super) workloads: BTreeMap<u64, Identity>,
    pub(super) unions: BTreeMap<PairKey, Identity>,
    /// Names of the zones of every identity.
    pub(super) zones: BTreeMap<Identity, Arc<[Arc<str>]>>,
    /// The zones of every identity, world and node not among them.
    pub(super) sets: BTreeMap<Identity, Arc<[ZoneIndex]>>,
}

impl Members {
    pub(super) fn new(
        model: &Model,
        facts: &Facts,
        local: Option<&BTreeSet<Addr>>,
        memo: &mut FlatMemo,
        numbers: &mut Numbers,
    ) -> Result<Self, CompileError> {
        let flat = memo.flat(model, &facts.node_addresses);
        let mut sets = flat.sets.clone();

        let by_addr: BTreeSet<SetId> = flat.entries.iter().filter_map(|(_, place)| place.set()).collect();
        let cgroups = cgroup_sets(model, facts, &mut sets);
        let (by_cgroup, meeting) = likely(model, local, &flat, &cgroups, &by_addr, &mut sets);
        let combinations = combinations(&by_cgroup, &meeting, &mut sets)?;

        let by_name: BTreeSet<SetId> = named::sets(model).iter().map(|set| sets.intern(set)).collect();

        let mut named = Named { model, sets: &sets, numbers, given: BTreeMap::new() };
        for set in by_addr.iter().chain(&by_cgroup).chain(combinations.values()).chain(&by_name) {
            named.identity(*set)?;
        }
        let given = named.given;
        let identity = |set: &SetId| given.get(set).map_or(Identity::WORLD, |(identity, _)| *identity);

        let place = |place: &Place| match place {
            Place::World => Identity::WORLD,
            Place::Node => Identity::NODE,
            Place::Virtual => Identity::VIRTUAL,
            Place::Zones(set) => identity(set),
        };
        let prefixes = memo.table(|| flat.entries.iter().map(|(prefix, at)| (*prefix, place(at))).collect());
        Ok(Self {
            prefixes,
            workloads: cgroups.iter().map(|(cgroup, set)| (*cgroup, identity(set))).collect(),
            unions: combinations
                .iter()
                .map(|((a, b), set)| (PairKey { from: identity(a), to: identity(b) }, identity(set)))
                .collect(),
            zones: given.values().map(|(identity, names)| (*identity, Arc::clone(names))).collect(),
            sets: given.iter().map(|(set, (identity, _))| (*identity, sets.get(*set).into())).collect(),
        })
    }
}

/// The set of every cgroup that is in a zone.
fn cgroup_sets(model: &Model, facts: &Facts, sets: &mut Sets) -> Vec<(u64, SetId)> {
    let matcher = Matcher::new(model.zones());
    let set = |(cgroup, path): (&u64, &String)| (*cgroup, sets.intern(&matcher.zones(path)));
    facts.cgroups.iter().map(set).filter(|(_, set)| *set != SetId::EMPTY).collect()
}

/// The sets by cgroup and by address that are made ready to meet: as many as is reasonable, so that new
/// workloads need no new policy, and always those that are there.
fn likely(
    model: &Model,
    local: Option<&BTreeSet<Addr>>,
    flat: &Flat,
    cgroups: &[(u64, SetId)],
    by_addr: &BTreeSet<SetId>,
    sets: &mut Sets,
) -> (BTreeSet<SetId>, BTreeSet<SetId>) {
    let occurring: BTreeSet<SetId> = cgroups.iter().map(|(_, set)| *set).collect();
    let mut foreseen = occurring.clone();
    for (index, zone) in (0..).zip(model.zones()) {
        if !zone.cgroups.is_empty() {
            foreseen.insert(sets.intern(&[index]));
        }
    }
    let few = |a: &BTreeSet<SetId>, b: &BTreeSet<SetId>| a.len().saturating_mul(b.len()) <= FORESEEN;
    if few(&foreseen, by_addr) {
        return (foreseen, by_addr.clone());
    }
    let local = match local {
        None => by_addr.clone(),
        Some(local) => local.iter().filter_map(|addr| flat.place(*addr).set()).collect(),
    };
    if few(&foreseen, &local) { (foreseen, local) } else { (occurring, local) }
}

/// The unions of all sets by cgroup with all sets by address.
fn combinations(
    by_cgroup: &BTreeSet<SetId>,
    by_addr: &BTreeSet<SetId>,
    sets: &mut Sets,
) -> Result<BTreeMap<(SetId, SetId), SetId>, CompileError> {
    let same = by_cgroup.intersection(by_addr).count();
    let needed = by_cgroup.len().saturating_mul(by_addr.len()) - same;
    capacity(
        "combinations of a cgroup's zones with an address's",
        needed,
        limits::UNIONS,
        "give the zones that select by `cgroups` no `cidrs`, or let fewer zones overlap",
    )?;
    let mut unions = BTreeMap::new();
    for cgroup in by_cgroup {
        for addr in by_addr.iter().filter(|addr| *addr != cgroup) {
            unions.insert((*cgroup, *addr), sets.union(*cgroup, *addr));
        }
    }
    Ok(unions)
}

/// The names of a set's zones.
type Names = Arc<[Arc<str>]>;

/// Gives identities to sets.
struct Named<'a> {
    model: &'a Model,
    sets: &'a Sets,
    numbers: &'a mut Numbers,
    given: BTreeMap<SetId, (Identity, Names)>,
}

impl Named<'_> {
    fn identity(&mut self, set: SetId) -> Result<(), Exhausted> {
        if self.given.contains_key(&set) {
            return Ok(());
        }
        let zones = self.model.zones();
        let names: Names = self
            .sets
            .get(set)
            .iter()
            .filter_map(|zone| zones.get(*zone as usize))
            .map(|zone| Arc::clone(&zone.name))
            .collect();
        let identity = self.numbers.identity(Digest::of(names.iter().map(|name| name.as_bytes())))?;
        self.given.insert(set, (identity, names));
        Ok(())
    }
}
