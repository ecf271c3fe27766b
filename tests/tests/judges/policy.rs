//! One generated policy as the three judges have it: the model, its image, and the image in the tables
//! of a host node.

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_abi::{Accept, Addr, Cell, Control, CounterKey, Event, Identity, Reason, Tls, Verdict};
use bulkhead_core::host::Tables;
use bulkhead_policy::model::Mode;
use bulkhead_policy::oracle::{self, Party, SideDecision};
use bulkhead_policy::{Endpoint, Facts, Flow, Image, Model};

/// What a counter counts, by name: from, to, verdict, reason.
pub type Label = (String, String, Verdict, Reason);

/// A policy on this host.
pub struct Policy {
    pub model: Model,
    pub facts: Facts,
    pub image: Image,
    /// The guard sees what leaves the judges' namespace.
    pub guarded: bool,
}

/// What is decided of a packet, by name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Decision {
    pub label: Label,
    /// File and line of the rule.
    pub rule: Option<String>,
}

impl Decision {
    pub fn verdict(&self) -> Verdict {
        self.label.2
    }

    /// What becomes of a flow with this decision whose bytes are not what the rule accepts.
    pub fn refused(&self, verdict: Verdict, reason: Reason) -> Decision {
        let (from, to, ..) = self.label.clone();
        Decision { label: (from, to, verdict, reason), rule: self.rule.clone() }
    }

    /// Whether the guard is to decide.
    pub fn is_deferred(&self) -> bool {
        self.label.3 == Reason::Virtual
    }
}

/// Whose rules are asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    Opener,
    Receiver,
    Both,
    /// Both, of which not both are known to be on this node.
    Apart,
}

impl Policy {
    /// Whether what is of this class is refused in a flow that is allowed; [`Accept::NONE`] is clear text.
    pub fn refuses(&self, flow: &Flow, class: Accept) -> bool {
        self.objects(flow, class) == Some(Verdict::Deny)
    }

    /// What becomes of a flow that is allowed for being of this class: nothing, a denial, or, where nobody
    /// enforces, a word.
    pub fn objects(&self, flow: &Flow, class: Accept) -> Option<Verdict> {
        let flow = &Flow { guarded: flow.guarded && self.guarded, ..flow.clone() };
        let (from, to) = (self.party(&flow.from), self.party(&flow.to));
        let demand = oracle::judge_parties(&self.model, &from, &to, flow).tls;
        let refused =
            demand.level == Tls::Require && (class == Accept::NONE || !demand.accept.contains(class));
        let enforced = self.enforces(&from) || self.enforces(&to);
        refused.then_some(if enforced { Verdict::Deny } else { Verdict::Audit })
    }

    /// What the oracle says, in the order of its own sentences: the worse side decides; of two that say
    /// the same, the receiver's where nothing stands behind the opener's.
    pub fn decide(&self, flow: &Flow, asked: Asked) -> Decision {
        let flow = &Flow { guarded: flow.guarded && self.guarded, ..flow.clone() };
        self.decide_between(&self.party(&flow.from), &self.party(&flow.to), flow, asked)
    }

    /// The same for two parties; of `flow` its ends are not looked at.
    pub fn decide_between(&self, from: &Party, to: &Party, flow: &Flow, asked: Asked) -> Decision {
        let decision = oracle::judge_parties(&self.model, from, to, flow);
        let (egress, ingress) = (decision.egress, decision.ingress);
        let side: SideDecision = match asked {
            Asked::Opener => egress,
            Asked::Receiver => ingress,
            _ if ingress.verdict == egress.verdict && egress.reason != Reason::Open => egress,
            _ if ingress.verdict >= egress.verdict => ingress,
            _ => egress,
        };
        let (mut verdict, mut reason) = (side.verdict, side.reason);
        if verdict == Verdict::Allow && decision.tls.level == Tls::Mutual {
            // Nothing that the judges send goes by way of the proxy.
            let enforced = self.enforces(from) || self.enforces(to);
            (verdict, reason) = match () {
                () if decision.tls.is_attested() && asked == Asked::Both => (verdict, Reason::Attested),
                () if enforced => (Verdict::Deny, Reason::OutsideProxy),
                () => (Verdict::Audit, Reason::OutsideProxy),
            };
        }
        let rule = side.rule.map(|rule| rule.location.to_string());
        Decision { label: (name(from), name(to), verdict, reason), rule }
    }

    /// Whether a zone of it does more than report.
    fn enforces(&self, party: &Party) -> bool {
        let Party::Zones(names) = party else { return false };
        names.iter().any(|name| self.model.zone(name).is_some_and(|zone| zone.mode == Mode::Enforce))
    }

    /// What becomes of a packet that no rule can judge: the zones of the end at hand say how bad it is.
    pub fn anomaly(&self, own: &Endpoint, from: &Endpoint, to: &Endpoint, reason: Reason) -> Decision {
        let (verdict, reason) = self.badness(&self.party(own), reason);
        Decision { label: (self.name(from), self.name(to), verdict, reason), rule: None }
    }

    /// The verdict on what no rule can judge, for an end.
    pub fn badness(&self, own: &Party, reason: Reason) -> (Verdict, Reason) {
        match own {
            Party::World | Party::Node | Party::Virtual => (Verdict::Allow, Reason::Open),
            Party::Zones(_) => (if self.enforces(own) { Verdict::Deny } else { Verdict::Audit }, reason),
        }
    }

    pub fn is_zoned(&self, end: &Endpoint) -> bool {
        matches!(self.party(end), Party::Zones(_))
    }

    /// Whether a zone names the cgroup.
    pub fn names(&self, cgroup: &str) -> bool {
        let nowhere = Endpoint { addr: Addr::v4([198, 51, 100, 1]), cgroup: Some(cgroup.to_owned()) };
        self.party(&nowhere) != self.party(&Endpoint::at(nowhere.addr))
    }

    fn name(&self, end: &Endpoint) -> String {
        name(&self.party(end))
    }

    pub fn party(&self, end: &Endpoint) -> Party {
        oracle::party(&self.model, &self.facts, end)
    }

    /// A counter's key by name.
    pub fn label(&self, key: &CounterKey) -> Label {
        let name = |identity: Identity| self.image.label(identity);
        (name(key.from), name(key.to), Verdict::from_code(key.verdict), Reason::from_code(key.reason))
    }

    /// What an event says, by name.
    pub fn told(&self, event: &Event) -> Decision {
        let (verdict, reason) = (Verdict::from_code(event.verdict), Reason::from_code(event.reason));
        let label = (self.image.label(event.from), self.image.label(event.to), verdict, reason);
        let rule = self.image.rules.get(&event.rule).map(|rule| rule.location.to_string());
        Decision { label, rule }
    }

    /// The image in a host node's tables, at rest.
    pub fn tables(&self) -> Tables {
        let image = &self.image;
        let mut tables = Tables::default();
        for (prefix, identity) in image.prefixes.iter() {
            tables.set_prefix(prefix.addr, prefix.len.into(), *identity);
        }
        image.workloads.iter().for_each(|(cgroup, identity)| tables.set_workload(*cgroup, *identity));
        image.unions.iter().for_each(|(key, identity)| tables.set_union(*key, *identity));
        image.identities.iter().for_each(|(identity, state)| tables.set_identity(*identity, *state));
        image.pairs.iter().for_each(|(key, ruleset)| tables.set_pair(*key, *ruleset));
        for (number, ruleset) in &image.rulesets {
            for entry in ruleset.entries() {
                let cell: Cell = entry.cell;
                tables.add_rule(entry.key(*number), entry.bits, cell);
            }
        }
        tables
    }
}

/// A party's zones, as labels join them.
pub fn name(party: &Party) -> String {
    match party {
        // What is left to the guard is not counted, and everywhere else it is the world.
        Party::World | Party::Virtual => "world".into(),
        Party::Node => "node".into(),
        Party::Zones(names) => names.join("+"),
    }
}

/// The control block of an enforcing node.
pub fn control(generation: u64, host_netns: u64) -> Control {
    Control { generation, host_netns, flags: 0 }
}

/// Flows of a table, without what cannot be the same twice: times, and numbers that a kernel hands out.
pub fn comparable(
    flows: impl IntoIterator<Item = (bulkhead_abi::FlowKey, bulkhead_abi::FlowState)>,
) -> BTreeMap<bulkhead_abi::FlowKey, bulkhead_abi::FlowState> {
    let plain = |flow| bulkhead_abi::FlowState { seen: 0, cookie: 0, slot: 0, ..flow };
    flows.into_iter().map(|(key, flow)| (key, plain(flow))).collect()
}

/// The policy's zones and rules, for a failure's report.
pub fn describe(policy: &Policy) -> String {
    let zones: Vec<_> = policy.model.zones().iter().map(Arc::as_ref).collect();
    let rules: Vec<_> = policy.model.rules().iter().map(|r| (r.location.to_string(), r)).collect();
    format!("{zones:#?}\n{rules:#?}\n{:?}\n{}", policy.facts, policy.image)
}
