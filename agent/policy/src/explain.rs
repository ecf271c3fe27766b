//! Why a flow passes or not: both ends, both sides, the rules by name and place, and whether the image
//! and the oracle agree.

use std::fmt;

use bulkhead_abi::tables::SideAnswer;
use bulkhead_abi::{Identity, Verdict};
use serde::Serialize;

use crate::image::Image;
use crate::model::{DemandView, Endpoint, Facts, Flow, Location, MaxAge, Model, PortMatch};
use crate::oracle::{self, Decision, SideDecision};
use crate::prefix::to_ip;

/// What to add where a flow to a virtual address is left to the guard.
pub const DEFERRED: &str = "the guard judges who really receives, after translation: ask about that address";

/// What to add where it is not.
pub const NOT_DEFERRED: &str =
    "the guard does not see what leaves the opener's namespace, so the virtual address counts as world";

/// What there is to say about a flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    /// Who opens it.
    pub from: EndExplanation,
    /// Who receives it.
    pub to: EndExplanation,
    /// Protocol and port as a rule would write them.
    pub port: String,
    /// The stricter of both sides' verdicts: allow, audit or deny.
    pub verdict: &'static str,
    /// The opener's side.
    pub egress: SideExplanation,
    /// The receiver's side.
    pub ingress: SideExplanation,
    /// How it is to be encrypted.
    pub tls: DemandView,
    /// For how long it may outlive its certificates, if a rule says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<MaxAge>,
    /// What the oracle says, which must be the same as `egress`, `ingress` and `tls`.
    pub oracle: Decision,
    /// Whether it is. If not, that is a defect of Bulkhead and must be reported.
    pub agrees: bool,
}

/// One end of the flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct EndExplanation {
    /// Its address.
    pub addr: String,
    /// Its cgroup, if one was given.
    pub cgroup: Option<String>,
    /// Its zones; empty for world, node and virtual.
    pub zones: Vec<String>,
    /// Its identity's name: the zones joined by `+`, or `world`, `node` or `virtual`.
    pub label: String,
    /// Its identity's number. `None` if the image has none for it, which is a defect.
    pub identity: Option<u32>,
}

/// One side of the flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SideExplanation {
    /// Allow, audit or deny.
    pub verdict: &'static str,
    /// Why.
    pub reason: &'static str,
    /// The rule that decided, if one did.
    pub rule: Option<RuleExplanation>,
}

/// The rule that decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RuleExplanation {
    /// Its number in events and in the kernel.
    pub number: u32,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Where it is written.
    pub location: Location,
    /// The rule in one line.
    pub text: String,
}

/// Explains a flow by an image that was compiled from this model and these facts.
pub fn explain(model: &Model, facts: &Facts, image: &Image, flow: &Flow) -> Explanation {
    let decision = oracle::judge(model, facts, flow);
    let identity = |end: &Endpoint| image.identity(cgroup_id(image, facts, end), end.addr);
    let (from, to) = (identity(&flow.from), identity(&flow.to));
    // An identity that is missing is looked up as one that nobody has: inconsistent, so denied.
    let missing = Identity::UNKNOWN;
    let cell = image.judge(from.unwrap_or(missing), to.unwrap_or(missing), flow);
    let agrees = answers(image, cell.egress(), &decision.egress)
        && answers(image, cell.ingress(), &decision.ingress)
        && cell.demand() == decision.tls;
    let port = PortMatch { protocol: flow.protocol, first: flow.port, last: flow.port };
    Explanation {
        from: end(image, &flow.from, from),
        to: end(image, &flow.to, to),
        port: if flow.protocol.has_ports() || flow.protocol.is_icmp() {
            port.to_string()
        } else {
            PortMatch::whole(flow.protocol).to_string()
        },
        verdict: cell.egress().verdict.max(cell.ingress().verdict).as_str(),
        egress: side(image, cell.egress()),
        ingress: side(image, cell.ingress()),
        tls: decision.tls.into(),
        max_age: decision.max_age,
        oracle: decision,
        agrees,
    }
}

/// The id under which the image knows an end's cgroup: its own, or that of the nearest ancestor.
pub fn cgroup_id(image: &Image, facts: &Facts, end: &Endpoint) -> u64 {
    let mut above = end.cgroup.as_deref();
    while let Some(path) = above {
        let known =
            facts.cgroups.iter().find(|(id, known)| *known == path && image.workloads.contains_key(id));
        if let Some((id, _)) = known {
            return *id;
        }
        above = match path.rsplit_once('/') {
            Some((parent, _)) => Some(parent),
            None if path.is_empty() => None,
            None => Some(""),
        };
    }
    0
}

fn answers(image: &Image, answer: SideAnswer, expected: &SideDecision) -> bool {
    let rule = image.rules.get(&answer.rule).map(|rule| rule.reference());
    (answer.verdict, answer.reason, rule) == (expected.verdict, expected.reason, expected.rule.clone())
}

fn end(image: &Image, end: &Endpoint, identity: Option<Identity>) -> EndExplanation {
    let zones = identity.and_then(|identity| image.zones.get(&identity));
    EndExplanation {
        addr: to_ip(end.addr).to_string(),
        cgroup: end.cgroup.clone(),
        zones: zones.into_iter().flat_map(|zones| zones.iter()).map(|zone| zone.to_string()).collect(),
        label: identity.map_or_else(|| "unknown".into(), |identity| image.label(identity)),
        identity: identity.map(|identity| identity.0),
    }
}

fn side(image: &Image, answer: SideAnswer) -> SideExplanation {
    let rule = image.rules.get(&answer.rule).map(|rule| RuleExplanation {
        number: answer.rule,
        name: rule.name.as_ref().map(|name| name.to_string()),
        location: rule.location.clone(),
        text: rule.text.clone(),
    });
    SideExplanation { verdict: answer.verdict.as_str(), reason: answer.reason.as_str(), rule }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} to {} on {}", self.verdict, self.from.label, self.to.label, self.port)?;
        writeln!(f, "  from    {}", self.from)?;
        writeln!(f, "  to      {}", self.to)?;
        writeln!(f, "  egress  {}", self.egress)?;
        writeln!(f, "  ingress {}", self.ingress)?;
        if self.oracle.is_deferred() {
            writeln!(f, "  then    {DEFERRED}")?;
        } else if self.to.identity == Some(Identity::VIRTUAL.0) {
            writeln!(f, "  then    {NOT_DEFERRED}")?;
        }
        if !self.tls.is_off() {
            writeln!(f, "  tls     {}", self.tls)?;
        }
        if let Some(age) = self.max_age {
            writeln!(f, "  max_age {age}")?;
        }
        if !self.agrees {
            let (egress, ingress) = (&self.oracle.egress, &self.oracle.ingress);
            let word = |side: &SideDecision| format!("{} ({})", side.verdict.as_str(), side.reason.as_str());
            let (egress, ingress) = (word(egress), word(ingress));
            writeln!(f, "  defect  the oracle says egress {egress}, ingress {ingress}: please report this")?;
        }
        Ok(())
    }
}

impl fmt::Display for EndExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.addr)?;
        if let Some(cgroup) = &self.cgroup {
            write!(f, " in cgroup /{cgroup}")?;
        }
        write!(f, ": {}", self.label)
    }
}

impl fmt::Display for SideExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.verdict, self.reason)?;
        let Some(rule) = &self.rule else { return Ok(()) };
        write!(f, " by ")?;
        if let Some(name) = &rule.name {
            write!(f, "`{name}`, ")?;
        }
        write!(f, "{}: {}", rule.location, rule.text)
    }
}

impl Explanation {
    /// Whether the flow passes.
    pub fn passes(&self) -> bool {
        self.verdict != Verdict::Deny.as_str()
    }
}
