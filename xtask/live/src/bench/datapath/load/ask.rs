//! The asking end: one kind of load for a while.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rustix::thread::{CpuSet, sched_getaffinity};
use rustix::time::{ClockId, clock_gettime};

use super::{CONNECT, DENIED, ECHO, Load, Outcome, SINK, SMALL, STREAM, TLS_CONNECT, TLS_STREAM, tls};

/// For one answer; a load that is denied by mistake ends with an error and not never.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a stream writes at once.
const BLOCK: usize = 128 * 1024;

/// How often the clock is looked at where that would cost as much as what is measured.
const BATCH: u64 = 64;

pub(super) fn ask(load: Load, at: Ipv4Addr, time: Duration) -> Result<Outcome> {
    let to = |port| SocketAddrV4::new(at, port);
    match load {
        Load::Stream => {
            stream(dial(to(STREAM))?, &vec![0; BLOCK], time, |total: [u8; 8]| u64::from_le_bytes(total))
        }
        Load::Connect => connect(to(CONNECT), time),
        Load::TlsStream => {
            let mut stream = dial(to(TLS_STREAM))?;
            greet(&mut stream)?;
            self::stream(stream, &tls::records(BLOCK), time, |total| tls::read_number(&total))
        }
        Load::TlsConnect => tls_connect(to(TLS_CONNECT), time),
        Load::Round => round(to(ECHO), time),
        Load::UdpRound => udp_round(to(ECHO), time),
        Load::Udp => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(to(SINK))?;
            datagrams(time, || socket.send(&[0; SMALL]).is_ok())
        }
        Load::UdpUnconnected => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            datagrams(time, || socket.send_to(&[0; SMALL], to(SINK)).is_ok())
        }
        Load::Flood | Load::FloodArriving => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            // Whether a packet is refused here or dropped over there is the firewall's affair.
            datagrams(time, || {
                let _ = socket.send_to(&[0; SMALL], to(DENIED));
                true
            })
        }
    }
}

fn stream<const N: usize>(
    mut stream: TcpStream,
    block: &[u8],
    time: Duration,
    read: impl FnOnce([u8; N]) -> u64,
) -> Result<Outcome> {
    let clock = Clock::start();
    while clock.elapsed() < time {
        stream.write_all(block)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut total = [0; N];
    stream.read_exact(&mut total)?;
    Ok(clock.outcome(read(total)))
}

fn connect(to: SocketAddrV4, time: Duration) -> Result<Outcome> {
    let mut answer = Vec::with_capacity(SMALL);
    let (clock, mut count) = (Clock::start(), 0);
    while clock.elapsed() < time {
        let mut stream = TcpStream::connect(to)?;
        stream.write_all(&[0; SMALL])?;
        stream.shutdown(Shutdown::Write)?;
        answer.clear();
        stream.read_to_end(&mut answer)?;
        ensure!(answer.len() == SMALL, "a connection ended without an answer");
        count += 1;
    }
    Ok(clock.outcome(count))
}

fn tls_connect(to: SocketAddrV4, time: Duration) -> Result<Outcome> {
    let (hello, request) = (tls::client_hello(), tls::record(SMALL));
    let (mut their_hello, mut answer) = ([0; tls::SERVER_HELLO], Vec::with_capacity(SMALL));
    let (clock, mut count) = (Clock::start(), 0);
    while clock.elapsed() < time {
        let mut stream = TcpStream::connect(to)?;
        stream.write_all(&hello)?;
        stream.read_exact(&mut their_hello)?;
        stream.write_all(&request)?;
        stream.shutdown(Shutdown::Write)?;
        answer.clear();
        stream.read_to_end(&mut answer)?;
        ensure!(answer.len() == SMALL, "a connection ended without an answer");
        count += 1;
    }
    Ok(clock.outcome(count))
}

/// Says a ClientHello, and hears the answer.
fn greet(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(&tls::client_hello())?;
    stream.read_exact(&mut [0; tls::SERVER_HELLO])?;
    Ok(())
}

fn round(to: SocketAddrV4, time: Duration) -> Result<Outcome> {
    let mut stream = dial(to)?;
    stream.set_nodelay(true)?;
    let mut buffer = [0; SMALL];
    rounds(time, || {
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)
    })
}

fn udp_round(to: SocketAddrV4, time: Duration) -> Result<Outcome> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; SMALL];
    rounds(time, || {
        socket.send_to(&buffer, to)?;
        socket.recv(&mut buffer).map(drop)
    })
}

/// Requests and answers, each timed.
fn rounds(time: Duration, mut once: impl FnMut() -> std::io::Result<()>) -> Result<Outcome> {
    for _ in 0..BATCH {
        once()?;
    }
    let mut trips: Vec<u32> = Vec::with_capacity(1 << 20);
    let clock = Clock::start();
    let mut before = Instant::now();
    while clock.elapsed() < time {
        once()?;
        let now = Instant::now();
        trips.push(u32::try_from((now - before).as_nanos()).unwrap_or(u32::MAX));
        before = now;
    }
    let outcome = clock.outcome(trips.len() as u64);
    trips.sort_unstable();
    let at = |share: usize| trips.get(trips.len() * share / 100).map_or(0.0, |nanos| f64::from(*nanos) / 1e3);
    Ok(Outcome { p50_us: at(50), p99_us: at(99), ..outcome })
}

/// Datagrams as fast as they go.
fn datagrams(time: Duration, mut send: impl FnMut() -> bool) -> Result<Outcome> {
    if !send() {
        bail!("a datagram was refused that should pass");
    }
    let (clock, mut sent, mut refused) = (Clock::start(), 0, 0_u64);
    while clock.elapsed() < time {
        for _ in 0..BATCH {
            refused += u64::from(!send());
        }
        sent += BATCH;
    }
    ensure!(refused * 100 < sent, "{refused} of {sent} datagrams were refused that should pass");
    Ok(clock.outcome(sent))
}

fn dial(to: SocketAddrV4) -> Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Time by the wall, and of the processor: this thread's, and that of the kernel's `ksoftirqd` on the same
/// processor. The way of a packet to the other end's socket (the soft interrupt) is worked off by one of
/// the two.
struct Clock {
    wall: Instant,
    cpu: f64,
    helper: Option<PathBuf>,
}

impl Clock {
    fn start() -> Clock {
        let helper = softirq_thread();
        Clock { wall: Instant::now(), cpu: cpu_seconds(helper.as_deref()), helper }
    }

    fn elapsed(&self) -> Duration {
        self.wall.elapsed()
    }

    fn outcome(&self, count: u64) -> Outcome {
        let (seconds, cpu_seconds) =
            (self.wall.elapsed().as_secs_f64(), cpu_seconds(self.helper.as_deref()) - self.cpu);
        Outcome { count, seconds, cpu_seconds, ..Outcome::default() }
    }
}

fn cpu_seconds(helper: Option<&Path>) -> f64 {
    let own = clock_gettime(ClockId::ThreadCPUTime);
    // Its first word: nanoseconds on a processor.
    let helper = helper.and_then(|path| fs::read_to_string(path).ok());
    let helper: u64 = helper.and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or_default();
    own.tv_sec as f64 + (own.tv_nsec as f64 + helper as f64) / 1e9
}

/// What the kernel tells of the `ksoftirqd` of the processor that this thread is pinned to.
fn softirq_thread() -> Option<PathBuf> {
    let cpus = sched_getaffinity(None).ok()?;
    let cpu = (0..CpuSet::MAX_CPU).find(|cpu| cpus.is_set(*cpu))?;
    let name = format!("ksoftirqd/{cpu}");
    let mut processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
    Some(processes.find(is_it)?.join("schedstat"))
}
