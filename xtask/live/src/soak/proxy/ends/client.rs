//! The client: workers that each have one connection after the other, in the manners of their kind.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use std::io::Write;

use anyhow::Result;

use super::carry::{Came, End, carry, word};
use super::{Manner, Notes, Plan, Told, now};
use crate::proxy::pattern::scatter;

/// How long a connect may take: longer than the proxy's own patience with another proxy.
const CONNECTS: Duration = Duration::from_secs(30);

/// Where to, and where it is told.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[arg(long)]
    to: SocketAddr,
    /// What became of each connection, appended.
    #[arg(long)]
    notes: PathBuf,
    /// The run ends when this file is there.
    #[arg(long)]
    stop: PathBuf,
    /// A few connections only, and one that is held until the end.
    #[arg(long)]
    light: bool,
}

/// What a worker does.
#[derive(Clone, Copy)]
enum Worker {
    /// Short connections.
    Quick,
    /// Large ones.
    Bulk,
    /// Those that are silent, or do not read, for a while.
    Slow,
    /// Those that are cut by an end.
    Rude,
    /// One that is silent for as long as it runs.
    Holder,
}

/// Runs it until it is told to stop and its last connections have ended.
pub(crate) fn run(args: &Args) -> Result<()> {
    use Worker::{Bulk, Holder, Quick, Rude, Slow};
    let notes = Notes::open(&args.notes)?;
    let workers: &[Worker] = if args.light {
        &[Quick, Quick, Slow, Holder]
    } else {
        &[
            Quick, Quick, Quick, Quick, Quick, Quick, Bulk, Bulk, Slow, Slow, Slow, Slow, Slow, Rude, Rude,
            Rude,
        ]
    };
    let base = u64::from(std::process::id()) << 40;
    std::thread::scope(|scope| {
        for (number, worker) in workers.iter().enumerate() {
            let (notes, first) = (&notes, base + ((number as u64) << 32));
            scope.spawn(move || work(*worker, first, args, notes));
        }
    });
    Ok(())
}

fn work(worker: Worker, first: u64, args: &Args, notes: &Notes) {
    for id in first + 1.. {
        if args.stop.exists() {
            return;
        }
        let plan = plan(worker, id);
        let told = one(&plan, args.to, &args.stop);
        let pause = if told.how == "clean" { pause(worker) } else { Duration::from_millis(100) };
        notes.write(&told);
        std::thread::sleep(pause);
    }
}

/// What the connection with this number is going to be.
fn plan(worker: Worker, id: u64) -> Plan {
    use Manner::{
        ClientFirst, ClientHangs, ClientResets, Duplex, Idle, ServerFirst, ServerHangs, ServerResets, Stalls,
    };
    let random = |what: u64, below: u64| scatter(id ^ (what << 20)) % below;
    let one_of = |manners: &[Manner]| {
        let chosen = usize::try_from(random(1, manners.len() as u64)).unwrap_or_default();
        manners.get(chosen).copied().unwrap_or(Duplex)
    };
    let talks = [Duplex, ClientFirst, ServerFirst];
    let (manner, most) = match worker {
        Worker::Quick if random(2, 20) == 0 => (one_of(&talks), 1 << 18),
        Worker::Quick => (one_of(&talks), 1 << 14),
        Worker::Bulk => (one_of(&talks), 16 << 20),
        Worker::Slow => match one_of(&[Idle, Stalls]) {
            Stalls => (Stalls, 8 << 20),
            idle => (idle, 1 << 10),
        },
        Worker::Rude => (
            one_of(&[ClientResets, ServerResets, ClientResets, ServerResets, ClientHangs, ServerHangs]),
            1 << 18,
        ),
        Worker::Holder => (Manner::Held, 1 << 10),
    };
    Plan { id, manner, up: 2 + random(3, most), down: 2 + random(4, most), pause: 1000 + random(5, 9000) }
}

/// Between two connections of a worker.
fn pause(worker: Worker) -> Duration {
    Duration::from_millis(match worker {
        Worker::Quick | Worker::Holder => 30,
        Worker::Bulk | Worker::Slow => 500,
        Worker::Rude => 200,
    })
}

fn one(plan: &Plan, to: SocketAddr, stop: &Path) -> Told {
    let began = now();
    let came = TcpStream::connect_timeout(&to, CONNECTS)
        .and_then(|mut stream| stream.write_all(&plan.header()).map(|()| stream))
        .map(|stream| carry(&stream, plan, End::Client(stop)))
        .unwrap_or_else(|error| Came { sent: 0, received: 0, how: word(&error) });
    let Came { sent, received, how } = came;
    let Plan { id, manner, up, down, .. } = *plan;
    Told { id, manner, up, down, client: true, began, ended: now(), sent, received, how }
}
