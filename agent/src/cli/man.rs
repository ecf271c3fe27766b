//! `bulkhead man`.

use std::path::PathBuf;

use anyhow::Context;

use super::{Result, Verdict};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write a page for each command into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> Result<Verdict> {
        match self.out {
            Some(folder) => {
                let write = || {
                    std::fs::create_dir_all(&folder)?;
                    clap_mangen::generate_to(super::command(), &folder)
                };
                write().with_context(|| format!("cannot write to {}", folder.display()))?;
            }
            None => {
                let mut text = Vec::new();
                clap_mangen::Man::new(super::command()).render(&mut text)?;
                super::print(&String::from_utf8_lossy(&text))?;
            }
        }
        Ok(Verdict::Fine)
    }
}
