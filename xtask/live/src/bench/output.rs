//! Where a benchmark's figures go: to the terminal, to files, and from a file back.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[derive(clap::Args)]
pub(crate) struct Output {
    /// Also write the figures to a file as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the chart
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measure nothing: read the figures that --json wrote
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

impl Output {
    /// Measures, or reads, and shows.
    pub(crate) fn of<R: Serialize + DeserializeOwned>(
        &self,
        measure: impl FnOnce() -> Result<R>,
        text: impl FnOnce(&R) -> String,
        chart: impl FnOnce(&R) -> String,
    ) -> Result<()> {
        let results = match &self.from {
            Some(path) => {
                let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                serde_json::from_slice(&text)?
            }
            None => measure()?,
        };
        println!("{}", text(&results));
        if let Some(path) = &self.json {
            write(path, &(serde_json::to_string_pretty(&results)? + "\n"))?;
        }
        if let Some(path) = &self.svg {
            write(path, &chart(&results))?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
