//! What a policy means, free of syntax: zones, rules, and the flows that are judged by them.
//!
//! The model is wider than the zone files: rules have a tier and a priority, so that other policy
//! languages compile to the same image. Zone files fill [`Tier::Normal`] only.
//!
//! # Meaning
//! - An endpoint is in the zones that name its cgroup (or a cgroup above it) and in those that hold its
//!   address. A peer that the proxy has verified is, instead, in the zones that know its name
//!   ([`Zone::knows`]). In no zone, it is `node` if the address is this host's own, else `virtual` if the address
//!   is declared so, else `world`.
//! - A flow has two sides: the opener's (egress) and the receiver's (ingress). The side of an endpoint
//!   in no zone is open. Otherwise the admin tier decides by first match; then any deny of the normal
//!   tier; then any allow; then a zone that both ends share; then isolation, if a zone of the side asks
//!   for it in that direction; then the baseline tier by first match; then the side is open.
//! - A denial counts as one only if the zones of that side that are in enforce mode deny by themselves;
//!   else it is an audit.
//! - How a flow is to be encrypted is what all allows of the normal tier that match it ask for together,
//!   those of either side: the highest level, under `require` what every one of them accepts, the highest
//!   floor; under `mutual` the proxies are left out only where all of them leave them out, and the
//!   shortest `max_age` counts.
//! - A virtual address is nobody's: who really receives is known only after translation. Where the guard
//!   sees what leaves the opener's namespace, a flow to one passes the socket layers, and the guard
//!   decides. Everywhere else, and as a source, a virtual address is `world`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bulkhead_abi::{Addr, Protocol};
use bulkhead_credentials::SpiffeId;
use serde::Serialize;

use crate::prefix::Prefix;

mod age;
mod rule;
mod tls;

pub use age::{BadAge, MaxAge};
pub use rule::{Action, PortMatch, Ports, Rule, RuleRef, Selector, Sides, Tier};
pub(crate) use tls::names as accepted_names;
pub use tls::{
    DemandName, DemandView, PROXY_PORTS, VERSIONED, VERSIONS, spoken_over, tls_name, words as accepted_words,
};

/// A policy: zones by name, rules by place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Model {
    zones: Vec<Arc<Zone>>,
    rules: Vec<Arc<Rule>>,
    virtuals: Arc<[Prefix]>,
}

impl Model {
    /// A model of these zones and rules. Zone names are taken to be distinct. A rule that names a zone
    /// which is not there matches nothing through it.
    pub fn new(mut zones: Vec<Arc<Zone>>, mut rules: Vec<Arc<Rule>>) -> Self {
        zones.sort_by(|a, b| a.name.cmp(&b.name));
        rules.sort_by(|a, b| a.location.cmp(&b.location));
        Self { zones, rules, virtuals: Arc::new([]) }
    }

    /// The same with these virtual addresses.
    pub fn with_virtuals(self, mut virtuals: Vec<Prefix>) -> Self {
        virtuals.sort_unstable();
        virtuals.dedup();
        Self { virtuals: virtuals.into(), ..self }
    }

    /// The zones, sorted by name.
    pub fn zones(&self) -> &[Arc<Zone>] {
        &self.zones
    }

    /// The rules, sorted by file and line.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The virtual addresses, sorted.
    pub const fn virtuals(&self) -> &Arc<[Prefix]> {
        &self.virtuals
    }

    /// The zone of this name.
    pub fn zone(&self, name: &str) -> Option<&Arc<Zone>> {
        let index = self.zones.binary_search_by(|zone| (*zone.name).cmp(name)).ok()?;
        self.zones.get(index)
    }
}

/// A named set of workloads and addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zone {
    /// Its name.
    pub name: Arc<str>,
    /// What it is, for people.
    pub description: Option<String>,
    /// Addresses in it.
    pub cidrs: Vec<Prefix>,
    /// Addresses taken out of it again.
    pub except: Vec<Prefix>,
    /// Cgroups in it, each with all below.
    pub cgroups: Vec<CgroupPattern>,
    /// Names of peers elsewhere that are in it, as their certificates show them.
    pub names: Vec<SpiffeId>,
    /// The name that its own workloads show; without one, [`Zone::default_name`].
    pub own_name: Option<SpiffeId>,
    /// Whether its denials are enforced.
    pub mode: Mode,
    /// What happens to flows towards it that no rule mentions.
    pub ingress: Posture,
    /// What happens to flows from it that no rule mentions.
    pub egress: Posture,
    /// Flows between its own members need a rule too.
    pub isolated: bool,
    /// Where it is written.
    pub location: Location,
}

impl Zone {
    /// An enforcing zone that is isolated in both directions and has no member.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            description: None,
            cidrs: Vec::new(),
            except: Vec::new(),
            cgroups: Vec::new(),
            names: Vec::new(),
            own_name: None,
            mode: Mode::Enforce,
            ingress: Posture::Isolate,
            egress: Posture::Isolate,
            isolated: false,
            location: Location::default(),
        }
    }

    /// The name that its workloads show under a trust domain unless the files say another one:
    /// `spiffe://TRUST-DOMAIN/ns/host/sa/ZONE`. `None` where the two make no name, which the names of zones
    /// in files never cause.
    pub fn default_name(&self, trust_domain: &str) -> Option<SpiffeId> {
        SpiffeId::new(trust_domain, DEFAULT_NAMESPACE, &self.name).ok()
    }

    /// The name that its workloads show.
    pub fn shown_name(&self, trust_domain: &str) -> Option<SpiffeId> {
        self.own_name.clone().or_else(|| self.default_name(trust_domain))
    }

    /// Whether who shows this name is in the zone: it is the name of its own workloads, or one of `names`.
    pub fn knows(&self, name: &SpiffeId, trust_domain: &str) -> bool {
        let is_default = || {
            let path = name.as_str().strip_prefix("spiffe://")?.strip_prefix(trust_domain)?;
            path.strip_prefix("/ns/")?.strip_prefix(DEFAULT_NAMESPACE)?.strip_prefix("/sa/")
        };
        let shown = match &self.own_name {
            Some(own) => own == name,
            None => is_default() == Some(&*self.name),
        };
        shown || self.names.contains(name)
    }
}

/// The namespace in names of workloads that are on a host and not in Kubernetes.
pub const DEFAULT_NAMESPACE: &str = "host";

/// Whether the denials of a zone are enforced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They are.
    #[default]
    Enforce,
    /// They are only reported.
    Audit,
}

/// What a zone does with flows of one direction that no rule mentions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Posture {
    /// They are denied.
    #[default]
    Isolate,
    /// They pass.
    Allow,
}

/// A pattern of cgroup paths below the cgroup root, such as `system.slice/nginx-*.service` or
/// `**/payload`. `*` stands for any text within a level, `**` for any number of levels, none included.
/// What it matches is in the zone with everything below.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CgroupPattern(Arc<str>);

impl CgroupPattern {
    /// A pattern, if `text` is one; else what is wrong with it.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.starts_with('/') {
            return Err(PatternError::Absolute);
        }
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        for level in text.split('/') {
            match level {
                "" => return Err(PatternError::EmptyLevel),
                "." | ".." => return Err(PatternError::Escaping),
                "**" => {}
                _ if level.contains("**") => return Err(PatternError::DoubleStar),
                _ => {}
            }
            if let Some(found) = level.chars().find(|c| "?[]{}".contains(*c)) {
                return Err(PatternError::Unsupported(found));
            }
        }
        Ok(Self(text.into()))
    }

    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is wrong with a cgroup pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatternError {
    /// It begins with a slash.
    #[error("a cgroup path is relative to the cgroup root")]
    Absolute,
    /// There is nothing in it.
    #[error("an empty cgroup path names nothing")]
    Empty,
    /// `a//b`, or a slash at the end.
    #[error("a cgroup path has an empty level")]
    EmptyLevel,
    /// `.` or `..`.
    #[error("a cgroup path must not contain `.` or `..`")]
    Escaping,
    /// `a**`.
    #[error("`**` stands for whole levels and must be a level of its own")]
    DoubleStar,
    /// A character that globs use elsewhere.
    #[error("`{0}` is not a wildcard here, and no cgroup is expected to carry it")]
    Unsupported(char),
}

/// Where something is written. Orders by file, then line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Location {
    /// The file's path, as it was given.
    pub file: Arc<str>,
    /// Line, from 1; 0 is nowhere.
    pub line: u32,
    /// Column in characters, from 1; 0 is nowhere.
    pub column: u32,
}

impl Default for Location {
    fn default() -> Self {
        Self { file: "".into(), line: 0, column: 0 }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What is true of this host at the moment, beside the policy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Cgroups by id, with their path below the cgroup root (no slash in front; the root is "").
    pub cgroups: BTreeMap<u64, String>,
    /// This host's own addresses. 127.0.0.0/8 and ::1 count always.
    pub node_addresses: BTreeSet<Addr>,
}

/// One end of a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its address.
    pub addr: Addr,
    /// Its cgroup's path below the cgroup root, where it is known.
    pub cgroup: Option<String>,
}

impl Endpoint {
    /// An end of which only the address is known.
    pub const fn at(addr: Addr) -> Self {
        Self { addr, cgroup: None }
    }
}

/// A flow to be judged: `from` opened it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Who opened it.
    pub from: Endpoint,
    /// Who receives it.
    pub to: Endpoint,
    /// Its IP protocol.
    pub protocol: Protocol,
    /// The receiver's port; of ICMP `type << 8 | code`; 0 for protocols without ports.
    pub port: u16,
    /// Whether it is asked for where the guard comes after: at the opener's end, in a namespace that is
    /// not the host's and that the guard sees everything leave. Only there may a flow to a virtual address
    /// be left to it.
    pub guarded: bool,
}
