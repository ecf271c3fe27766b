//! The command line.
//!
//! Exit codes: 0 all is well; 1 there are findings or it failed; 2 the command line was not understood.
//! What is asked for goes to standard output, everything else to standard error.

mod ca;
mod check;
mod classify;
mod completions;
mod detach;
mod explain;
mod findings;
mod flows;
mod inventory;
mod man;
mod proxy;
mod proxy_process;
mod run;
mod status;
mod table;
mod test;
mod zones;

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::{Config, Flags, Selection};
use crate::control::Client;
use crate::instance::Instance;

/// Divides a Linux node into watertight network zones
#[derive(Debug, Parser)]
#[command(
    name = "bulkhead",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 all is well, 1 findings or failure, 2 wrong usage."
)]
struct Cli {
    #[command(flatten)]
    selection: Selection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: load the policy, enforce it, keep the kernel true to it
    Run(Box<run::Args>),
    /// Check zone files without root and without touching the kernel
    Check(check::Args),
    /// Say what the flows of capture files are: encrypted or in clear, how well, and with what
    Classify(classify::Args),
    /// Say whether a flow passes, by which rule, and whether the kernel agrees
    Explain(explain::Args),
    /// Show how the agent and the kernel are
    Status(status::Args),
    /// Test a policy against expectations kept beside it
    Test(test::Args),
    /// Show who is in which zone, as the kernel holds it
    Zones(zones::Args),
    /// Show live flows
    Flows(flows::Args),
    /// Show what somebody should look at: clear text, scans, edges never seen before
    Findings(findings::Args),
    /// Show what is encrypted between whom, and how well
    Inventory(inventory::Args),
    /// Make certificates: the built-in authority of mutual TLS
    Ca(ca::Args),
    /// Show what the proxy serves under mutual TLS, and with which certificates
    Proxy(proxy::Args),
    /// Take enforcement off
    Detach(detach::Args),
    /// Print shell completions
    Completions(completions::Args),
    /// Print the manual page, or write one for each command
    Man(man::Args),
    /// Started by the agent
    #[command(hide = true)]
    ProxyProcess(proxy_process::Args),
}

/// How an answer is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// For machines
    Json,
}

/// What came of a command that worked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// All is well.
    Fine,
    /// There is something to look at.
    Findings,
}

type Result<T> = anyhow::Result<T>;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let Cli { selection, command } = Cli::parse();
    let result = match command {
        Command::Run(args) => args.run(&selection),
        Command::Check(args) => args.run(),
        Command::Classify(args) => args.run(),
        Command::Explain(args) => args.run(&selection),
        Command::Status(args) => args.run(&selection),
        Command::Test(args) => args.run(),
        Command::Zones(args) => args.run(&selection),
        Command::Flows(args) => args.run(&selection),
        Command::Findings(args) => args.run(&selection),
        Command::Inventory(args) => args.run(&selection),
        Command::Ca(args) => args.run(),
        Command::Proxy(args) => args.run(&selection),
        Command::ProxyProcess(args) => args.run(),
        Command::Detach(args) => args.run(&selection),
        Command::Completions(args) => args.run(),
        Command::Man(args) => args.run(),
    };
    match result {
        Ok(Verdict::Fine) => ExitCode::SUCCESS,
        Ok(Verdict::Findings) => ExitCode::FAILURE,
        // `bulkhead flows | head` is no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed as well.
            let _ = writeln!(std::io::stderr(), "bulkhead: {}", causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// The whole command line, for completions and manual pages.
fn command() -> clap::Command {
    Cli::command()
}

fn config(selection: &Selection) -> Result<Config> {
    Ok(Config::load(selection, &Flags::default())?)
}

fn instance(selection: &Selection) -> Result<Instance> {
    let mount = bulkhead_sys::cgroup::mount_point()?;
    Ok(Instance::new(&config(selection)?, &mount)?)
}

fn client(selection: &Selection) -> Result<Client> {
    Ok(Client::new(&instance(selection)?.control_path()))
}

/// Prints a value as one line of JSON.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// Prints text as it is.
fn print(text: &str) -> Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// Whether standard output wants colour.
fn colored() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The error with its causes, without those that it already quotes.
fn causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|cause| cause.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use anyhow::Context;

    #[test]
    fn a_cause_is_told_once() {
        let inner = std::io::Error::other("no such thing");
        let quoting =
            anyhow::Error::from(crate::config::ConfigError::Read { path: "x".into(), source: inner });
        let text = super::causes(&quoting);
        assert_eq!(text.matches("no such thing").count(), 1, "{text}");
        let around = Err::<(), _>(quoting).context("starting").unwrap_err();
        assert!(super::causes(&around).starts_with("starting: cannot read the configuration x"));
    }

    #[test]
    fn the_command_line_is_sound() {
        super::command().debug_assert();
    }
}
