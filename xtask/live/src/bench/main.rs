//! `bulkhead-bench`: what a real agent costs. `cargo xtask bench` builds it and starts it.
//!
//! `reload`: the time from saving a file with one changed rule to the kernel enforcing it, seen from
//! outside (a file is renamed into place, then the generation is read from the pinned map until it
//! moves), at two sizes; with the time of the first load, and the memory of the daemon and of the maps.

mod policy;
mod reload;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::report::Report;

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Measure a real agent")]
struct Args {
    /// What is measured
    what: What,
    /// Print the figures as one JSON object
    #[arg(long)]
    json: bool,
    /// Changes that are timed at each size
    #[arg(long, default_value_t = 25)]
    changes: usize,
    /// Folder of the shop's zone files
    #[arg(long, value_name = "DIR", default_value = "policies/shop", hide = true)]
    policies: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// From saving a zone file to the kernel enforcing it
    Reload,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let What::Reload = args.what;
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let mut sizes = Vec::new();
    for subject in [policy::shop(&args.policies)?, policy::large()] {
        eprintln!("[bench] {}: {} changes", subject.name, args.changes);
        sizes.push(reload::measure(&subject, args.changes)?);
    }
    let report = Report::new(sizes);
    println!("{}", if args.json { serde_json::to_string(&report)? } else { report.text() });
    Ok(())
}
