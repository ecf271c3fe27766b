//! What Bulkhead costs, beside no firewall, connection tracking alone, and nftables with the same policy.
//!
//! Two network namespaces on one wire, real sockets at both ends ([`load`]). The variants take turns
//! within each round, and every figure of a round is compared with the same round's "no firewall": what
//! else happens on the machine meets all of them alike. The median of the rounds is what counts.

mod beside;
mod chart;
mod load;
mod policy;
mod programs;
mod reading;
mod results;
mod stage;
mod table;
mod traffic;

use std::path::PathBuf;

use anyhow::{Context, Result};

pub(crate) use load::{End, end};

use crate::output::Output;
use crate::process;
use results::Results;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Prefixes and rules of the policies
    #[arg(long, value_delimiter = ',', default_value = "10,1000,100000")]
    sizes: Vec<usize>,
    /// Rounds: each measures everything once
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Length of one measurement
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Only what it costs that first bytes are read
    #[arg(long)]
    reading: bool,
    /// Only these loads
    #[arg(long, value_delimiter = ',')]
    only: Vec<load::Load>,
    /// Only these kernel objects, beside no firewall and each other, with the first of the sizes
    #[arg(long, value_name = "OBJECT", num_args = 1..)]
    beside: Vec<PathBuf>,
    /// Only see whether it works: one short round
    #[arg(long)]
    quick: bool,
    /// Processors of the asking and of the serving end
    #[arg(long, value_delimiter = ',', default_value = "0,1", num_args = 1..=2)]
    cpus: Vec<usize>,
    #[command(flatten)]
    output: Output,
}

/// The command.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.beside.is_empty() {
        print!("{}", beside::measure(&plan(args), &args.beside)?);
        return Ok(());
    }
    args.output.of(|| measure(args), table::text, chart::svg)
}

fn plan(args: &Args) -> traffic::Plan {
    let (runs, seconds) = if args.quick { (1, 0.3) } else { (args.runs, args.seconds) };
    let cpus = match args.cpus.as_slice() {
        [one] => (*one, *one),
        [first, second, ..] => (*first, *second),
        [] => (0, 0),
    };
    let sizes = if args.reading { Vec::new() } else { args.sizes.clone() };
    traffic::Plan { sizes, runs, seconds, cpus, only: args.only.clone() }
}

fn measure(args: &Args) -> Result<Results> {
    let plan = plan(args);
    let mut stages = traffic::stages(&plan)?;
    let reading = if args.reading || args.only.is_empty() { reading::measure(&plan)? } else { Vec::new() };
    let (traffic, mut loads) = traffic::measure(&plan, &mut stages)?;
    let (mut sizes, mut by_hand, mut live) = (Vec::new(), Vec::new(), Vec::new());
    for (size, stage) in &mut stages {
        eprintln!("[bench] programs, {size} rules");
        live.extend(programs::live(*size, stage, &plan)?);
        let programs = programs::running(&stage.agent().pins())?;
        by_hand.extend(stage.at_client(|| programs::by_hand(*size, &programs, plan.runs.min(7)))??);
        sizes = programs.iter().map(programs::Program::size).collect();
        let pid = stage.agent().pid().context("the agent is gone")?;
        if let Some(load) =
            loads.iter_mut().find(|load| load.size == *size && load.variant == stage::Variant::Bulkhead)
        {
            load.agent_kib = process::memory(pid, "VmRSS:")?;
            load.maps_kib = process::map_memory(pid)?.0;
        }
        stage.switch(stage::Variant::None)?;
    }
    let machine = crate::machine::Machine::here();
    let (runs, seconds) = (plan.runs, plan.seconds);
    Ok(Results { machine, runs, seconds, traffic, reading, loads, programs: sizes, by_hand, live })
}
