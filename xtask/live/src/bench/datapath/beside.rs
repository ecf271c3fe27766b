//! Kernel objects beside each other: what a change of the programs costs or saves.
//!
//! The objects take turns within a round with no firewall, under one policy and one agent. Each load runs
//! [`TIMES`] times in a turn, and the best of them counts: what else happens on the machine only ever slows it
//! down. At the end each object's programs are timed by the kernel.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::load::Load;
use super::policy::Policy;
use super::programs;
use super::stage::{Stage, Variant};
use super::traffic::{Plan, STEPS, values};
use crate::spread::Spread;

/// How often a load runs in one turn.
const TIMES: usize = 3;

/// The table, as text.
pub(super) fn measure(plan: &Plan, objects: &[PathBuf]) -> Result<String> {
    let size = plan.sizes.first().copied().unwrap_or(10);
    let mut stage = Stage::new(Policy::new(size), plan.cpus)?;
    let steps = plan.wanted(&STEPS);
    // By load, then by turn; turn 0 is no firewall.
    let mut samples = vec![vec![Vec::new(); objects.len() + 1]; steps.len()];
    for round in 0..plan.runs {
        eprintln!("[bench] round {} of {}", round + 1, plan.runs);
        for turn in 0..=objects.len() {
            // Who begins changes from round to round.
            let turn = (turn + round) % (objects.len() + 1);
            match turn.checked_sub(1).and_then(|at| objects.get(at)) {
                None => drop(stage.switch(Variant::None)?),
                Some(object) => {
                    stage.switch(Variant::None)?;
                    stage.load_object(object);
                    stage.switch(Variant::Bulkhead)?;
                }
            }
            for ((load, place), samples) in steps.iter().zip(&mut samples) {
                let mut best = 0.0;
                for _ in 0..TIMES {
                    let outcome = stage.run(*load, *place, plan.time())?;
                    let (_, value) = *values(*load, &outcome).first().context("a load without a measure")?;
                    let speed = if is_cost(*load) { 1.0 / value } else { value };
                    best = f64::max(best, speed);
                }
                samples.get_mut(turn).context("a turn too many")?.push(best);
            }
        }
        stage.switch(Variant::None)?;
    }
    let mut text = String::new();
    for ((load, _), samples) in steps.iter().zip(&samples) {
        let Some((none, others)) = samples.split_first() else { continue };
        let _ = writeln!(text, "{load:?}");
        line(&mut text, "none", none, none)?;
        for (object, values) in objects.iter().zip(others) {
            line(&mut text, &object.display().to_string(), values, none)?;
        }
    }
    for object in objects {
        stage.load_object(object);
        let _ = writeln!(text, "{}, live: ns/run, runs and ns for each thing done", object.display());
        for run in programs::live(size, &mut stage, plan)? {
            let (load, each) = (format!("{:?}", run.load), run.nanos * run.runs);
            let _ = writeln!(
                text,
                "    {load:<16}{:<14}{:>8.0}{:>8.2}{each:>8.0}",
                run.program, run.nanos, run.runs
            );
        }
        stage.switch(Variant::None)?;
    }
    Ok(text)
}

/// Whether less is better.
fn is_cost(load: Load) -> bool {
    matches!(load, Load::Flood | Load::FloodArriving)
}

fn line(text: &mut String, name: &str, values: &[f64], none: &[f64]) -> Result<()> {
    let ratios = Spread::new(values.iter().zip(none).map(|(value, none)| value / none).collect())?;
    let best = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    writeln!(
        text,
        "    {name:<48}{:>10.0}  best {:>10.0}; of none: {:.3} ({:.2}-{:.2}), best {:.3}",
        Spread::new(values.to_vec())?.median,
        best(values),
        ratios.median,
        ratios.min,
        ratios.max,
        best(values) / best(none)
    )?;
    Ok(())
}
