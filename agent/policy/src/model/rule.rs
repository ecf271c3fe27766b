//! Rules: who may open what to whom.

use std::fmt;
use std::sync::Arc;

use bulkhead_abi::{Demand, Protocol};
use serde::Serialize;

use super::{DemandName, Location, MaxAge};
use crate::ports::PortName;

/// A rule of a policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
    /// When it is asked.
    pub tier: Tier,
    /// What it says.
    pub action: Action,
    /// Who opens the flow; any of these.
    pub from: Vec<Selector>,
    /// Who receives it; any of these.
    pub to: Vec<Selector>,
    /// What it is about.
    pub ports: Ports,
    /// Which ends it speaks for.
    pub sides: Sides,
    /// How the flows are to be encrypted; of allows in the normal tier.
    pub tls: Demand,
    /// For how long a connection may outlive its certificates; under `tls = "mutual"` only. The kernel
    /// does not hear of it.
    pub max_age: Option<MaxAge>,
    /// Where it is written.
    pub location: Location,
}

impl Rule {
    /// An allow of the normal tier, for both sides, every protocol and port.
    pub fn allow(from: Vec<Selector>, to: Vec<Selector>) -> Self {
        Self {
            name: None,
            tier: Tier::Normal,
            action: Action::Allow,
            from,
            to,
            ports: Ports::All,
            sides: Sides::Both,
            tls: Demand::OFF,
            max_age: None,
            location: Location::default(),
        }
    }

    /// The rule's name and place.
    pub fn reference(&self) -> RuleRef {
        RuleRef { name: self.name.clone(), location: self.location.clone() }
    }
}

/// A rule in one line, such as `allow from web to api ports tcp/8080`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tier {
            Tier::Admin { priority } => write!(f, "admin {priority} ")?,
            Tier::Normal => {}
            Tier::Baseline { priority } => write!(f, "baseline {priority} ")?,
        }
        write!(f, "{} from {} to {}", self.action.as_str(), list(&self.from), list(&self.to))?;
        if let Ports::Only(ports) = &self.ports {
            write!(f, " ports {}", list(ports))?;
        }
        match self.sides {
            Sides::Both => {}
            Sides::Egress => f.write_str(" side egress")?,
            Sides::Ingress => f.write_str(" side ingress")?,
        }
        if self.tls != Demand::OFF {
            write!(f, " tls {}", DemandName(self.tls))?;
        }
        if let Some(age) = self.max_age {
            write!(f, " max_age {age}")?;
        }
        Ok(())
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// A rule's name and place: how a verdict names it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct RuleRef {
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
    /// Where it is written.
    pub location: Location,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} ({})", self.location),
            None => write!(f, "{}", self.location),
        }
    }
}

/// When a rule is asked. Lower priorities come first; at the same one, deny before pass before allow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Before all others, by first match.
    Admin {
        /// Its place in the tier.
        priority: u32,
    },
    /// Deny beats allow.
    Normal,
    /// After all others, for sides that nothing isolates, by first match.
    Baseline {
        /// Its place in the tier.
        priority: u32,
    },
}

/// What a rule says. In the order in which rules of one priority are asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The flow does not pass.
    Deny,
    /// The tier has nothing to say. It means nothing in [`Tier::Normal`].
    Pass,
    /// The flow passes.
    Allow,
}

impl Action {
    /// The word in zone files, metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Pass => "pass",
            Self::Allow => "allow",
        }
    }
}

/// Whom a rule means.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Selector {
    /// Everyone, in zones or not.
    Any,
    /// Addresses in no zone that are not this host's.
    World,
    /// This host itself, where it is in no zone.
    Node,
    /// The members of a zone.
    Zone(Arc<str>),
}

impl Selector {
    /// The selector of this name: a built-in one or a zone.
    pub fn named(name: &str) -> Self {
        match name {
            "any" => Self::Any,
            "world" => Self::World,
            "node" => Self::Node,
            _ => Self::Zone(name.into()),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::World => "world",
            Self::Node => "node",
            Self::Zone(name) => name,
        })
    }
}

/// What a rule is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ports {
    /// Every protocol and port.
    All,
    /// These.
    Only(Vec<PortMatch>),
}

/// Ports of one protocol, both ends included. The port of ICMP is `type << 8 | code`; a protocol
/// without ports has port 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortMatch {
    /// The IP protocol.
    pub protocol: Protocol,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortMatch {
    /// Every port of a protocol.
    pub const fn whole(protocol: Protocol) -> Self {
        Self { protocol, first: 0, last: u16::MAX }
    }

    /// Whether the two have a port in common.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.protocol.0 == other.protocol.0 && self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PortName(*self).fmt(f)
    }
}

/// Which ends a rule speaks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sides {
    /// The opener's and the receiver's.
    #[default]
    Both,
    /// The opener's only.
    Egress,
    /// The receiver's only.
    Ingress,
}
