//! How flows are to be encrypted, in words.

use std::fmt;

use bulkhead_abi::{Accept, Demand, Protocol, Tls};
use serde::{Deserialize, Serialize};

/// TLS versions that a floor can name, with their minor number on the wire.
pub const VERSIONS: [(&str, u8); 4] = [("1.0", 1), ("1.1", 2), ("1.2", 3), ("1.3", 4)];

/// What `tls = { require = "1.2" }` accepts: what has a TLS version that a floor can speak of. TLS itself,
/// also after PostgreSQL's request for it, and QUIC, whose handshake is TLS 1.3.
pub const VERSIONED: Accept = Accept(Accept::TLS.0 | Accept::POSTGRESQL.0 | Accept::QUIC.0);

/// Ports that the proxies have for themselves, so that no program is reached on them through a proxy:
/// capture (15001 and, in ambient meshes, 15006) and HBONE (15008).
pub const PROXY_PORTS: [u16; 3] = [15001, 15006, 15008];

/// The word for a TLS level in zone files and on the command line.
pub const fn tls_name(tls: Tls) -> &'static str {
    match tls {
        Tls::Off => "off",
        Tls::Report => "report",
        Tls::Require => "require",
        Tls::Mutual => "mutual",
        Tls::Terminate => "terminate",
        Tls::Originate => "originate",
    }
}

/// What of all that can be accepted is spoken over a protocol; `None` where no bytes are looked at.
pub const fn spoken_over(protocol: Protocol) -> Option<Accept> {
    const DATAGRAMS: u16 = Accept::QUIC.0 | Accept::DTLS.0 | Accept::WIREGUARD.0 | Accept::IPSEC.0;
    match protocol {
        Protocol::TCP => Some(Accept(!(DATAGRAMS | Accept::UNKNOWN.0))),
        Protocol::UDP => Some(Accept(DATAGRAMS)),
        Protocol::ESP => Some(Accept::IPSEC),
        _ => None,
    }
}

/// A demand in one line, as a rule's text has it: `require`, `require 1.2`,
/// `require tls,starttls/smtp floor 1.2 unknown allow`, `mutual local attest`. Different demands read
/// differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DemandName(pub Demand);

impl fmt::Display for DemandName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Demand { level, accept, floor } = self.0;
        f.write_str(tls_name(level))?;
        let known = Accept(accept.0 & !Accept::UNKNOWN.0);
        let version = version_name(floor);
        match (level, version) {
            (Tls::Require, None) if known == Accept::ENCRYPTED => {}
            (Tls::Require, Some(version)) if known == VERSIONED => write!(f, " {version}")?,
            (Tls::Require, _) => {
                write!(f, " {}", names(known))?;
                if let Some(version) = version {
                    write!(f, " floor {version}")?;
                }
            }
            (Tls::Mutual, _) if self.0.is_attested() => write!(f, " local {}", local_name(self.0))?,
            _ => {}
        }
        if accept.contains(Accept::UNKNOWN) { f.write_str(" unknown allow") } else { Ok(()) }
    }
}

/// A demand, part by part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DemandView {
    /// The level: `off`, `report`, `require`, …
    pub level: String,
    /// What is accepted, by its words in zone files; empty below `require`.
    pub accepts: Vec<String>,
    /// The lowest TLS version, if there is one.
    pub floor: Option<String>,
    /// Under `require`, what becomes of a flow of which nobody can tell: `allow` or `deny`.
    pub unknown: Option<String>,
    /// Under `mutual`, what becomes of a flow that stays on the node: `tls` or `attest`.
    pub local: Option<String>,
}

impl DemandView {
    /// Whether nothing is asked for.
    pub fn is_off(&self) -> bool {
        self.level == tls_name(Tls::Off)
    }
}

impl From<Demand> for DemandView {
    fn from(demand: Demand) -> Self {
        let Demand { level, accept, floor } = demand;
        let unknown = if accept.contains(Accept::UNKNOWN) { "allow" } else { "deny" };
        Self {
            level: tls_name(level).to_owned(),
            accepts: words(accept).map(str::to_owned).collect(),
            floor: version_name(floor).filter(|_| level == Tls::Require).map(str::to_owned),
            unknown: (level == Tls::Require).then(|| unknown.to_owned()),
            local: (level == Tls::Mutual).then(|| local_name(demand).to_owned()),
        }
    }
}

/// `require (accepts tls, quic; TLS 1.2 or later; unknown: deny)`, `mutual (local: tls)`.
impl fmt::Display for DemandView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.level)?;
        if let Some(local) = &self.local {
            write!(f, " (local: {local})")?;
        }
        let Some(unknown) = &self.unknown else { return Ok(()) };
        let accepts = if self.accepts.is_empty() { "nothing".into() } else { self.accepts.join(", ") };
        write!(f, " (accepts {accepts}")?;
        if let Some(floor) = &self.floor {
            write!(f, "; TLS {floor} or later")?;
        }
        write!(f, "; unknown: {unknown})")
    }
}

/// The word for what becomes of a flow under `mutual` that stays on the node.
pub(crate) const fn local_name(demand: Demand) -> &'static str {
    if demand.is_attested() { "attest" } else { "tls" }
}

/// What is accepted, by its words in zone files; what is unknown has none.
pub fn words(accept: Accept) -> impl Iterator<Item = &'static str> {
    Accept::WORDS.into_iter().filter(move |(class, _)| accept.contains(*class)).map(|(_, word)| word)
}

/// The words joined by commas, or `nothing`.
pub(crate) fn names(accept: Accept) -> String {
    match words(accept).collect::<Vec<_>>() {
        words if words.is_empty() => "nothing".into(),
        words => words.join(","),
    }
}

fn version_name(floor: u8) -> Option<&'static str> {
    VERSIONS.iter().find(|(_, minor)| *minor == floor).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn different_demands_read_differently() {
        let mut names = BTreeSet::new();
        let mut demands = BTreeSet::from([Demand::OFF, Demand { level: Tls::Report, ..Demand::OFF }]);
        demands.extend([0, Demand::ATTEST].map(|floor| Demand { floor, ..Demand::MUTUAL }));
        for accept in 0..=u16::MAX {
            for floor in [0, 1, 4] {
                demands.insert(Demand { level: Tls::Require, accept: Accept(accept), floor });
            }
        }
        for demand in &demands {
            assert!(names.insert(DemandName(*demand).to_string()), "{}", DemandName(*demand));
        }
        assert!(names.contains("require") && names.contains("require 1.0 unknown allow"));
    }

    #[test]
    fn everything_that_is_accepted_is_spoken_over_something() {
        let all = [Protocol::TCP, Protocol::UDP].into_iter().filter_map(spoken_over);
        let all = all.fold(Accept::UNKNOWN, Accept::or);
        assert_eq!(all, Accept(u16::MAX));
        assert_eq!(spoken_over(Protocol::ICMP), None);
    }
}
