//! An image as text, and as one number.

use std::fmt;

use bulkhead_abi::{Cell, Demand, Identity, PairKey, RuleKey};
use sha2::{Digest as _, Sha256};

use super::{Image, Ruleset};
use crate::model::{DemandName, PortMatch};
use crate::numbers::Digest;

impl Image {
    /// A number for what the kernel would hold. Where rules stand in their files does not count.
    pub fn hash(&self) -> Digest {
        let mut hasher = Sha256::new();
        let mut words = |words: &[u32]| words.iter().for_each(|word| hasher.update(word.to_be_bytes()));
        words(&[1, len(self.prefixes.len())]);
        for (prefix, identity) in self.prefixes.iter() {
            let bits = prefix.addr.octets();
            let word = |at: usize| {
                bits.iter().skip(at).take(4).fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            };
            words(&[word(0), word(4), word(8), word(12), u32::from(prefix.len), identity.0]);
        }
        words(&[2, len(self.workloads.len())]);
        for (cgroup, identity) in &self.workloads {
            words(&[(cgroup >> 32) as u32, *cgroup as u32, identity.0]);
        }
        words(&[3, len(self.unions.len())]);
        for (key, identity) in &self.unions {
            words(&[key.from.0, key.to.0, identity.0]);
        }
        words(&[4, len(self.identities.len())]);
        for (identity, state) in &self.identities {
            words(&[identity.0, state.0]);
        }
        words(&[5, len(self.pairs.len())]);
        for (key, ruleset) in &self.pairs {
            words(&[key.from.0, key.to.0, *ruleset]);
        }
        words(&[6, len(self.rulesets.len())]);
        for (number, ruleset) in &self.rulesets {
            words(&[*number, len(ruleset.entries().len())]);
            for entry in ruleset.entries() {
                words(&[entry.bits, u32::from(entry.protocol.0) << 16 | u32::from(entry.port)]);
                words(&cell_words(&entry.cell));
            }
        }
        words(&[7, len(self.rules.len())]);
        for (number, rule) in &self.rules {
            words(&[*number, len(rule.label().len())]);
        }
        for rule in self.rules.values() {
            hasher.update(rule.label());
        }
        for zone in self.zones.values().flat_map(|zones| zones.iter()) {
            hasher.update(zone.as_bytes());
            hasher.update(b"+");
        }
        Digest::finish(hasher)
    }
}

fn len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// All that a cell says, as words.
pub(crate) fn cell_words(cell: &Cell) -> [u32; 4] {
    let (egress, ingress) = (cell.egress(), cell.ingress());
    let codes = [egress.verdict as u8, egress.reason as u8, ingress.verdict as u8, ingress.reason as u8];
    let Demand { level, accept, floor } = cell.demand();
    let demand = u32::from(accept.0) << 16 | u32::from(floor) << 8 | u32::from(level as u8);
    [u32::from_be_bytes(codes), demand, egress.rule, ingress.rule]
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "image {}", self.hash())?;
        writeln!(f, "identities")?;
        for (identity, state) in &self.identities {
            let class = state.class().0 & !Identity::CLASS;
            let mode = if state.is_enforcing() { "" } else { " not enforcing" };
            writeln!(f, "  {} {} class {class}{mode}", identity.0, self.label(*identity))?;
        }
        writeln!(f, "prefixes")?;
        for (prefix, identity) in self.prefixes.iter() {
            writeln!(f, "  {prefix} {}", self.label(*identity))?;
        }
        writeln!(f, "workloads")?;
        for (cgroup, identity) in &self.workloads {
            writeln!(f, "  {cgroup} {}", self.label(*identity))?;
        }
        writeln!(f, "unions")?;
        for (key, identity) in &self.unions {
            let (by_cgroup, by_addr) = (self.label(key.from), self.label(key.to));
            writeln!(f, "  {by_cgroup} and {by_addr} is {}", self.label(*identity))?;
        }
        writeln!(f, "pairs")?;
        for (key, ruleset) in &self.pairs {
            writeln!(f, "  {} ruleset {ruleset}", self.pair_label(key))?;
        }
        for (number, ruleset) in &self.rulesets {
            writeln!(f, "ruleset {number}")?;
            write_ruleset(f, ruleset)?;
        }
        writeln!(f, "rules")?;
        for (number, rule) in &self.rules {
            match &rule.name {
                Some(name) => writeln!(f, "  {number} {} ({name}: {})", rule.location, rule.text)?,
                None => writeln!(f, "  {number} {} ({})", rule.location, rule.text)?,
            }
        }
        Ok(())
    }
}

impl Image {
    fn pair_label(&self, key: &PairKey) -> String {
        let end = |identity: Identity| match identity.0 & Identity::CLASS {
            0 => self.label(identity),
            _ => format!("class {}", identity.0 & !Identity::CLASS),
        };
        format!("{} to {}", end(key.from), end(key.to))
    }
}

fn write_ruleset(f: &mut fmt::Formatter<'_>, ruleset: &Ruleset) -> fmt::Result {
    for entry in ruleset.entries() {
        let what = if entry.bits < RuleKey::PROTOCOL_BITS {
            "all".to_string()
        } else {
            let free = RuleKey::PORT_BITS.saturating_sub(entry.bits);
            let last = entry.port | !u16::MAX.checked_shl(free).unwrap_or(0);
            PortMatch { protocol: entry.protocol, first: entry.port, last }.to_string()
        };
        write!(f, "  {what}")?;
        for (side, answer) in [("egress", entry.cell.egress()), ("ingress", entry.cell.ingress())] {
            write!(f, ", {side} {} ({}", answer.verdict.as_str(), answer.reason.as_str())?;
            match answer.rule {
                0 => f.write_str(")")?,
                rule => write!(f, " {rule})")?,
            }
        }
        match entry.cell.demand() {
            Demand::OFF => writeln!(f)?,
            demand => writeln!(f, ", tls {}", DemandName(demand))?,
        }
    }
    Ok(())
}
