//! `cargo xtask`: everything that is done to this repository, in one place and in Rust.
//!
//! Every command first looks whether what it needs is there (a few milliseconds when it is) and
//! calls [`setup`] when something is missing, so a fresh machine needs no other first step.
//! A command fails with a text that says what to do next, and never half-succeeds in silence.

mod bench;
mod build;
mod clean;
mod compiler;
mod corpus;
mod demo;
mod fuzz;
mod kernel_tools;
mod linker;
mod lint;
mod packages;
mod process;
mod progress;
mod python;
mod rules;
mod setup;
mod soak;
mod test;
mod vm;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, test and check Bulkhead", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make this machine ready: a compiler and a linker for the kernel half, and Debian packages
    Setup,
    /// Build the kernel programs, then the agent that carries them
    Build {
        /// Build the agent with optimisations (the kernel programs always are)
        #[arg(long)]
        release: bool,
        /// Stop after the kernel programs and print the path of the object
        #[arg(long)]
        kernel_only: bool,
        /// Another kernel crate than `ebpf`, for trying the tool chain
        #[arg(long, value_name = "DIR")]
        kernel_crate: Option<PathBuf>,
    },
    /// Build everything and run all tests (root is needed for those that touch the kernel)
    #[command(args_conflicts_with_subcommands = true)]
    Test {
        #[command(subcommand)]
        elsewhere: Option<Elsewhere>,
        /// Handed to `cargo test` after `--workspace`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Build everything and play a small shop on real sockets: what passes, what is denied, and why
    Demo {
        /// Leave it running at the end, to play with
        #[arg(long, conflicts_with = "clean")]
        keep: bool,
        /// Remove what --keep left running, or what a killed run left behind
        #[arg(long)]
        clean: bool,
    },
    /// Measure a real agent, built with optimisations: `bench reload`, `bench datapath`, `bench proxy`
    Bench {
        /// What is measured, and its options; `bench proxy --help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Let connections, policies, workloads and agents come and go for a long time, and look for leaks
    /// and wrong verdicts; `soak proxy` does it with mutual TLS and looks for lost bytes
    Soak {
        /// What is let run, and its options; `soak --help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Record again how real programs begin to talk, for tests of what is encrypted and what is not
    Corpus {
        /// Scenarios of tests/corpus/scenarios.toml, by the beginning of their names; all of them
        #[arg(value_name = "NAME")]
        scenarios: Vec<String>,
    },
    /// Throw mutated openings at everything that reads what strangers send
    Fuzz {
        /// For so many minutes
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// Another seed, another run
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Check format, lints, licences, dependencies, and the rules for source files
    Lint {
        /// Also ask the advisory database, which must be fetched from the network
        #[arg(long)]
        advisories: bool,
    },
    /// Remove what was built, the kernel half and the tools included
    Clean,
}

/// Where else tests are run.
#[derive(Subcommand)]
enum Elsewhere {
    /// The kernel tests on Debian 12's own kernel, in an emulated machine: takes minutes
    Vm(vm::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    match cli.command {
        Command::Setup => setup::run(&workspace),
        Command::Build { release, kernel_only, kernel_crate } => {
            build::run(&workspace, &build::Options { release, kernel_only, kernel_crate })
        }
        Command::Test { elsewhere: Some(Elsewhere::Vm(options)), .. } => vm::run(&workspace, &options),
        Command::Test { elsewhere: None, args } => test::run(&workspace, &args),
        Command::Demo { keep, clean } => demo::run(&workspace, &demo::Options { keep, clean }),
        Command::Bench { args } => bench::run(&workspace, &args),
        Command::Soak { args } => soak::run(&workspace, &args),
        Command::Corpus { scenarios } => corpus::run(&workspace, &scenarios),
        Command::Fuzz { minutes, seed } => fuzz::run(&workspace, minutes, seed),
        Command::Lint { advisories } => lint::run(&workspace, advisories),
        Command::Clean => clean::run(&workspace),
    }
}
