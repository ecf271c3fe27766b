//! What two hops of mutual TLS cost: Bulkhead, beside a direct connection and beside nginx, HAProxy, stunnel
//! and Envoy, which are set up as two hops, too, with the same certificates ([`peers`]).
//!
//! Client, server and both hops are on one machine and share some processors ([`stage`]). Within a round
//! everybody takes a turn: is started, measured, and ended again. Every figure of a round is compared with
//! the same round's direct connection. Who is not here is named, with the reason; a load that fails is no
//! figure, and is told.

mod certificates;
mod chart;
mod load;
mod peers;
mod results;
mod stage;
mod subject;
mod table;
mod turn;
mod usage;

use anyhow::Result;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub(crate) use load::{End, end};

use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::output::Output;
use crate::place;
use results::{Note, Results, Samples};
use stage::Stage;
use subject::{Known, Subject};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds: each measures everybody once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of one measurement
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Only these, and the direct connection
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<Subject>,
    /// Processors that client, server and both hops share
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    cpus: Vec<usize>,
    #[command(flatten)]
    output: Output,
}

/// The command.
pub(crate) fn run(args: &Args) -> Result<()> {
    args.output.of(|| measure(args), table::text, chart::svg)
}

fn measure(args: &Args) -> Result<Results> {
    let interrupt = Interrupt::catch()?;
    place::keep_to(&args.cpus)?;
    allow_many_files();
    let wanted = |subject: &Subject| {
        args.only.is_empty() || *subject == Subject::Direct || args.only.contains(subject)
    };
    let subjects: Vec<Known> = Subject::ALL.into_iter().filter(wanted).map(Subject::known).collect();
    for known in &subjects {
        if let Some(why) = &known.unavailable {
            eprintln!("[bench] {} is left out: {why}", known.subject.name());
        }
    }
    let mut here: Vec<Subject> =
        subjects.iter().filter(|known| known.unavailable.is_none()).map(|known| known.subject).collect();
    let stage = Stage::new(args.cpus.len())?;
    let (mut samples, mut notes) = (Samples::default(), Vec::new());
    for round in 0..args.rounds {
        for subject in &here {
            interrupt.check()?;
            eprintln!("[bench] round {} of {}, {}", round + 1, args.rounds, subject.name());
            let turn = turn::Turn { stage: &stage, subject: *subject, round, seconds: args.seconds };
            let failures = turn.take(&interrupt, &mut samples)?;
            for what in failures {
                eprintln!("[bench] {}: {what}", subject.name());
                let note = Note { subject: *subject, what };
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
        // Who begins changes from round to round.
        here.rotate_left(1);
    }
    interrupt.check()?;
    let figures = samples.figures()?;
    Ok(Results {
        machine: Machine::here(),
        cpus: args.cpus.clone(),
        rounds: args.rounds,
        seconds: args.seconds,
        subjects,
        figures,
        notes,
    })
}

/// As a service would be allowed. What is started inherits it.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
