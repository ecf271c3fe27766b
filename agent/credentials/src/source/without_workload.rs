//! In place of the Workload API's source, in a build without it: says so.

use std::path::PathBuf;

use super::Look;
use crate::name::SpiffeId;

/// See the module.
#[derive(Debug)]
pub(super) struct Source {
    told: bool,
}

impl Source {
    pub(super) fn new(_: PathBuf, _: String) -> Self {
        Self { told: false }
    }

    pub(super) fn retry(&mut self, _: &SpiffeId) {}

    pub(super) fn look(&mut self) -> Option<Look> {
        let first = !std::mem::replace(&mut self.told, true);
        let text = "this build cannot speak to a Workload API: build with the feature `workload-api`";
        first.then(|| Look { troubles: Some(vec![text.to_owned()]), ..Look::default() })
    }
}
