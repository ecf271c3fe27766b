//! Names of identities, also of those that the present policy no longer has: counters and live flows
//! carry them for as long as the kernel's maps live.

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_abi::Identity;
use bulkhead_policy::Image;
use serde::{Deserialize, Serialize};

/// Names that are remembered; beyond it, those that no policy uses are forgotten.
const MOST: usize = 1 << 16;

/// Identity → zones joined by `+`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<u32, Arc<str>>);

impl Labels {
    /// Takes in the names of `image`; whether one was new.
    pub fn learn(&mut self, image: &Image) -> bool {
        let before = self.0.len();
        for identity in image.zones.keys() {
            self.0.entry(identity.0).or_insert_with(|| image.label(*identity).into());
        }
        if self.0.len() > MOST {
            self.0.retain(|number, _| image.zones.contains_key(&Identity(*number)));
        }
        self.0.len() != before
    }

    /// The name of an identity: fit for a metric label.
    pub fn get(&self, identity: Identity) -> Arc<str> {
        match identity {
            Identity::WORLD => "world".into(),
            Identity::NODE => "node".into(),
            Identity::VIRTUAL => "virtual".into(),
            Identity(number) => self.0.get(&number).cloned().unwrap_or_else(|| "unknown".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(identity: u32, zones: &[&str]) -> Image {
        let zones = zones.iter().map(|zone| Arc::from(*zone)).collect();
        Image { zones: [(Identity(identity), zones)].into(), ..Image::default() }
    }

    #[test]
    fn names_outlive_their_policy() {
        let mut labels = Labels::default();
        assert!(labels.learn(&image(16, &["web"])));
        assert!(labels.learn(&image(17, &["api", "db"])));
        assert!(!labels.learn(&image(17, &["api", "db"])));
        assert_eq!(&*labels.get(Identity(16)), "web");
        assert_eq!(&*labels.get(Identity(17)), "api+db");
        assert_eq!(&*labels.get(Identity(18)), "unknown");
        assert_eq!(&*labels.get(Identity::WORLD), "world");
        assert_eq!(&*labels.get(Identity::NODE), "node");
        assert_eq!(&*labels.get(Identity::VIRTUAL), "virtual");
    }
}
