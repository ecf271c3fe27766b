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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
    use std::thread;
    use std::time::Duration;

    use super::{Load, ask, serve};

    /// What a carrier does to the bytes that it carries to the server.
    type Damage = fn(u64, &mut Vec<u8>);

    /// A server, and somebody in front of it who damages what it carries; where to go.
    fn carried(damage: Damage) -> SocketAddrV4 {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = server.local_addr().unwrap();
        serve::answer(server).unwrap();
        let carrier = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(at) = carrier.local_addr().unwrap() else { unreachable!() };
        thread::spawn(move || {
            for client in carrier.incoming().flatten() {
                let server = TcpStream::connect(to).unwrap();
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || copy(client, server, damage));
                thread::spawn(move || copy(back.0, back.1, |_, _| {}));
            }
        });
        at
    }

    fn copy(mut from: TcpStream, mut to: TcpStream, damage: Damage) {
        let (mut buffer, mut place) = (vec![0; 4096], 0);
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let mut piece = buffer[..count].to_vec();
            damage(place, &mut piece);
            place += count as u64;
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    }

    fn flip(piece: &mut [u8]) {
        let place = 40 % piece.len();
        piece[place] ^= 1;
    }

    const LOADS: [Load; 4] = [
        Load::Stream { streams: 2 },
        Load::Connect { at_once: 2 },
        Load::Round { connections: 2 },
        Load::ConnectEverywhere { at_once: 2, first: Ipv4Addr::LOCALHOST, addresses: 1 },
    ];

    #[test]
    fn what_arrives_whole_is_a_figure() {
        let at = carried(|_, _| {});
        for load in LOADS {
            let outcome = ask::ask(load, at, Duration::from_millis(50)).unwrap();
            assert!(outcome.count > 0 && outcome.seconds > 0.0, "{load:?}: {outcome:?}");
        }
    }

    #[test]
    fn a_byte_that_is_changed_lost_or_added_is_none() {
        let damages: [Damage; 3] = [
            |place, piece| {
                if place > 9_000 {
                    piece[0] ^= 1
                }
            },
            |place, piece| {
                if place > 9_000 {
                    piece.truncate(piece.len() - 1);
                }
            },
            |place, piece| {
                if place > 9_000 {
                    piece.insert(0, 7)
                }
            },
        ];
        for damage in damages {
            let at = carried(damage);
            // Long enough for the first damaged byte also where little time is left for it.
            assert!(ask::ask(LOADS[0], at, Duration::from_secs(2)).is_err());
        }
        let at = carried(|place, piece| {
            if place > 0 {
                flip(piece);
            }
        });
        assert!(ask::ask(LOADS[2], at, Duration::from_secs(10)).is_err());
        let at = carried(|_, piece| flip(piece));
        assert!(ask::ask(LOADS[1], at, Duration::from_secs(10)).is_err());
    }
}
