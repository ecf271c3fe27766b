//! The asking end.

use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::pattern::{LAST, PIECE};
use super::{ECHO, Load, Outcome, PATIENCE, Pattern, REQUEST, STREAM};

/// Makes a load for so long.
pub(super) fn ask(load: Load, at: SocketAddrV4, time: Duration) -> Result<Outcome> {
    match load {
        Load::Stream { streams } => stream(at, streams, time),
        Load::Connect { at_once } => run(tellers(at_once), time, |teller| connect(at, teller)),
        Load::ConnectEverywhere { at_once, first, addresses } => {
            let (first, next) = (u32::from(first), AtomicU32::new(0));
            run(tellers(at_once), time, |teller| {
                let address = next.fetch_add(1, Ordering::Relaxed);
                if address >= addresses {
                    return Ok(Done::Nothing);
                }
                connect(SocketAddrV4::new(Ipv4Addr::from(first + address), at.port()), teller)
            })
        }
        Load::Round { connections } => {
            let open = (0..connections).map(|_| dial(at)).collect::<Result<Vec<_>>>()?;
            rounds(open, time)
        }
        Load::Hold { connections } => hold(at, connections),
    }
}

/// Requests that are told apart.
struct Teller {
    request: [u8; REQUEST],
    sent: u64,
}

impl Teller {
    fn new(number: usize) -> Teller {
        let mut request = std::array::from_fn(|place| (place * 31 + number * 7) as u8);
        request[0] = ECHO;
        request[1..9].copy_from_slice(&(number as u64).to_le_bytes());
        Teller { request, sent: 0 }
    }

    fn once(&mut self, stream: &mut TcpStream) -> Result<Done> {
        self.sent += 1;
        self.request[9..17].copy_from_slice(&self.sent.to_le_bytes());
        stream.write_all(&self.request).context("a request was not taken")?;
        let mut answer = [0; REQUEST];
        stream.read_exact(&mut answer).context("no answer")?;
        ensure!(answer == self.request, "an answer is not the request");
        Ok(Done::One)
    }
}

fn dial(at: SocketAddrV4) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&at.into(), PATIENCE).context("no connection")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether something was done, or nothing is left to do.
#[derive(PartialEq, Eq)]
enum Done {
    One,
    Nothing,
}

fn connect(at: SocketAddrV4, teller: &mut Teller) -> Result<Done> {
    teller.once(&mut dial(at)?)
}

fn tellers(many: usize) -> Vec<Teller> {
    (0..many).map(Teller::new).collect()
}

fn rounds(open: Vec<TcpStream>, time: Duration) -> Result<Outcome> {
    let ends = open.into_iter().enumerate().map(|(number, stream)| (Teller::new(number), stream));
    run(ends.collect(), time, |(teller, stream)| teller.once(stream))
}

/// A thread for each end, which does it again and again.
fn run<T: Send>(
    ends: Vec<T>,
    time: Duration,
    once: impl Fn(&mut T) -> Result<Done> + Sync,
) -> Result<Outcome> {
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let each = |mut end: T| -> Result<Vec<u32>> {
        let mut trips = Vec::with_capacity(1 << 16);
        while start.elapsed() < time && !stop.load(Ordering::Relaxed) {
            let before = Instant::now();
            if once(&mut end).inspect_err(|_| stop.store(true, Ordering::Relaxed))? == Done::Nothing {
                break;
            }
            trips.push(u32::try_from(before.elapsed().as_nanos()).unwrap_or(u32::MAX));
        }
        Ok(trips)
    };
    let mut trips = in_threads(ends, &each)?.concat();
    let seconds = start.elapsed().as_secs_f64();
    trips.sort_unstable();
    let at = |share: usize| trips.get(trips.len() * share / 100).map_or(0.0, |nanos| f64::from(*nanos) / 1e3);
    Ok(Outcome { count: trips.len() as u64, seconds, p50_us: at(50), p99_us: at(99) })
}

fn in_threads<T: Send, R: Send>(ends: Vec<T>, each: &(impl Fn(T) -> Result<R> + Sync)) -> Result<Vec<R>> {
    thread::scope(|scope| {
        let threads: Vec<_> = ends.into_iter().map(|end| scope.spawn(|| each(end))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?).collect()
    })
}

/// The time is from the first byte to the server's word that it has read the last one.
fn stream(at: SocketAddrV4, streams: usize, time: Duration) -> Result<Outcome> {
    let open = (0..streams).map(|_| dial(at)).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let each = |mut stream: TcpStream| -> Result<u64> {
        let (pattern, mut sent) = (Pattern::new(), 0);
        stream.write_all(&[STREAM])?;
        while start.elapsed() < time {
            stream.write_all(pattern.at(sent, PIECE)).context("a stream was not taken")?;
            sent += PIECE as u64;
        }
        stream.write_all(&[LAST])?;
        let mut good = [0; 8];
        stream.read_exact(&mut good).context("a stream did not arrive as it was sent")?;
        ensure!(u64::from_le_bytes(good) == sent, "bytes of a stream are missing");
        Ok(sent)
    };
    let count = in_threads(open, &each)?.into_iter().sum();
    Ok(Outcome { count, seconds: start.elapsed().as_secs_f64(), ..Outcome::default() })
}

/// Opens connections, sees each once, says `held`, waits, and sees each once more.
fn hold(at: SocketAddrV4, connections: usize) -> Result<Outcome> {
    let start = Instant::now();
    let mut open = Vec::with_capacity(connections);
    for number in 0..connections {
        let (mut teller, mut stream) = (Teller::new(number), dial(at)?);
        teller.once(&mut stream).with_context(|| format!("connection {number} of {connections}"))?;
        open.push((teller, stream));
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("held");
    std::io::stdin().lock().read_line(&mut String::new())?;
    for (teller, stream) in &mut open {
        teller.once(stream).context("a connection that was held has ended")?;
    }
    Ok(Outcome { count: connections as u64, seconds, ..Outcome::default() })
}
