//! What rules see of every identity, and which identities they treat alike.
//!
//! A rule meets an end by `any`, by a *wide* zone (one that many identities are in), by `world` or
//! `node`, or by a narrow zone. Two ends that are both met narrowly are a pair of their own. All other
//! meetings are a matter of class: an identity's class is made of its modes and postures, its wide
//! zones, and the rules that meet it and may meet anyone, or a wide zone, at the other end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bulkhead_abi::{Identity, IdentityState};

use super::members::Members;
use super::sets::ZoneIndex;
use crate::image::RuleEntry;
use crate::model::{Mode, Model, Posture, Rule, Selector, Sides, Zone};
use crate::numbers::{Digest, Exhausted, Numbers};

/// In how many identities a zone must be to be wide.
const WIDE: usize = 32;

/// A rule by its place in [`Model::rules`].
pub(super) type RuleIndex = u32;

/// A rule with its number and the ends it names, by index.
#[derive(Debug)]
pub(super) struct NumberedRule {
    pub(super) rule: Arc<Rule>,
    pub(super) number: u32,
    /// The rule's, near at hand.
    pub(super) sides: Sides,
    from_any: bool,
    to_any: bool,
    from_wide: bool,
    to_wide: bool,
}

/// How a rule meets an end that it does not meet by `any`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Meeting {
    pub(super) rule: RuleIndex,
    /// By a zone that is in enforce mode.
    pub(super) enforced: bool,
    /// By a wide zone.
    wide: bool,
    /// It may meet anyone, or a wide zone, at the other end.
    open: bool,
    /// It meets anyone at the other end.
    other_any: bool,
}

impl Meeting {
    const fn is_of_class(&self) -> bool {
        self.wide || self.open
    }
}

/// An identity as rules see it.
#[derive(Debug)]
pub(super) struct Party {
    pub(super) identity: Identity,
    pub(super) class: u32,
    pub(super) zones: Arc<[ZoneIndex]>,
    /// Some zone is in enforce mode.
    pub(super) enforcing: bool,
    /// Per [`Side`](bulkhead_abi::Side): a zone isolates it; a zone in enforce mode does.
    pub(super) isolates: [(bool, bool); 2],
    from: Vec<Meeting>,
    to: Vec<Meeting>,
}

/// All identities, world and node among them, and the rules.
#[derive(Debug)]
pub(super) struct Parties<'a> {
    pub(super) model: &'a Model,
    pub(super) all: Vec<Party>,
    pub(super) rules: Vec<NumberedRule>,
    /// Rules from anyone, rules to anyone, rules between anyone and anyone.
    from_any: Vec<RuleIndex>,
    to_any: Vec<RuleIndex>,
    any: Vec<RuleIndex>,
    wide: Vec<bool>,
}

/// A rule that meets both ends of a pair, and whether it does by the enforcing zones of each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Match {
    pub(super) rule: RuleIndex,
    pub(super) from_enforced: bool,
    pub(super) to_enforced: bool,
}

impl<'a> Parties<'a> {
    pub(super) fn new(
        model: &'a Model,
        members: &Members,
        numbered: &[(u32, Arc<RuleEntry>)],
        numbers: &mut Numbers,
    ) -> Result<Self, Exhausted> {
        let names: HashMap<&str, ZoneIndex> =
            (0..).zip(model.zones()).map(|(index, zone)| (&*zone.name, index)).collect();
        let mut all = vec![unzoned(Identity::WORLD, 0), unzoned(Identity::NODE, 1)];
        all.extend(members.sets.iter().map(|(identity, zones)| zoned(model, *identity, zones)));

        let mut inside: Vec<Vec<usize>> = vec![Vec::new(); model.zones().len()];
        for (at, party) in all.iter().enumerate() {
            for zone in party.zones.iter() {
                if let Some(list) = inside.get_mut(*zone as usize) {
                    list.push(at);
                }
            }
        }
        let wide = inside.iter().map(|parties| parties.len() > WIDE).collect();
        let mut this = Self {
            model,
            all,
            rules: Vec::new(),
            from_any: Vec::new(),
            to_any: Vec::new(),
            any: Vec::new(),
            wide,
        };
        for ((index, rule), (number, _)) in (0..).zip(model.rules()).zip(numbered) {
            this.add(index, rule, *number, &names, &inside);
        }
        for at in 0..this.all.len() {
            this.classify(at, numbers)?;
        }
        Ok(this)
    }

    /// Class and mode of every identity.
    pub(super) fn states(&self) -> BTreeMap<Identity, IdentityState> {
        self.all.iter().map(|p| (p.identity, IdentityState::new(p.class, p.enforcing))).collect()
    }

    pub(super) fn is_wide(&self, zone: ZoneIndex) -> bool {
        self.wide.get(zone as usize) == Some(&true)
    }

    /// Finds the rules of a pair, in order: all of them, or those that are a matter of class.
    pub(super) fn matches(&self, from: &Party, to: &Party, of_class: bool, found: &mut Vec<Match>) {
        found.clear();
        let every = |rule: &RuleIndex| Match { rule: *rule, from_enforced: true, to_enforced: true };
        found.extend(self.any.iter().map(every));
        for m in from.from.iter().filter(|m| m.other_any) {
            found.push(Match { rule: m.rule, from_enforced: m.enforced, to_enforced: true });
        }
        for m in to.to.iter().filter(|m| m.other_any) {
            found.push(Match { rule: m.rule, from_enforced: true, to_enforced: m.enforced });
        }
        let (mut left, mut right) = (from.from.iter().peekable(), to.to.iter().peekable());
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            match a.rule.cmp(&b.rule) {
                std::cmp::Ordering::Less => _ = left.next(),
                std::cmp::Ordering::Greater => _ = right.next(),
                std::cmp::Ordering::Equal => {
                    if !of_class || a.wide || b.wide {
                        let (from_enforced, to_enforced) = (a.enforced, b.enforced);
                        found.push(Match { rule: a.rule, from_enforced, to_enforced });
                    }
                    left.next();
                    right.next();
                }
            }
        }
        found.sort_unstable();
    }

    /// The pairs that some rule meets narrowly at both ends, or that share a narrow zone. If they are
    /// more than `limit`, how many they are at least.
    pub(super) fn narrow_pairs(&self, limit: usize) -> Result<Vec<(u32, u32)>, usize> {
        let mut froms: Vec<Vec<u32>> = vec![Vec::new(); self.rules.len()];
        let mut tos = froms.clone();
        let mut sharing: Vec<Vec<u32>> = vec![Vec::new(); self.model.zones().len()];
        let push = |lists: &mut Vec<Vec<u32>>, at: u32, party: u32| {
            if let Some(list) = lists.get_mut(at as usize) {
                list.push(party);
            }
        };
        for (at, party) in (0..).zip(&self.all) {
            party.from.iter().filter(|m| !m.wide).for_each(|m| push(&mut froms, m.rule, at));
            party.to.iter().filter(|m| !m.wide).for_each(|m| push(&mut tos, m.rule, at));
            let shared =
                |zone: &ZoneIndex| self.zone(*zone).is_some_and(|z| !z.isolated) && !self.is_wide(*zone);
            party.zones.iter().filter(|zone| shared(zone)).for_each(|zone| push(&mut sharing, *zone, at));
        }
        let mut pairs = Vec::new();
        for (froms, tos) in froms.iter().zip(&tos).chain(sharing.iter().zip(&sharing)) {
            let more = froms.len().saturating_mul(tos.len());
            if more > limit {
                return Err(more);
            }
            for from in froms {
                pairs.extend(tos.iter().map(|to| (*from, *to)));
            }
            // Many rules may single out the same pair, so the sum alone says nothing.
            if pairs.len() > 2 * limit {
                dedup(&mut pairs);
                if pairs.len() > limit {
                    return Err(pairs.len());
                }
            }
        }
        dedup(&mut pairs);
        if pairs.len() > limit { Err(pairs.len()) } else { Ok(pairs) }
    }

    /// Whether both share a zone in which traffic flows, and whether the first, or the second, does so
    /// by a zone of its own in enforce mode (which is the same: the zone is shared).
    pub(super) fn share(&self, a: &Party, b: &Party, of_class: bool) -> (bool, bool) {
        let (mut full, mut enforced) = (false, false);
        for index in a.zones.iter().filter(|index| b.zones.binary_search(index).is_ok()) {
            let Some(zone) = self.zone(*index).filter(|zone| !zone.isolated) else { continue };
            if !of_class || self.is_wide(*index) {
                full = true;
                enforced |= zone.mode == Mode::Enforce;
            }
        }
        (full, enforced)
    }

    fn zone(&self, index: ZoneIndex) -> Option<&Arc<Zone>> {
        self.model.zones().get(index as usize)
    }

    /// Notes a rule at every party that it meets, other than by `any`.
    fn add(
        &mut self,
        index: RuleIndex,
        rule: &Arc<Rule>,
        number: u32,
        names: &HashMap<&str, ZoneIndex>,
        inside: &[Vec<usize>],
    ) {
        let any = |selectors: &[Selector]| selectors.contains(&Selector::Any);
        let zones = |selectors: &[Selector]| -> Vec<ZoneIndex> {
            let zone = |selector: &Selector| match selector {
                Selector::Zone(name) => names.get(&**name).copied(),
                Selector::Any | Selector::World | Selector::Node => None,
            };
            selectors.iter().filter_map(zone).collect()
        };
        let (from_zones, to_zones) = (zones(&rule.from), zones(&rule.to));
        let wide = |zones: &[ZoneIndex]| zones.iter().any(|zone| self.is_wide(*zone));
        let numbered = NumberedRule {
            rule: Arc::clone(rule),
            number,
            sides: rule.sides,
            from_any: any(&rule.from),
            to_any: any(&rule.to),
            from_wide: wide(&from_zones),
            to_wide: wide(&to_zones),
        };
        match (numbered.from_any, numbered.to_any) {
            (true, true) => self.any.push(index),
            (true, false) => self.from_any.push(index),
            (false, true) => self.to_any.push(index),
            (false, false) => {}
        }
        if !numbered.from_any {
            let (open, other_any) = (numbered.to_any || numbered.to_wide, numbered.to_any);
            let plain = Meeting { rule: index, enforced: false, wide: false, open, other_any };
            for (at, meeting) in self.meetings(plain, &rule.from, &from_zones, inside) {
                self.all.get_mut(at).into_iter().for_each(|party| party.from.push(meeting));
            }
        }
        if !numbered.to_any {
            let (open, other_any) = (numbered.from_any || numbered.from_wide, numbered.from_any);
            let plain = Meeting { rule: index, enforced: false, wide: false, open, other_any };
            for (at, meeting) in self.meetings(plain, &rule.to, &to_zones, inside) {
                self.all.get_mut(at).into_iter().for_each(|party| party.to.push(meeting));
            }
        }
        self.rules.push(numbered);
    }

    fn meetings(
        &self,
        plain: Meeting,
        selectors: &[Selector],
        zones: &[ZoneIndex],
        inside: &[Vec<usize>],
    ) -> BTreeMap<usize, Meeting> {
        let mut met = BTreeMap::new();
        // World and node are the first two parties.
        for (at, selector) in [Selector::World, Selector::Node].iter().enumerate() {
            if selectors.contains(selector) {
                met.insert(at, plain);
            }
        }
        for zone in zones {
            let enforced = self.zone(*zone).is_some_and(|zone| zone.mode == Mode::Enforce);
            for at in inside.get(*zone as usize).into_iter().flatten() {
                let meeting: &mut Meeting = met.entry(*at).or_insert(plain);
                meeting.enforced |= enforced;
                meeting.wide |= self.is_wide(*zone);
            }
        }
        met
    }

    fn classify(&mut self, at: usize, numbers: &mut Numbers) -> Result<(), Exhausted> {
        let Some(party) = self.all.get(at).filter(|party| party.identity.is_zoned()) else { return Ok(()) };
        let mut bytes = vec![u8::from(party.enforcing)];
        bytes.extend(party.isolates.iter().flat_map(|(full, part)| [u8::from(*full), u8::from(*part)]));
        for (mark, meetings) in [(b'f', &party.from), (b't', &party.to)] {
            bytes.push(mark);
            for m in meetings.iter().filter(|m| m.is_of_class()) {
                let number = self.rules.get(m.rule as usize).map_or(0, |rule| rule.number);
                bytes.extend(number.to_be_bytes());
                bytes.extend([u8::from(m.enforced), u8::from(m.wide)]);
            }
        }
        let wide: Vec<&[u8]> = party
            .zones
            .iter()
            .filter(|zone| self.is_wide(**zone))
            .filter_map(|zone| self.zone(*zone))
            .map(|zone| zone.name.as_bytes())
            .collect();
        let class = numbers.class(Digest::of([&bytes[..]].into_iter().chain(wide)))?;
        self.all.get_mut(at).into_iter().for_each(|party| party.class = class);
        Ok(())
    }
}

fn dedup(pairs: &mut Vec<(u32, u32)>) {
    pairs.sort_unstable();
    pairs.dedup();
}

fn unzoned(identity: Identity, class: u32) -> Party {
    Party {
        identity,
        class,
        zones: Arc::new([]),
        enforcing: false,
        isolates: [(false, false); 2],
        from: Vec::new(),
        to: Vec::new(),
    }
}

fn zoned(model: &Model, identity: Identity, zones: &Arc<[ZoneIndex]>) -> Party {
    let mut party = Party { zones: Arc::clone(zones), ..unzoned(identity, 0) };
    for zone in zones.iter().filter_map(|zone| model.zones().get(*zone as usize)) {
        let enforced = zone.mode == Mode::Enforce;
        party.enforcing |= enforced;
        for ((full, part), posture) in party.isolates.iter_mut().zip([zone.egress, zone.ingress]) {
            let isolates = posture == Posture::Isolate;
            *full |= isolates;
            *part |= isolates && enforced;
        }
    }
    party
}
