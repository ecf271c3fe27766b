//! `bulkhead-bench`: what a real agent costs. `cargo xtask bench` builds it and starts it.
//!
//! * `reload`: the time from saving a file with one changed rule to the kernel enforcing it, seen from
//!   outside (a file is renamed into place, then the generation is read from the pinned map until it
//!   moves), at two sizes; with the time of the first load, and the memory of the daemon and of the maps.
//! * `datapath`: what a packet, a connection, a request cost beside no firewall, connection tracking
//!   alone, and nftables with the same policy; see [`datapath`].
//! * `proxy`: what two hops of mutual TLS cost, beside a direct connection and other proxies; see [`proxy`].

mod datapath;
#[path = "../demo/interrupt.rs"]
mod interrupt;
mod machine;
mod output;
mod picture;
mod place;
mod policy;
mod process;
mod proxy;
mod reload;
mod report;
mod spread;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::report::Report;

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Measure a real agent")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// From saving a zone file to the kernel enforcing it
    Reload(Reload),
    /// Packets, connections and requests, beside no firewall and nftables
    Datapath(datapath::Args),
    /// Connections over mutual TLS, beside none and other proxies
    Proxy(proxy::Args),
    /// One end of a measurement
    #[command(hide = true)]
    End(datapath::End),
    /// One end of a measurement of proxies
    #[command(hide = true)]
    ProxyEnd(proxy::End),
}

#[derive(Args)]
struct Reload {
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

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Reload(args) => reload(&args),
        Command::Datapath(args) => datapath::run(&args),
        Command::Proxy(args) => proxy::run(&args),
        Command::End(end) => datapath::end(&end),
        Command::ProxyEnd(end) => proxy::end(&end),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn reload(args: &Reload) -> anyhow::Result<()> {
    let mut sizes = Vec::new();
    for subject in [policy::shop(&args.policies)?, policy::large()] {
        eprintln!("[bench] {}: {} changes", subject.name, args.changes);
        sizes.push(reload::measure(&subject, args.changes)?);
    }
    let report = Report::new(sizes);
    println!("{}", if args.json { serde_json::to_string(&report)? } else { report.text() });
    Ok(())
}
