//! `bulkhead completions`.

use clap_complete::Shell;

use super::{Result, Verdict};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Args {
    pub(super) fn run(self) -> Result<Verdict> {
        // Written in one piece: the generator does not expect a pipe that closes.
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "bulkhead", &mut text);
        super::print(&String::from_utf8_lossy(&text))?;
        Ok(Verdict::Fine)
    }
}
