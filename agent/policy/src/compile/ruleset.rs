//! Rules over ports become a longest-prefix table of final answers.

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_abi::{Cell, Demand, Protocol, RuleKey};

use super::verdict::{SideShape, Voice, decide};
use crate::image::{Ruleset, RulesetEntry};
use crate::model::{Ports, Rule, Tier};

/// The protocols that a denial by default calls by name.
const KNOWN: [Protocol; 7] = [
    Protocol::ICMP,
    Protocol::TCP,
    Protocol::UDP,
    Protocol::DCCP,
    Protocol::ICMPV6,
    Protocol::SCTP,
    Protocol::UDPLITE,
];

/// A rule of a pair: what it says, and whether it speaks for each side. `None`: it does not.
pub(super) struct Applied<'a> {
    pub(super) rule: &'a Rule,
    pub(super) egress: Option<Voice>,
    pub(super) ingress: Option<Voice>,
}

/// The ruleset of a pair with these shapes of its sides (egress, ingress) and rules, in order.
pub(super) fn build(shapes: &[SideShape; 2], rules: &[Applied<'_>]) -> Ruleset {
    let everything = |protocol| Pair { shapes, rules }.cell(protocol, None);
    let unknown = everything(Unlisted::Unknown);
    let known = everything(Unlisted::Known);
    let mut entries =
        vec![RulesetEntry { bits: RuleKey::RULESET_BITS, protocol: Protocol(0), port: 0, cell: unknown }];

    let listed: BTreeSet<Protocol> = rules
        .iter()
        .filter_map(|applied| if let Ports::Only(list) = &applied.rule.ports { Some(list) } else { None })
        .flatten()
        .map(|ports| ports.protocol)
        .collect();
    if known != unknown {
        for protocol in KNOWN.iter().filter(|protocol| !listed.contains(protocol)) {
            entries.push(whole(*protocol, known));
        }
    }
    for protocol in listed {
        let pair = Pair { shapes, rules };
        compress(protocol, &pair.intervals(protocol), unknown, &mut entries);
    }
    Ruleset::new(entries)
}

/// A protocol that no rule lists.
#[derive(Clone, Copy)]
enum Unlisted {
    Known,
    Unknown,
}

struct Pair<'a> {
    shapes: &'a [SideShape; 2],
    rules: &'a [Applied<'a>],
}

/// Ports from here to the next interval, and their answer.
type Interval = (u16, Cell);

impl Pair<'_> {
    /// The answers for all ports of a protocol, neighbours with equal ones joined.
    fn intervals(&self, protocol: Protocol) -> Vec<Interval> {
        let mut starts = BTreeSet::from([0]);
        for applied in self.rules {
            let Ports::Only(list) = &applied.rule.ports else { continue };
            for ports in list.iter().filter(|ports| ports.protocol == protocol) {
                starts.insert(ports.first);
                starts.extend(ports.last.checked_add(1));
            }
        }
        let unlisted = if protocol.is_known() { Unlisted::Known } else { Unlisted::Unknown };
        let mut intervals: Vec<Interval> =
            starts.into_iter().map(|port| (port, self.cell(unlisted, Some((protocol, port))))).collect();
        intervals.dedup_by_key(|(_, cell)| *cell);
        intervals
    }

    /// The answer at one port, or for a protocol that no rule lists.
    fn cell(&self, unlisted: Unlisted, at: Option<(Protocol, u16)>) -> Cell {
        let (mut egress, mut ingress, mut demand) = (Vec::new(), Vec::new(), Demand::OFF);
        for applied in self.rules.iter().filter(|applied| matches(&applied.rule.ports, at)) {
            egress.extend(applied.egress);
            ingress.extend(applied.ingress);
            let rule = applied.rule;
            if rule.tier == Tier::Normal && rule.action == crate::model::Action::Allow {
                demand = demand.with(rule.tls);
            }
        }
        let known = matches!(unlisted, Unlisted::Known);
        let [egress_shape, ingress_shape] = self.shapes;
        Cell::new(decide(egress_shape, &egress, known), decide(ingress_shape, &ingress, known), demand)
    }
}

fn matches(ports: &Ports, at: Option<(Protocol, u16)>) -> bool {
    match (ports, at) {
        (Ports::All, _) => true,
        (Ports::Only(_), None) => false,
        (Ports::Only(list), Some((protocol, port))) => {
            list.iter().any(|ports| ports.protocol == protocol && (ports.first..=ports.last).contains(&port))
        }
    }
}

/// Entries for the intervals of a protocol: the answer that would take the most entries becomes the one
/// for the whole protocol, the others are written out.
fn compress(protocol: Protocol, intervals: &[Interval], outer: Cell, entries: &mut Vec<RulesetEntry>) {
    let ends = intervals.iter().skip(1).map(|(start, _)| start - 1).chain([u16::MAX]);
    let mut by_cell: BTreeMap<Cell, Vec<(u16, u32)>> = BTreeMap::new();
    for ((first, cell), last) in intervals.iter().zip(ends) {
        by_cell.entry(*cell).or_default().extend(cover(*first, last));
    }
    let saved = |cell: &Cell, pieces: &Vec<(u16, u32)>| pieces.len() + usize::from(*cell == outer);
    let Some(default) = by_cell.iter().max_by_key(|(cell, pieces)| saved(cell, pieces)).map(|(c, _)| *c)
    else {
        return;
    };
    if default != outer {
        entries.push(whole(protocol, default));
    }
    for (cell, pieces) in by_cell.into_iter().filter(|(cell, _)| *cell != default) {
        let entry = |(port, bits)| RulesetEntry { bits: RuleKey::PROTOCOL_BITS + bits, protocol, port, cell };
        entries.extend(pieces.into_iter().map(entry));
    }
}

fn whole(protocol: Protocol, cell: Cell) -> RulesetEntry {
    RulesetEntry { bits: RuleKey::PROTOCOL_BITS, protocol, port: 0, cell }
}

/// The fewest prefixes (port, bits) that make up a range.
fn cover(first: u16, last: u16) -> Vec<(u16, u32)> {
    let mut pieces = Vec::new();
    let (mut at, end) = (u32::from(first), u32::from(last) + 1);
    while at < end {
        let aligned = if at == 0 { 16 } else { at.trailing_zeros() };
        let fitting = (end - at).ilog2();
        let size = aligned.min(fitting);
        pieces.push((at as u16, 16 - size));
        at += 1 << size;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_few_prefixes() {
        assert_eq!(cover(0, u16::MAX), [(0, 0)]);
        assert_eq!(cover(443, 443), [(443, 16)]);
        assert_eq!(cover(8, 15), [(8, 13)]);
        assert_eq!(cover(1, 65535).len(), 16);
        assert_eq!(cover(9000, 9100).iter().map(|(_, bits)| 1u32 << (16 - bits)).sum::<u32>(), 101);
    }
}
