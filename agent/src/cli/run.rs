//! `bulkhead run`.

use super::{Result, Verdict};
use crate::config::{Config, Flags, Selection};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    flags: Flags,
}

impl Args {
    pub(super) fn run(self, selection: &Selection) -> Result<Verdict> {
        let config = Config::load(selection, &self.flags)?;
        crate::log::init(config.log_format, &config.log_level)?;
        crate::daemon::run(config)?;
        Ok(Verdict::Fine)
    }
}
