//! The readable judge: a flow decided straight from the model, one sentence of its meaning after the
//! other (see [`crate::model`]).
//!
//! It is slow on purpose and shares no code with the compiler, down to its own matching of addresses and
//! cgroup paths, so that a mistake in one of the two shows as a disagreement.

use std::sync::Arc;

use bulkhead_abi::{Addr, Demand, Reason, Verdict};
use serde::{Serialize, Serializer};

use crate::model::{
    Action, DemandView, Endpoint, Facts, Flow, MaxAge, Mode, Model, Ports, Posture, Rule, RuleRef, Selector,
    Sides, Tier, Zone,
};
use crate::prefix::Prefix;

/// What is decided of a flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Decision {
    /// The opener's side.
    pub egress: SideDecision,
    /// The receiver's side.
    pub ingress: SideDecision,
    /// How it is to be encrypted, if it passes.
    #[serde(serialize_with = "demand_parts")]
    pub tls: Demand,
    /// For how long it may outlive its certificates, if a rule says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<MaxAge>,
}

impl Decision {
    /// The stricter of both sides' verdicts.
    pub fn verdict(&self) -> Verdict {
        self.egress.verdict.max(self.ingress.verdict)
    }

    /// Whether the socket layers leave the verdict to the guard, because the receiver is a virtual
    /// address: what they let pass is judged after translation.
    pub fn is_deferred(&self) -> bool {
        self.egress.reason == Reason::Virtual
    }

    /// The rules, if any, of the sides whose verdict is the flow's.
    pub fn deciding(&self) -> impl Iterator<Item = &RuleRef> {
        let verdict = self.verdict();
        [&self.egress, &self.ingress]
            .into_iter()
            .filter(move |side| side.verdict == verdict)
            .filter_map(|side| side.rule.as_ref())
    }
}

/// What one side says of a flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SideDecision {
    /// Its verdict.
    #[serde(serialize_with = "verdict_word")]
    pub verdict: Verdict,
    /// Why.
    #[serde(serialize_with = "reason_word")]
    pub reason: Reason,
    /// The rule that decided, if one did.
    pub rule: Option<RuleRef>,
}

/// One end of a flow, as far as rules can tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Party {
    /// In no zone, and not this host.
    World,
    /// In no zone, and this host itself.
    Node,
    /// A virtual address: nobody, before translation.
    Virtual,
    /// In these zones, by name.
    Zones(Vec<Arc<str>>),
}

/// Decides a flow.
pub fn judge(model: &Model, facts: &Facts, flow: &Flow) -> Decision {
    let from = party(model, facts, &flow.from);
    let to = party(model, facts, &flow.to);
    judge_parties(model, &from, &to, flow)
}

/// Who an endpoint is.
pub fn party(model: &Model, facts: &Facts, end: &Endpoint) -> Party {
    let names: Vec<Arc<str>> =
        model.zones().iter().filter(|zone| is_member(zone, end)).map(|zone| Arc::clone(&zone.name)).collect();
    if !names.is_empty() {
        Party::Zones(names)
    } else if end.addr.is_loopback() || facts.node_addresses.contains(&end.addr) {
        Party::Node
    } else if holds(model.virtuals(), end.addr) {
        Party::Virtual
    } else {
        Party::World
    }
}

/// Decides a flow between two parties; of `flow` its ends are not looked at.
pub fn judge_parties(model: &Model, from: &Party, to: &Party, flow: &Flow) -> Decision {
    if *to == Party::Virtual && flow.guarded {
        let deferred = || because(Verdict::Allow, Reason::Virtual, None);
        return Decision { egress: deferred(), ingress: deferred(), tls: Demand::OFF, max_age: None };
    }
    let (from, to) = (as_met(from), as_met(to));
    let judge_side = |egress: bool| {
        let case = Case { model, from, to, flow, egress };
        case.decide()
    };
    let asked = |egress| Case { model, from, to, flow, egress }.asked();
    let asked: Vec<&Rule> = [asked(true), asked(false)].concat();
    Decision {
        egress: judge_side(true),
        ingress: judge_side(false),
        tls: asked.iter().map(|rule| rule.tls).fold(Demand::OFF, Demand::with),
        max_age: asked.iter().filter_map(|rule| rule.max_age).min(),
    }
}

/// The allows that let anybody reach this party, on one of these sides; of `flow` the ends are not looked at.
pub(crate) fn allows_to<'a>(
    model: &'a Model,
    to: &Party,
    flow: &Flow,
    sides: Sides,
) -> impl Iterator<Item = &'a Rule> {
    let speaks = move |rule: &&Rule| {
        (sides != Sides::Ingress && speaks_for(rule, true))
            || (sides != Sides::Egress && speaks_for(rule, false))
    };
    let rules = model.rules().iter().map(Arc::as_ref).filter(|rule| rule.action == Action::Allow);
    rules.filter(speaks).filter(|rule| selects(&rule.to, as_met(to)) && port_matches(&rule.ports, flow))
}

/// What rules take a party for: to them, who is nobody is of the world.
fn as_met(party: &Party) -> &Party {
    if *party == Party::Virtual { &Party::World } else { party }
}

/// One side of one flow.
struct Case<'a> {
    model: &'a Model,
    from: &'a Party,
    to: &'a Party,
    flow: &'a Flow,
    egress: bool,
}

impl<'a> Case<'a> {
    /// The side's verdict, modes included.
    fn decide(&self) -> SideDecision {
        let own = self.own_zones();
        let mut full = self.decide_as(&own);
        if full.verdict == Verdict::Deny {
            let enforcing: Vec<&Zone> = own.into_iter().filter(|zone| zone.mode == Mode::Enforce).collect();
            if self.decide_as(&enforcing).verdict != Verdict::Deny {
                full.verdict = Verdict::Audit;
            }
        }
        full
    }

    /// The side's verdict if these were all of its own zones.
    fn decide_as(&self, own: &[&Zone]) -> SideDecision {
        if own.is_empty() {
            return because(Verdict::Allow, Reason::Open, None);
        }
        let own_party = party_of(own);
        let rules: Vec<&Rule> = self
            .model
            .rules()
            .iter()
            .map(Arc::as_ref)
            .filter(|rule| self.applies(rule, &own_party))
            .collect();

        let admin = first_by_priority(&rules, |tier| match tier {
            Tier::Admin { priority } => Some(priority),
            _ => None,
        });
        match admin.map(|rule| (rule, rule.action)) {
            Some((rule, Action::Deny)) => return because(Verdict::Deny, Reason::DenyRule, Some(rule)),
            Some((rule, Action::Allow)) => return because(Verdict::Allow, Reason::AllowRule, Some(rule)),
            Some((_, Action::Pass)) | None => {}
        }

        if let Some(rule) = first_of(&rules, Action::Deny) {
            return because(Verdict::Deny, Reason::DenyRule, Some(rule));
        }
        if let Some(rule) = first_of(&rules, Action::Allow) {
            return because(Verdict::Allow, Reason::AllowRule, Some(rule));
        }
        let peers = self.peer_names();
        if own.iter().any(|zone| !zone.isolated && peers.contains(&zone.name)) {
            return because(Verdict::Allow, Reason::WithinZone, None);
        }
        let posture = |zone: &Zone| if self.egress { zone.egress } else { zone.ingress };
        if own.iter().any(|zone| posture(zone) == Posture::Isolate) {
            let known = self.flow.protocol.is_known();
            return because(
                Verdict::Deny,
                if known { Reason::Default } else { Reason::UnknownProtocol },
                None,
            );
        }

        let baseline = first_by_priority(&rules, |tier| match tier {
            Tier::Baseline { priority } => Some(priority),
            _ => None,
        });
        match baseline.map(|rule| (rule, rule.action)) {
            Some((rule, Action::Deny)) => because(Verdict::Deny, Reason::DenyRule, Some(rule)),
            Some((rule, Action::Allow)) => because(Verdict::Allow, Reason::AllowRule, Some(rule)),
            Some((_, Action::Pass)) | None => because(Verdict::Allow, Reason::Open, None),
        }
    }

    /// The allows of the normal tier that speak for this side: what they ask for counts together.
    fn asked(&self) -> Vec<&'a Rule> {
        let own = self.own_zones();
        if own.is_empty() {
            return Vec::new();
        }
        let own = party_of(&own);
        let rules = self.model.rules().iter().map(Arc::as_ref);
        rules
            .filter(|rule| rule.tier == Tier::Normal && rule.action == Action::Allow)
            .filter(|rule| self.applies(rule, &own))
            .collect()
    }

    /// Whether a rule speaks for this side, if these are its own zones, and matches the flow.
    fn applies(&self, rule: &Rule, own: &Party) -> bool {
        let (from, to) = if self.egress { (own, self.to) } else { (self.from, own) };
        let speaks = speaks_for(rule, self.egress);
        speaks && selects(&rule.from, from) && selects(&rule.to, to) && port_matches(&rule.ports, self.flow)
    }

    fn own_zones(&self) -> Vec<&Zone> {
        let names = names(if self.egress { self.from } else { self.to });
        self.model.zones().iter().map(Arc::as_ref).filter(|zone| names.contains(&zone.name)).collect()
    }

    fn peer_names(&self) -> &[Arc<str>] {
        names(if self.egress { self.to } else { self.from })
    }
}

fn party_of(zones: &[&Zone]) -> Party {
    Party::Zones(zones.iter().map(|zone| Arc::clone(&zone.name)).collect())
}

fn speaks_for(rule: &Rule, egress: bool) -> bool {
    match rule.sides {
        Sides::Both => true,
        Sides::Egress => egress,
        Sides::Ingress => !egress,
    }
}

fn port_matches(ports: &Ports, flow: &Flow) -> bool {
    match ports {
        Ports::All => true,
        Ports::Only(list) => list.iter().any(|ports| {
            ports.protocol == flow.protocol && ports.first <= flow.port && flow.port <= ports.last
        }),
    }
}

fn names(party: &Party) -> &[Arc<str>] {
    match party {
        Party::Zones(names) => names,
        Party::World | Party::Node | Party::Virtual => &[],
    }
}

fn selects(selectors: &[Selector], party: &Party) -> bool {
    selectors.iter().any(|selector| match (selector, party) {
        (Selector::Any, _) => true,
        (Selector::World, Party::World) | (Selector::Node, Party::Node) => true,
        (Selector::Zone(name), Party::Zones(names)) => names.contains(name),
        _ => false,
    })
}

/// Of the rules of a tier the one asked first: by priority, then deny, pass, allow, then by place.
fn first_by_priority<'a>(rules: &[&'a Rule], priority: impl Fn(Tier) -> Option<u32>) -> Option<&'a Rule> {
    let mut tier: Vec<(u32, &Rule)> =
        rules.iter().filter_map(|rule| priority(rule.tier).map(|priority| (priority, *rule))).collect();
    tier.sort_by_key(|(priority, rule)| (*priority, rule.action, &rule.location));
    tier.first().map(|(_, rule)| *rule)
}

/// The first rule by place among those of the normal tier with this action.
fn first_of<'a>(rules: &[&'a Rule], action: Action) -> Option<&'a Rule> {
    rules
        .iter()
        .filter(|rule| rule.tier == Tier::Normal && rule.action == action)
        .min_by_key(|rule| &rule.location)
        .copied()
}

fn because(verdict: Verdict, reason: Reason, rule: Option<&Rule>) -> SideDecision {
    SideDecision { verdict, reason, rule: rule.map(Rule::reference) }
}

fn is_member(zone: &Zone, end: &Endpoint) -> bool {
    let by_address = holds(&zone.cidrs, end.addr) && !holds(&zone.except, end.addr);
    let by_cgroup = end.cgroup.as_ref().is_some_and(|path| {
        zone.cgroups.iter().any(|pattern| ancestors(path).any(|part| path_matches(pattern.as_str(), part)))
    });
    by_address || by_cgroup
}

fn holds(prefixes: &[Prefix], addr: Addr) -> bool {
    prefixes.iter().any(|prefix| {
        let same_family = (prefix.len >= 96 && prefix.addr.is_v4()) == addr.is_v4();
        let bit = |bytes: [u8; 16], n: u8| {
            bytes.get(usize::from(n / 8)).is_some_and(|byte| byte & (0x80 >> (n % 8)) != 0)
        };
        same_family && (0..prefix.len).all(|n| bit(prefix.addr.octets(), n) == bit(addr.octets(), n))
    })
}

/// The path itself and everything above it, the root ("") included.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let cuts = path.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| at);
    cuts.chain([path.len(), 0]).filter_map(|at| path.get(..at))
}

/// Whether the pattern matches the whole path.
fn path_matches(pattern: &str, path: &str) -> bool {
    let (level, more) = match pattern.split_once('/') {
        Some((level, more)) => (level, Some(more)),
        None => (pattern, None),
    };
    if level == "**" {
        let Some(more) = more else { return true };
        // Any number of levels may be taken off the front before the rest of the pattern matches.
        let mut rest = Some(path);
        while let Some(path) = rest {
            if path_matches(more, path) {
                return true;
            }
            rest = path.split_once('/').map(|(_, below)| below);
        }
        // `a/**` matches `a` too: the rest may be nothing.
        return !path.is_empty() && path_matches(more, "");
    }
    match (more, path.split_once('/')) {
        (None, None) => level_matches(level, path),
        (Some(more), Some((first, below))) => level_matches(level, first) && path_matches(more, below),
        (Some(more), None) => level_matches(level, path) && !path.is_empty() && path_matches(more, ""),
        (None, Some(_)) => false,
    }
}

/// Whether a level of a pattern matches a name. No name is empty, so nothing matches "".
fn level_matches(level: &str, name: &str) -> bool {
    fn text_matches(level: &str, name: &str) -> bool {
        match level.split_once('*') {
            None => level == name,
            Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
                (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|r| text_matches(tail, r)))
            }),
        }
    }
    !name.is_empty() && text_matches(level, name)
}

fn verdict_word<S: Serializer>(verdict: &Verdict, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(verdict.as_str())
}

fn reason_word<S: Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.as_str())
}

fn demand_parts<S: Serializer>(demand: &Demand, serializer: S) -> Result<S::Ok, S::Error> {
    DemandView::from(*demand).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_levels() {
        for (pattern, path, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a", "", false),
            ("*", "", false),
            ("*", "a", true),
            ("a/b", "a", false),
            ("a/*", "a/b", true),
            ("a/*", "a", false),
            ("a/**", "a", true),
            ("a/**", "a/b/c", true),
            ("**", "", true),
            ("**/c", "c", true),
            ("**/c", "a/b/c", true),
            ("**/c", "", false),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/x/y/c", true),
            ("a/**/c", "b/x/c", false),
            ("x-*.service", "x-1.service", true),
            ("x-*.service", "x-1.slice", false),
            ("*b*", "abc", true),
        ] {
            assert_eq!(path_matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn ancestors_begin_above_and_include_the_root() {
        let mut all: Vec<&str> = ancestors("a/b/c").collect();
        all.sort_unstable();
        assert_eq!(all, ["", "a", "a/b", "a/b/c"]);
    }
}
