//! The load on proxies: a process for each end, in a cgroup and a network namespace.
//!
//! Ends are this very program, started again with the hidden command `proxy-end`. They use threads and
//! sockets that wait, as plain programs do, and have no processor of their own: the machine's few are shared
//! by client, server and both proxies.
//!
//! **Every byte is looked at.** An echo must be the request, and no two requests of a run are alike; a
//! stream must be [`Pattern`] at the server, in which no piece can be lost, doubled or moved without being
//! noticed. Anything else, and everything that takes ten seconds, is an error and no figure.

mod ask;
mod pattern;
mod serve;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use crate::place;
use pattern::Pattern;

/// Requests and answers, in bytes.
pub(crate) const REQUEST: usize = 64;
/// The first byte of a connection that echoes.
const ECHO: u8 = b'E';
/// The first byte of a connection that is a stream.
const STREAM: u8 = b'S';
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A kind of load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Subcommand)]
pub(crate) enum Load {
    /// As many bytes as so many connections take
    Stream { streams: usize },
    /// Connect, one request, one answer, close; so many at a time
    Connect { at_once: usize },
    /// The same, each to another address from the first one on, until all were there
    ConnectEverywhere { at_once: usize, first: Ipv4Addr, addresses: u32 },
    /// Requests and answers on so many open connections
    Round { connections: usize },
    /// Open so many connections and hold them until standard input has a line
    Hold { connections: usize },
}

/// What a load came to.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Things done: connections, requests; for streams, bytes.
    pub(crate) count: u64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// How long one took: the median and the 99th percentile, in microseconds; not of streams.
    pub(crate) p50_us: f64,
    /// See `p50_us`.
    pub(crate) p99_us: f64,
}

/// `bulkhead-bench proxy-end`.
#[derive(Args)]
pub(crate) struct End {
    #[arg(long)]
    cgroup: PathBuf,
    #[arg(long)]
    netns: PathBuf,
    /// Where the server is, or what stands for it
    #[arg(long)]
    at: SocketAddrV4,
    #[arg(long, default_value_t = 0.0)]
    seconds: f64,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Answer until this process is killed
    Serve,
    /// Make a load
    #[command(flatten)]
    Ask(Load),
}

/// Goes to its place and does its part.
pub(crate) fn end(end: &End) -> Result<()> {
    place::take(&end.cgroup, &end.netns)?;
    match end.role {
        Role::Serve => serve::serve(end.at),
        Role::Ask(load) => {
            let outcome = ask::ask(load, end.at, Duration::from_secs_f64(end.seconds))?;
            println!("{}", serde_json::to_string(&outcome)?);
            Ok(())
        }
    }
}
