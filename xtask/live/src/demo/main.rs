//! `bulkhead-demo`: a small shop in network namespaces, guarded by real agents, as a story that is
//! checked line by line. `cargo xtask demo` builds and starts it.
//!
//! Every claim that is printed is measured on real sockets, and the exit code says whether all of them
//! came out as expected. Whatever happens (a failure, a panic, SIGINT, SIGTERM, SIGHUP), everything that
//! was made is removed by the values that made it; after SIGKILL the next run removes it, or `--clean`.

mod attempt;
mod interrupt;
mod keep;
mod lines;
mod network;
mod print;
mod shop;
mod story;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::interrupt::Interrupt;

#[derive(Parser)]
#[command(name = "cargo xtask demo", about = "A small shop, guarded: what passes, what is denied, and why")]
struct Args {
    /// Leave it running at the end, to play with
    #[arg(long, conflicts_with_all = ["clean", "hold"])]
    keep: bool,
    /// Remove what --keep left running, or what a killed run left behind
    #[arg(long, conflicts_with = "hold")]
    clean: bool,
    /// Folder of the shop's zone files
    #[arg(long, value_name = "DIR", default_value = "policies/shop", hide = true)]
    policies: PathBuf,
    /// Play, then wait for the end: the half of --keep that stays
    #[arg(long, hide = true)]
    hold: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything came out as expected.
fn run(args: &Args) -> anyhow::Result<bool> {
    if args.clean {
        return keep::clean();
    }
    let interrupt = Interrupt::catch()?;
    if args.keep {
        return keep::start(&args.policies, &interrupt);
    }
    if args.hold {
        return keep::hold(&args.policies, &interrupt);
    }
    Ok(story::play(&args.policies, &interrupt)?.1)
}
