//! Why a flow passes or not: what the zone files say, and beside it what the kernel's tables say.
//!
//! The zone files are asked through the oracle, which decides from the model and knows no tables; the
//! kernel's answer is walked out of its maps. Neither moves a counter or makes a flow. Where the two
//! differ, that is a defect, and it is shown.

mod ends;

use bulkhead_abi::tables::SideAnswer;
use bulkhead_abi::{Addr, Cell, Identity, Protocol};
use bulkhead_policy::explain::{DEFERRED, NOT_DEFERRED};
use bulkhead_policy::model::{Location, PortMatch, RuleRef};
use bulkhead_policy::oracle::{Decision, Party, SideDecision, judge_parties};
use bulkhead_policy::{Endpoint, Facts, Flow, Image, Model};

use crate::control::protocol::{Answer, EndView, Explanation, KernelView, Question, RuleView, SideView};
use crate::datapath::{EndpointQuery, KernelAnswer};

pub use ends::End;

/// Why a question has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QuestionError {
    /// An end is nothing known.
    #[error("`{asked}` is no address, zone or cgroup{hint}; give one of these, or ADDRESS@CGROUP")]
    End {
        /// As it was asked.
        asked: String,
        /// What it may have been meant to be.
        hint: String,
    },
    /// The port is not in the language of rules.
    #[error("{message}; {help}")]
    Port {
        /// What is wrong.
        message: String,
        /// What to write.
        help: String,
    },
    /// Many ports, which may have many answers.
    #[error("`{0}` is more than one port; ask for one, as in tcp/443 or icmp/echo")]
    ManyPorts(String),
    /// An IPv4 address and an IPv6 address never talk.
    #[error("{from} and {to} are of different families; no flow joins them")]
    Families {
        /// The opener's address.
        from: String,
        /// The receiver's.
        to: String,
    },
}

/// A question that is understood.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    model: &'a Model,
    facts: &'a Facts,
    asked: &'a Question,
    from: End,
    to: End,
    protocol: Protocol,
    port: u16,
    guarded: bool,
}

impl<'a> Case<'a> {
    /// Understands `asked` by what is known of policy and host.
    pub fn new(model: &'a Model, facts: &'a Facts, asked: &'a Question) -> Result<Self, QuestionError> {
        let from = End::parse(&asked.from, model, facts)?;
        let to = End::parse(&asked.to, model, facts)?;
        let family = match (from.addr().map(|addr| addr.is_v4()), to.addr().map(|addr| addr.is_v4())) {
            (Some(one), Some(other)) if one != other => {
                return Err(QuestionError::Families { from: asked.from.clone(), to: asked.to.clone() });
            }
            (one, other) => one.or(other),
        };
        let (protocol, port) = one_port(&asked.port, family)?;
        let guarded = from.party(model, facts) != Party::Node;
        Ok(Self { model, facts, asked, from, to, protocol, port, guarded })
    }

    /// The opener's address, where one was given.
    pub fn opener(&self) -> Option<Addr> {
        self.from.addr()
    }

    /// The same where the guard sees, or does not see, what leaves the opener's namespace. Unless it is
    /// told, it does: but never the node's own.
    pub fn guarded(self, guarded: bool) -> Self {
        Self { guarded: guarded && self.guarded, ..self }
    }

    /// What the zone files say.
    pub fn explain(&self) -> Explanation {
        let (from, to) = (self.from.party(self.model, self.facts), self.to.party(self.model, self.facts));
        let decision = self.decide(&from, &to);
        let mut notes = Vec::new();
        for (end, asked) in [(&self.from, &self.asked.from), (&self.to, &self.asked.to)] {
            notes.extend(end.note(asked, self.facts));
        }
        if to == Party::Virtual {
            notes.push(if decision.is_deferred() { DEFERRED } else { NOT_DEFERRED }.to_owned());
        }
        if let Some(age) = decision.max_age {
            notes.push(format!("a connection may outlive its certificates by {age}"));
        }
        Explanation {
            from: self.from.view(&self.asked.from, &from),
            to: self.to.view(&self.asked.to, &to),
            port: crate::events::port_name(self.protocol.0, self.port),
            policy: self.policy_answer(&decision),
            kernel: None,
            notes,
        }
    }

    /// The same question for the kernel's tables; `None` where an end has no member that could stand for
    /// it.
    pub fn kernel_query(&self, image: &Image) -> Option<(EndpointQuery, EndpointQuery, Protocol, u16)> {
        let from = self.from.query(image, self.facts)?;
        let to = self.to.query(image, self.facts)?;
        Some((from, to, self.protocol, self.port))
    }

    /// The kernel's answer, beside that of the zone files in `explanation`.
    pub fn kernel_view(
        &self,
        answer: &KernelAnswer,
        image: &Image,
        label: impl Fn(Identity) -> String,
        policy: &Answer,
    ) -> KernelView {
        let open = !answer.from.is_zoned() && !answer.to.is_zoned();
        let deferred = answer.to == Identity::VIRTUAL && self.guarded;
        let cell = answer
            .cell
            .filter(|_| !deferred)
            .or_else(|| (open || deferred).then(|| image.judge(answer.from, answer.to, &self.flow())));
        let kernel = cell.map(|cell| cell_answer(&cell, image));
        KernelView {
            from: label(answer.from),
            to: label(answer.to),
            generation: answer.generation,
            agrees: kernel.as_ref() == Some(policy),
            answer: kernel,
        }
    }

    fn decide(&self, from: &Party, to: &Party) -> Decision {
        judge_parties(self.model, from, to, &self.flow())
    }

    /// The flow without its ends, which are known as parties.
    fn flow(&self) -> Flow {
        let Self { protocol, port, guarded, .. } = *self;
        let nowhere = || Endpoint::at(Addr::ANY);
        Flow { from: nowhere(), to: nowhere(), protocol, port, guarded }
    }

    fn policy_answer(&self, decision: &Decision) -> Answer {
        let side = |side: &SideDecision| SideView {
            verdict: side.verdict.as_str().to_owned(),
            reason: side.reason.as_str().to_owned(),
            rule: side.rule.as_ref().map(|rule| self.rule_view(rule)),
        };
        Answer {
            verdict: decision.verdict().as_str().to_owned(),
            egress: side(&decision.egress),
            ingress: side(&decision.ingress),
            tls: decision.tls.into(),
        }
    }

    fn rule_view(&self, reference: &RuleRef) -> RuleView {
        let rule = self.model.rules().iter().find(|rule| rule.location == reference.location);
        let name = match (&reference.name, rule) {
            (Some(name), _) => name.to_string(),
            (None, Some(rule)) => rule.to_string(),
            (None, None) => "rule".to_owned(),
        };
        view(name, &reference.location)
    }
}

/// A rule by its number in an image.
pub fn rule_by_number(image: &Image, number: u32) -> Option<RuleView> {
    image.rules.get(&number).map(|rule| view(rule.label().to_owned(), &rule.location))
}

fn cell_answer(cell: &Cell, image: &Image) -> Answer {
    let side = |side: SideAnswer| SideView {
        verdict: side.verdict.as_str().to_owned(),
        reason: side.reason.as_str().to_owned(),
        rule: rule_by_number(image, side.rule),
    };
    let (egress, ingress) = (cell.egress(), cell.ingress());
    Answer {
        verdict: egress.verdict.max(ingress.verdict).as_str().to_owned(),
        egress: side(egress),
        ingress: side(ingress),
        tls: cell.demand().into(),
    }
}

fn view(name: String, location: &Location) -> RuleView {
    RuleView { name, file: location.file.to_string(), line: location.line }
}

/// The one port that `text` names. ICMP has a number in each family; without an address, IPv4's.
fn one_port(text: &str, family_is_v4: Option<bool>) -> Result<(Protocol, u16), QuestionError> {
    let matches = bulkhead_policy::ports::parse(text)
        .map_err(|error| QuestionError::Port { message: error.message, help: error.help })?;
    let v4 = family_is_v4.unwrap_or(true);
    let of_family = |found: &&PortMatch| match found.protocol {
        Protocol::ICMP => v4,
        Protocol::ICMPV6 => !v4,
        _ => true,
    };
    match matches.iter().find(of_family) {
        Some(found) if found.first == found.last => Ok((found.protocol, found.first)),
        Some(found) if !found.protocol.is_known() => Ok((found.protocol, 0)),
        // A type with every code: the code that is sent as a rule.
        Some(found) if found.protocol.is_icmp() && found.first >> 8 == found.last >> 8 => {
            Ok((found.protocol, found.first))
        }
        _ => Err(QuestionError::ManyPorts(text.to_owned())),
    }
}

impl EndView {
    fn new(asked: &str, address: Option<String>, cgroup: Option<String>, party: &Party) -> Self {
        let zone = match party {
            Party::World => "world".to_owned(),
            Party::Node => "node".to_owned(),
            Party::Virtual => "virtual".to_owned(),
            Party::Zones(zones) => zones.join("+"),
        };
        Self { asked: asked.to_owned(), address, cgroup, zone }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
