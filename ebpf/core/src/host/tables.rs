//! The compiled policy, as lists and hash maps.

use std::{collections::HashMap, vec::Vec};

use bulkhead_abi::{
    Addr, Cell, Identity, IdentityState, PairKey, RuleKey,
    tables::{IdentityValue, PairValue, PrefixValue, UnionValue, WorkloadValue},
};

/// The tables of a policy. The `set_` methods write both versions of a value, as they are at rest.
#[derive(Clone, Default, Debug)]
pub struct Tables {
    /// Identities of prefixes: the address, how many of its bits count, the value.
    pub prefixes: Vec<(Addr, u32, PrefixValue)>,
    /// Identities of cgroups.
    pub workloads: HashMap<u64, WorkloadValue>,
    /// Unions.
    pub unions: HashMap<PairKey, UnionValue>,
    /// Identities.
    pub identities: HashMap<Identity, IdentityValue>,
    /// Pairs.
    pub pairs: HashMap<PairKey, PairValue>,
    /// Entries of rulesets by ruleset number: the key, how many of its bits count, the answer.
    pub rules: HashMap<u32, Vec<(RuleKey, u32, Cell)>>,
}

impl Tables {
    /// `addr`'s first `bits` bits mean `identity`.
    pub fn set_prefix(&mut self, addr: Addr, bits: u32, identity: Identity) {
        self.prefixes.push((addr, bits, PrefixValue { identity: [identity; 2] }));
    }

    /// The cgroup alone means `identity`.
    pub fn set_workload(&mut self, cgroup: u64, identity: Identity) {
        self.workloads.insert(cgroup, WorkloadValue { cgroup, identity: [identity; 2] });
    }

    /// A cgroup's and an address's identity together make `both`.
    pub fn set_union(&mut self, key: PairKey, both: Identity) {
        self.unions.insert(key, UnionValue { key, identity: both });
    }

    /// Class and mode.
    pub fn set_identity(&mut self, identity: Identity, state: IdentityState) {
        self.identities.insert(identity, IdentityValue { identity, state: [state; 2] });
    }

    /// The ruleset of a pair of identities or classes.
    pub fn set_pair(&mut self, key: PairKey, ruleset: u32) {
        self.pairs.insert(key, PairValue { key, ruleset: [ruleset; 2] });
    }

    /// An entry of a ruleset.
    pub fn add_rule(&mut self, key: RuleKey, bits: u32, cell: Cell) {
        self.rules.entry(u32::from_be_bytes(key.ruleset)).or_default().push((key, bits, cell));
    }

    pub(super) fn prefix(&self, addr: &Addr) -> Option<PrefixValue> {
        let wanted = u128::from_be_bytes(addr.octets());
        let holds = |(prefix, bits, _): &&(Addr, u32, PrefixValue)| {
            let differing = u128::from_be_bytes(prefix.octets()) ^ wanted;
            differing.leading_zeros() >= *bits
        };
        self.prefixes.iter().filter(holds).max_by_key(|(_, bits, _)| *bits).map(|(_, _, value)| *value)
    }

    pub(super) fn rule(&self, key: &RuleKey) -> Option<Cell> {
        let wanted = number(key);
        let entries = self.rules.get(&u32::from_be_bytes(key.ruleset))?;
        let holds =
            |(prefix, bits, _): &&(RuleKey, u32, Cell)| (number(prefix) ^ wanted).leading_zeros() >= *bits;
        entries.iter().filter(holds).max_by_key(|(_, bits, _)| *bits).map(|(_, _, cell)| *cell)
    }
}

fn number(key: &RuleKey) -> u64 {
    let [a, b, c, d] = key.ruleset;
    let [e, f] = key.port;
    u64::from_be_bytes([a, b, c, d, key.protocol, e, f, 0])
}
