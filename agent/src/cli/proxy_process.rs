//! The hidden command that makes a process the proxy's keeper, or the proxy itself. The agent starts it;
//! nobody else has a reason to.

use super::{Result, Verdict};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Be the proxy, not its keeper
    #[arg(long)]
    serve: bool,
    /// Form of the log
    #[arg(long, value_enum, default_value_t)]
    log_format: crate::config::LogFormat,
    /// Level of the log
    #[arg(long, default_value = "info")]
    log_level: String,
}

impl Args {
    pub(super) fn run(self) -> Result<Verdict> {
        crate::log::init(self.log_format, &self.log_level)?;
        if self.serve {
            crate::proxy::child::serve()?;
        } else {
            let log = crate::proxy::keeper::Log { format: self.log_format, level: self.log_level };
            crate::proxy::keeper::keep(&log)?;
        }
        Ok(Verdict::Fine)
    }
}
