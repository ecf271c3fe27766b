//! Who may reach whom by zones and names alone: what a proxy is told that cannot go by addresses.
//!
//! A proxy knows a peer by the name in its certificate, and a program of its own node by the identity that
//! the kernel gave it. Either is a set of zones, and the policy is asked with that: there is no second
//! meaning of rules here, [`oracle::judge_parties`] decides. Whoever is in no zone counts as `world`.
//!
//! It fails closed: who has no name shows none, who may have none is expected under none, and a name that no
//! zone knows is in no zone.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use bulkhead_abi::{Addr, Demand, Protocol, Reason, Tls, Verdict};
use bulkhead_credentials::SpiffeId;

use crate::model::{Endpoint, Flow, MaxAge, Model, Rule, RuleRef, Selector, Sides, Zone};
use crate::oracle::{self, Party, SideDecision};

/// Zones by name. Empty: in no zone.
pub type Zones = BTreeSet<Arc<str>>;

/// A policy as a proxy asks it. Made in no time, so make one for each question.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    model: &'a Model,
    trust_domain: &'a str,
}

/// What is decided of a connection between two sets of zones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judged {
    /// The stricter verdict of the sides that were asked for. [`Verdict::Audit`]: a dry run, it passes and
    /// would not.
    pub verdict: Verdict,
    /// Why, of the side with that verdict; the receiver's, if both have it.
    pub reason: Reason,
    /// The rule behind it, if there is one at either of the sides with that verdict.
    pub rule: Option<RuleRef>,
    /// What the rules of *both* sides ask for: the level, and whether `local = "attest"`
    /// ([`Demand::is_attested`]).
    pub demand: Demand,
    /// For how long the connection may outlive its certificates; `None`: as it likes.
    pub max_age: Option<MaxAge>,
}

impl Judged {
    /// Whether it goes on.
    pub const fn passes(&self) -> bool {
        self.verdict.passes()
    }

    /// How it is to be encrypted.
    pub const fn level(&self) -> Tls {
        self.demand.level
    }
}

impl<'a> Access<'a> {
    /// The policy `model`, whose zones' own names are under `trust_domain`.
    pub const fn new(model: &'a Model, trust_domain: &'a str) -> Self {
        Self { model, trust_domain }
    }

    /// The zones that a peer with this name is in: those whose own workloads show it, and those that list it
    /// in `names`.
    pub fn zones_of_name(&self, name: &SpiffeId) -> Zones {
        let knows = |zone: &&Arc<Zone>| zone.knows(name, self.trust_domain);
        self.model.zones().iter().filter(knows).map(|zone| Arc::clone(&zone.name)).collect()
    }

    /// The name that a workload of these zones shows to those who dial it, before anybody knows which port
    /// they want: that of the first zone, by alphabet, that a rule with `mutual` names as receiver; else of
    /// the first zone. `None`: it is in no zone, so it has no name.
    pub fn name_of(&self, zones: &Zones) -> Option<SpiffeId> {
        let is_dialled = |zone: &&Zone| {
            let named = |selector: &Selector| matches!(selector, Selector::Zone(name) if *name == zone.name);
            let mut rules = self.model.rules().iter().filter(|rule| rule.tls.level == Tls::Mutual);
            rules.any(|rule| rule.to.iter().any(named))
        };
        let chosen = self.known(zones).find(is_dialled).or_else(|| self.known(zones).next())?;
        chosen.shown_name(self.trust_domain)
    }

    /// The name that a workload of the zones `from` shows when it dials one of the zones `to`.
    ///
    /// A peer that is asked knows the zones of that name and no other. So it is the name, the first by the
    /// alphabet of its zones, under which the receiver's side asks for `mutual` and lets it pass; else under
    /// which that side lets it pass; else that of the first zone. `None`: in no zone, so without a name.
    pub fn own_name(&self, from: &Zones, to: &Zones, port: u16) -> Option<SpiffeId> {
        let names: Vec<SpiffeId> =
            self.known(from).filter_map(|zone| zone.shown_name(self.trust_domain)).collect();
        let rank = |name: &SpiffeId| {
            let judged = self.judge(&self.zones_of_name(name), to, port, Sides::Ingress);
            (judged.verdict, judged.level() != Tls::Mutual)
        };
        // Of equals the first.
        names.into_iter().min_by_key(rank)
    }

    /// Every name that a peer in one of these zones may present: their own, and those in `names`. Sorted.
    pub fn names_of(&self, zones: &Zones) -> Vec<SpiffeId> {
        let names = |zone: &'a Zone| zone.names.iter().cloned().chain(zone.shown_name(self.trust_domain));
        self.known(zones).flat_map(names).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Decides a TCP connection to `port`. `sides` are the ends whose word counts: [`Sides::Egress`] where a
    /// connection goes out, [`Sides::Ingress`] where one comes in, because each node judges the ends that it
    /// hosts; [`Sides::Both`] for what the policy says on the whole.
    pub fn judge(&self, from: &Zones, to: &Zones, port: u16, sides: Sides) -> Judged {
        let decision = oracle::judge_parties(self.model, &party(from), &party(to), &flow(port));
        let asked: &[&SideDecision] = match sides {
            Sides::Both => &[&decision.ingress, &decision.egress],
            Sides::Egress => &[&decision.egress],
            Sides::Ingress => &[&decision.ingress],
        };
        let strictest = |a: &&SideDecision, b: &&SideDecision| a.verdict.cmp(&b.verdict);
        // Of equals the last: the order is turned so that it is the receiver's.
        let side = asked.iter().rev().copied().max_by(strictest).unwrap_or(&decision.ingress);
        let alike = asked.iter().filter(|other| other.verdict == side.verdict);
        Judged {
            verdict: side.verdict,
            reason: side.reason,
            rule: side
                .rule
                .as_ref()
                .or_else(|| alike.filter_map(|other| other.rule.as_ref()).next())
                .cloned(),
            demand: decision.tls,
            max_age: decision.max_age,
        }
    }

    /// Where a connection stands with the policy, in words that go on from "the peer is": `in no zone that
    /// may reach db:5432; rule policies/shop.toml:31 allows api only`.
    pub fn hint(&self, from: &Zones, to: &Zones, port: u16, sides: Sides) -> String {
        let judged = self.judge(from, to, port, sides);
        let target = format!("{}:{port}", label(to));
        let rule = judged.rule.as_ref().map(|rule| format!("rule {rule}")).unwrap_or_default();
        let own = label(from);
        match (judged.verdict, judged.reason) {
            (Verdict::Allow, Reason::AllowRule) => format!("in {own}, which may reach {target} by {rule}"),
            (Verdict::Allow, _) => format!("in {own}, which may reach {target}"),
            (_, Reason::DenyRule) => format!("in {own}, which {rule} denies {target}"),
            _ => {
                let own = if from.is_empty() { String::new() } else { format!("in {own} and ") };
                format!("{own}in no zone that may reach {target}; {}", self.who_may(to, port, sides))
            }
        }
    }

    /// The zones of the set that are in the policy, by alphabet.
    fn known(&self, zones: &Zones) -> impl Iterator<Item = &'a Zone> {
        zones.iter().filter_map(|name| self.model.zone(name)).map(AsRef::as_ref)
    }

    /// The rules that let anybody reach the port, and whom.
    fn who_may(&self, to: &Zones, port: u16, sides: Sides) -> String {
        let rules: Vec<&Rule> = oracle::allows_to(self.model, &party(to), &flow(port), sides).collect();
        let mut text = String::new();
        for (at, rule) in rules.iter().take(LISTED).enumerate() {
            let whom = rule.from.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let then = if at == 0 { "" } else { ", " };
            let _ = write!(text, "{then}rule {} allows {whom}", rule.reference());
        }
        match rules.len() {
            0 => "no rule allows anybody there".into(),
            more if more > LISTED => format!("{text}, and {} more rules others", more - LISTED),
            _ => text + " only",
        }
    }
}

/// How many rules a hint lists.
const LISTED: usize = 3;

fn party(zones: &Zones) -> Party {
    if zones.is_empty() { Party::World } else { Party::Zones(zones.iter().cloned().collect()) }
}

/// A flow without its ends, which are known as parties.
fn flow(port: u16) -> Flow {
    let nowhere = || Endpoint::at(Addr::ANY);
    Flow { from: nowhere(), to: nowhere(), protocol: Protocol::TCP, port, guarded: false }
}

/// As metrics and records call the set: its zones joined by `+`, or `world`.
fn label(zones: &Zones) -> String {
    if zones.is_empty() {
        return "world".into();
    }
    zones.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("+")
}
