//! `bulkhead-soak`: a long run in which nothing stays as it is. `cargo xtask soak` builds and starts it.
//!
//! Connections come and go as fast as they can (TCP and UDP, IPv4 and IPv6, allowed and denied) while two
//! policies that share hardly an entry take turns, workloads with their namespaces, wires and cgroups
//! appear and vanish, and the agent is killed every few seconds. Each attempt's outcome is known: what both
//! policies allow must pass and what both deny must not, at any moment; what they differ in is asked once
//! one of them is in force. In the last quarter the agent is left alive, so that its own memory can grow.
//!
//! Before and after, everything that could leak is counted: entries of every table, descriptors and memory
//! of the agent, programs and maps. The exit code says whether all came out as it should. Whatever happens,
//! what was made is removed by the values that made it; after SIGKILL by the next run.
//!
//! [`proxy`] is the same for the proxy: its own run, and a command of its own.

mod churn;
mod figures;
#[path = "../demo/interrupt.rs"]
mod interrupt;
mod lab;
mod load;
#[path = "../bench/machine.rs"]
#[allow(dead_code, reason = "the benchmark says it in short, too")]
mod machine;
mod policy;
#[path = "../bench/process.rs"]
mod process;
mod proxy;
mod witness;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::churn::Conductor;
use crate::figures::Figures;
use crate::interrupt::Interrupt;
use crate::lab::Lab;
use crate::load::Load;
use crate::machine::Machine;

#[derive(Parser)]
#[command(name = "cargo xtask soak", about = "A long run in which nothing stays as it is")]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// For so many minutes, and some for looking
    #[arg(long, default_value_t = 20, global = true)]
    minutes: u64,
}

#[derive(Subcommand)]
enum Command {
    /// Connections over mutual TLS between two nodes, and everything that may happen to them
    Proxy,
    /// What talks in that run
    #[command(hide = true)]
    ProxyClient(proxy::ends::client::Args),
    /// What answers in it
    #[command(hide = true)]
    ProxyServer(proxy::ends::server::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let came = match &args.command {
        None => run(&args),
        Some(Command::Proxy) => proxy::run(args.minutes),
        Some(Command::ProxyClient(args)) => proxy::ends::client::run(args).map(|()| true),
        Some(Command::ProxyServer(args)) => proxy::ends::server::run(args).map(|()| true),
    };
    match came {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything came out as it should.
fn run(args: &Args) -> Result<bool> {
    let interrupt = Interrupt::catch()?;
    let length = Duration::from_secs(60 * args.minutes);
    println!("soak: {} minutes on {}", args.minutes, Machine::here());
    let mut lab = Lab::new()?;
    let before = prepare(&mut lab, &interrupt)?;

    let load = Load::start(&lab);
    let started = Instant::now();
    let mut conductor = Conductor::new(started);
    let lived = conductor.run(&mut lab, &load, length, &interrupt)?;
    let counts = load.stop();
    println!("[{:5} s] the load has ended; idle flows are left to expire", started.elapsed().as_secs());
    let after = lab.at_rest(&interrupt)?;
    let whole = figures::compare(&before, &after, lived);
    let right = counts.report(&conductor);
    println!("{}", if whole && right { "soak: all as it should be" } else { "soak: NOT as it should be" });
    Ok(whole && right)
}

/// Goes once through everything that leaves something behind on purpose (numbers of zones, counters), and
/// takes the figures that the run must come back to.
fn prepare(lab: &mut Lab, interrupt: &Interrupt) -> Result<Figures> {
    Conductor::new(Instant::now()).rehearse(lab)?;
    println!("the rehearsal has ended; idle flows are left to expire");
    lab.at_rest(interrupt)
}
