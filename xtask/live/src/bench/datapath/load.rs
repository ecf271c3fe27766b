//! The load: one process for each end, in a cgroup and a network namespace, pinned to one processor.
//!
//! An end is this very program, started again with the hidden command `end` (see [`place`]). The serving end
//! answers everything on fixed ports and says on request how many datagrams came; the asking end makes one kind of load for a while,
//! prints what it came to as one JSON object, and ends.
//!
//! Each end is a session of its own with raised weight among the machine's other sessions.

mod ask;
mod serve;
mod tls;

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::place;

/// One TCP connection that carries as much as it can.
pub(crate) const STREAM: u16 = 5201;
/// A request and an answer for each connection.
pub(crate) const CONNECT: u16 = 5202;
/// Requests and answers on one connection; also of UDP.
pub(crate) const ECHO: u16 = 5203;
/// Datagrams that are read and counted.
pub(crate) const SINK: u16 = 5204;
/// As [`STREAM`], in what looks like TLS.
pub(crate) const TLS_STREAM: u16 = 5205;
/// As [`CONNECT`], in what looks like TLS.
pub(crate) const TLS_CONNECT: u16 = 5206;
/// A port that the policy opens to nobody.
pub(crate) const DENIED: u16 = 5999;

/// Payload of requests, answers and datagrams: small, and a multiple of nothing.
const SMALL: usize = 18;

/// A kind of load.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Load {
    /// One TCP connection, as many bytes as it takes
    Stream,
    /// TCP: connect, one request, one answer, close
    Connect,
    /// TCP: requests and answers on one connection
    Round,
    /// The same with UDP, both ends unconnected
    UdpRound,
    /// Small datagrams of a connected socket
    Udp,
    /// Small datagrams of an unconnected socket
    UdpUnconnected,
    /// A stream of TLS records behind a handshake's hellos
    TlsStream,
    /// TCP: connect, hellos, one record each way, close
    TlsConnect,
    /// Small datagrams to a port that is denied
    Flood,
    /// The same from where nothing is denied: they arrive, and are dropped there
    FloodArriving,
}

/// What a load came to.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Things done: connections, requests, datagrams; for a stream, bytes.
    pub(crate) count: u64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Processor time of the asking end, the kernel's work for it included.
    pub(crate) cpu_seconds: f64,
    /// Round trips: the median and the 99th percentile, in microseconds.
    pub(crate) p50_us: f64,
    /// See `p50_us`.
    pub(crate) p99_us: f64,
}

/// `bulkhead-bench end`.
#[derive(Args)]
pub(crate) struct End {
    #[arg(long)]
    cgroup: PathBuf,
    #[arg(long)]
    netns: PathBuf,
    #[arg(long)]
    cpu: usize,
    /// The serving end's address
    #[arg(long)]
    at: Ipv4Addr,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Answer until standard input ends
    Serve,
    /// Make a load
    Ask {
        load: Load,
        #[arg(long)]
        seconds: f64,
    },
}

/// Goes to its place and does its part.
pub(crate) fn end(end: &End) -> Result<()> {
    take_place(end)?;
    match end.role {
        Role::Serve => serve::serve(end.at),
        Role::Ask { load, seconds } => {
            let outcome = ask::ask(load, end.at, std::time::Duration::from_secs_f64(seconds))?;
            println!("{}", serde_json::to_string(&outcome)?);
            Ok(())
        }
    }
}

fn take_place(end: &End) -> Result<()> {
    place::take(&end.cgroup, &end.netns)?;
    place::keep_to(&[end.cpu])?;
    // Without it the figures are noisier where others work on the machine; nothing else depends on it.
    if rustix::process::setsid().is_ok() {
        let _ = fs::write("/proc/self/autogroup", "-18");
    }
    Ok(())
}
