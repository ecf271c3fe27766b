//! A wire that can be bad: two tun interfaces with this process between them, which loses packets, lets them
//! wait, or carries nothing at all.
//!
//! What `tc … netem` does to a wire, on kernels that have no netem too.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bulkhead_tests::harness::Ns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};

use super::pattern::scatter;

/// How often it is looked whether it is to end.
const TICK: Duration = Duration::from_millis(100);
/// More packets than these are not kept waiting: the newest are lost, as in any queue.
const QUEUE: usize = 10_000;

/// How bad it is.
#[derive(Default, Debug)]
struct Weather {
    /// Packets of a thousand that are lost.
    lost: AtomicU64,
    /// How long each one waits, in milliseconds.
    delay: AtomicU64,
    /// Packets that were lost so far.
    dropped: AtomicU64,
    ended: AtomicBool,
}

/// The wire; gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    weather: Arc<Weather>,
    ways: Vec<JoinHandle<()>>,
}

impl Wire {
    /// Joins two namespaces by interfaces `eth0` without addresses.
    pub(crate) fn between(a: &Ns, b: &Ns) -> Result<Wire> {
        let open = |ns: &Ns| -> Result<File> {
            let file = ns.enter(|| bulkhead_sys::tun::open("eth0"))??;
            fcntl_setfl(&file, OFlags::RDWR | OFlags::NONBLOCK)?;
            Ok(file)
        };
        let (a, b) = (open(a)?, open(b)?);
        let weather = Arc::new(Weather::default());
        let mut ways = Vec::new();
        for (from, to) in [(a.try_clone()?, b.try_clone()?), (b, a)] {
            let weather = Arc::clone(&weather);
            let way = std::thread::Builder::new().name("wire".into());
            ways.push(way.spawn(move || carry(from, to, &weather)).context("no thread for a wire")?);
        }
        Ok(Wire { weather, ways })
    }

    /// From now on so many packets of a thousand are lost, and the others wait.
    pub(crate) fn set(&self, lost: u64, delay: Duration) {
        self.weather.lost.store(lost, Ordering::Relaxed);
        self.weather.delay.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Packets that were lost so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.weather.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.weather.ended.store(true, Ordering::Relaxed);
        for way in self.ways.drain(..) {
            let _ = way.join();
        }
    }
}

/// One direction, until the wire is taken away.
fn carry(mut from: File, mut to: File, weather: &Weather) {
    let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut packet = vec![0; 1 << 16];
    let mut number = 0_u64;
    while !weather.ended.load(Ordering::Relaxed) {
        let next = waiting.front().map_or(TICK, |(due, _)| due.saturating_duration_since(Instant::now()));
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(next.min(TICK).subsec_nanos()) };
        let _ = poll(&mut [PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN)], Some(&timeout));
        // As many as there are, and then those that have waited long enough.
        for _ in 0..256 {
            let Ok(size) = from.read(&mut packet) else { break };
            number += 1;
            let is_lost = scatter(number) % 1000 < weather.lost.load(Ordering::Relaxed);
            if is_lost || waiting.len() > QUEUE {
                weather.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let bytes = packet.get(..size).unwrap_or_default();
            let delay = Duration::from_millis(weather.delay.load(Ordering::Relaxed));
            // Nobody overtakes.
            if delay.is_zero() && waiting.is_empty() {
                let _ = to.write(bytes);
            } else {
                waiting.push_back((Instant::now() + delay, bytes.to_vec()));
            }
        }
        let now = Instant::now();
        while waiting.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, bytes)) = waiting.pop_front() {
                let _ = to.write(&bytes);
            }
        }
    }
}
