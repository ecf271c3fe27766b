//! The numbers behind identities, classes, rulesets and rules.
//!
//! A number stands for the same content as long as the kernel's maps live: the agent keeps this value
//! beside them. What has no number gets the next one; no number is ever given out twice, also not after
//! [`Numbers::retain`] has forgotten what it meant.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use bulkhead_abi::Identity;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

use crate::image::Image;

/// The first 128 bits of a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 16]);

impl Digest {
    /// The digest of these parts, each of them delimited.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        Self::finish(hasher)
    }

    pub(crate) fn finish(hasher: Sha256) -> Self {
        let bytes: [u8; 32] = hasher.finalize().into();
        let mut short = [0; 16];
        for (to, from) in short.iter_mut().zip(bytes) {
            *to = from;
        }
        Self(short)
    }
}

/// No number is left of this kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("all numbers for {0} are used up: run `bulkhead detach` and start again, which begins a new count")]
pub struct Exhausted(pub &'static str);

/// Which number stands for what.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numbers {
    identities: Table,
    classes: Table,
    rulesets: Table,
    rules: Table,
}

impl Default for Numbers {
    fn default() -> Self {
        let from = |next| Table { next, given: HashMap::new() };
        Self { identities: from(Identity::FIRST), classes: from(2), rulesets: from(1), rules: from(1) }
    }
}

impl Numbers {
    /// The bits of a class number that an identity's state has room for.
    const CLASS_LIMIT: u32 = (1 << 30) - 1;

    pub(crate) fn identity(&mut self, set: Digest) -> Result<Identity, Exhausted> {
        self.identities.number(set, Identity::CLASS - 1).map(Identity).ok_or(Exhausted("identities"))
    }

    /// Classes 0 and 1 are the ones of [`Identity::WORLD`] and [`Identity::NODE`].
    pub(crate) fn class(&mut self, signature: Digest) -> Result<u32, Exhausted> {
        self.classes.number(signature, Self::CLASS_LIMIT).ok_or(Exhausted("identity classes"))
    }

    pub(crate) fn ruleset(&mut self, content: Digest) -> Result<u32, Exhausted> {
        self.rulesets.number(content, u32::MAX - 1).ok_or(Exhausted("rulesets"))
    }

    pub(crate) fn rule(&mut self, fingerprint: Digest) -> Result<u32, Exhausted> {
        self.rules.number(fingerprint, u32::MAX - 1).ok_or(Exhausted("rules"))
    }

    /// Forgets what none of these images uses, so that the table stays as small as they are. Numbers
    /// that were forgotten are not given out again.
    pub fn retain(&mut self, live: &[&Image]) {
        let any = |used: &dyn Fn(&Image) -> bool| live.iter().any(|image| used(image));
        self.identities.retain(|n| any(&|image| image.identities.contains_key(&Identity(n))));
        self.rulesets.retain(|n| any(&|image| image.rulesets.contains_key(&n)));
        self.rules.retain(|n| any(&|image| image.rules.contains_key(&n)));
        let classes: std::collections::HashSet<u32> = live
            .iter()
            .flat_map(|image| image.identities.values())
            .map(|state| state.class().0 & !Identity::CLASS)
            .collect();
        self.classes.retain(|n| classes.contains(&n));
    }

    /// How many numbers are in use, of every kind.
    pub fn len(&self) -> usize {
        [&self.identities, &self.classes, &self.rulesets, &self.rules].map(|t| t.given.len()).iter().sum()
    }

    /// Whether no number is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    next: u32,
    #[serde(serialize_with = "sorted")]
    given: HashMap<Digest, u32>,
}

impl Table {
    fn number(&mut self, digest: Digest, limit: u32) -> Option<u32> {
        if let Some(number) = self.given.get(&digest) {
            return Some(*number);
        }
        let number = self.next;
        if number > limit {
            return None;
        }
        self.next = number.checked_add(1)?;
        self.given.insert(digest, number);
        Some(number)
    }

    fn retain(&mut self, used: impl Fn(u32) -> bool) {
        self.given.retain(|_, number| used(*number));
    }
}

fn sorted<S: Serializer>(given: &HashMap<Digest, u32>, serializer: S) -> Result<S::Ok, S::Error> {
    given.iter().collect::<BTreeMap<_, _>>().serialize(serializer)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u128::from_str_radix(&text, 16) {
            Ok(bits) if text.len() == 32 => Ok(Self(bits.to_be_bytes())),
            _ => Err(de::Error::custom("a digest is 32 hexadecimal digits")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::of([&[n][..]])
    }

    #[test]
    fn a_forgotten_number_is_not_given_again() {
        let mut numbers = Numbers::default();
        let first = numbers.identity(digest(1)).unwrap();
        assert_eq!(first, Identity(Identity::FIRST));
        assert_eq!(numbers.identity(digest(1)), Ok(first));
        assert_eq!(numbers.len(), 1);
        numbers.retain(&[]);
        assert!(numbers.is_empty());
        assert_eq!(numbers.identity(digest(1)), Ok(Identity(Identity::FIRST + 1)));
    }

    #[test]
    fn numbers_survive_storage() {
        let mut numbers = Numbers::default();
        let rule = numbers.rule(digest(7)).unwrap();
        let text = serde_json::to_string(&numbers).unwrap();
        let mut back: Numbers = serde_json::from_str(&text).unwrap();
        assert_eq!(back, numbers);
        assert_eq!(back.rule(digest(7)), Ok(rule));
        assert_ne!(back.rule(digest(8)), Ok(rule));
        assert!(serde_json::from_str::<Numbers>("{}").is_err());
        assert!(serde_json::from_str::<Digest>("\"ff\"").is_err(), "too short to be one");
    }

    #[test]
    fn an_exhausted_count_is_an_error() {
        let mut table = Table { next: 5, given: HashMap::new() };
        assert_eq!(table.number(digest(1), 5), Some(5));
        assert_eq!(table.number(digest(2), 5), None);
        assert_eq!(table.number(digest(1), 5), Some(5));
    }

    #[test]
    fn parts_are_delimited() {
        assert_ne!(Digest::of([&b"ab"[..], b"c"]), Digest::of([&b"a"[..], b"bc"]));
    }
}
