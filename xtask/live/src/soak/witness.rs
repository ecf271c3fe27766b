//! What happened around an attempt that came out wrong: what was done at that moment, what the kernel
//! counted as denied or lost, what the namespaces' own stacks dropped, what is known of the flow and of
//! the neighbours.
//!
//! An attempt without an answer is noticed half a minute later, so everything is looked at twice a second
//! and kept for long enough. It only looks: what it cannot read is left out.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bulkhead_abi::Addr;
use bulkhead_sys::clock::monotonic_ns;
use bulkhead_tests::harness::{Agent, Books, Counters, Failed, Peer, Socket, Topology};

/// Between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(500);

/// How much of the past is kept, in nanoseconds: more than any attempt may take.
const KEPT: u64 = 60 * SECOND;

/// How far from the attempt something may have happened to be told, in nanoseconds.
const AROUND: u64 = 2 * SECOND;

const SECOND: u64 = 1_000_000_000;

/// The hosts that are looked at.
const HOSTS: [&str; 5] = ["one", "two", "three", "server", "router"];

/// Parts of the names of the stacks' counters that tell of packets which came to nothing, and of
/// neighbour discovery.
const TELLING: [&str; 9] =
    ["Discard", "NoRoute", "NoPort", "Err", "Unreach", "Fail", "Neighbor", "Time", "Unknown"];

/// Looks, and remembers.
pub(crate) struct Witness {
    started: u64,
    books: Books,
    net: Arc<Topology>,
    server: Arc<Peer>,
    /// The agents' log.
    log: PathBuf,
    /// The server's sockets for datagrams.
    echoes: Vec<Socket>,
    past: Mutex<Past>,
}

#[derive(Default)]
struct Past {
    /// How much of the log was read.
    read: u64,
    looks: VecDeque<Look>,
    done: VecDeque<(u64, String)>,
}

/// One look.
struct Look {
    at: u64,
    counters: Counters,
    /// By place and name.
    others: BTreeMap<(&'static str, String), u64>,
}

impl Witness {
    pub(crate) fn new(
        agent: &Agent,
        net: Arc<Topology>,
        server: Arc<Peer>,
        echoes: Vec<Socket>,
    ) -> Result<Self> {
        let (books, log) = (agent.books()?, agent.log_path());
        let witness =
            Witness { started: monotonic_ns(), books, net, server, log, echoes, past: Mutex::default() };
        witness.look();
        Ok(witness)
    }

    /// Remembers that this begins, or is done, now.
    pub(crate) fn note(&self, what: impl Into<String>) {
        self.note_at(monotonic_ns(), what.into());
    }

    fn note_at(&self, now: u64, what: String) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.done.push_back((now, what));
        while past.done.front().is_some_and(|(at, _)| at + KEPT < now) {
            past.done.pop_front();
        }
    }

    /// Looks at everything, now.
    pub(crate) fn look(&self) {
        let look = Look {
            at: monotonic_ns(),
            counters: self.books.counters().unwrap_or_default(),
            others: self.others(),
        };
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        while past.looks.front().is_some_and(|first| first.at + KEPT < look.at) {
            past.looks.pop_front();
        }
        let at = look.at;
        past.looks.push_back(look);
        drop(past);
        for line in self.said() {
            self.note_at(at, format!("said by an agent: {line}"));
        }
    }

    /// What was added to the log since the last look.
    fn said(&self) -> Vec<String> {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        let read = File::open(&self.log).and_then(|mut log| {
            log.seek(SeekFrom::Start(past.read))?;
            log.read_to_string(&mut text)
        });
        past.read += read.unwrap_or_default() as u64;
        text.lines().map(str::to_owned).collect()
    }

    /// What there is to be said of one that `host` asked of `to`, and that failed.
    pub(crate) fn explain(&self, host: &str, to: SocketAddr, failed: &Failed) -> String {
        self.look();
        let mut lines = vec![format!(
            "asked by {host} from port {} at {}, of {to}; it is {} now",
            failed.port,
            self.time(failed.began_ns),
            self.time(monotonic_ns())
        )];
        lines.extend(self.flows(to, failed.port));
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let near = |at: u64| at.abs_diff(failed.began_ns) <= AROUND;
        for (at, what) in past.done.iter().filter(|(at, _)| near(*at)) {
            lines.push(format!("done at {}: {what}", self.time(*at)));
        }
        for (before, after) in past.looks.iter().zip(past.looks.iter().skip(1)) {
            if near(before.at) || near(after.at) {
                lines.extend(self.moved(before, after));
            }
        }
        drop(past);
        lines.extend([host, "router", "server"].into_iter().map(|place| self.neighbours(place)));
        lines.join("\n    ")
    }

    /// Seconds since the beginning.
    fn time(&self, at: u64) -> String {
        let milliseconds = at.saturating_sub(self.started) / 1_000_000;
        format!("{}.{:03} s", milliseconds / 1000, milliseconds % 1000)
    }

    /// Denials, losses and what the stacks dropped between two looks.
    fn moved(&self, before: &Look, after: &Look) -> Vec<String> {
        let span = format!("{} to {}", self.time(before.at), self.time(after.at));
        let counters = after.counters.since(&before.counters);
        let denied = counters.iter().filter(|(pair, _)| pair.verdict != "allow");
        let mut lines: Vec<String> = denied
            .map(|(pair, moved)| format!("{span}: {pair}: {} flows, {} packets", moved.flows, moved.packets))
            .collect();
        for ((place, name), now) in &after.others {
            let moved = now - before.others.get(&(*place, name.clone())).copied().unwrap_or(0).min(*now);
            if moved > 0 {
                lines.push(format!("{span}: {place}: {name} +{moved}"));
            }
        }
        lines
    }

    /// What the table holds of the flow, under whichever client's address.
    fn flows(&self, to: SocketAddr, port: u16) -> Vec<String> {
        let server = match to.ip() {
            IpAddr::V4(v4) => Addr::v4(v4.octets()),
            IpAddr::V6(v6) => Addr::from_octets(v6.octets()),
        };
        let Ok(flows) = self.books.reader.flows() else { return Vec::new() };
        let ends = |addr: Addr, end: u16| (addr, end) == (server, to.port());
        let mine = flows.into_iter().filter(|(key, _)| {
            ends(key.low, key.low_port) && key.high_port == port
                || ends(key.high, key.high_port) && key.low_port == port
        });
        let mut lines: Vec<String> = mine.map(|(key, flow)| format!("{key:?}: {flow:?}")).collect();
        if lines.is_empty() {
            lines.push("its flow is not in the table".to_owned());
        }
        lines
    }

    fn neighbours(&self, place: &str) -> String {
        let found = self.net.ns(place).ok().and_then(|ns| {
            let output = Command::new("ip").args(["-n", ns.name(), "neigh"]).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; "))
        });
        format!("neighbours of {place}: {}", found.unwrap_or_default())
    }

    fn others(&self) -> BTreeMap<(&'static str, String), u64> {
        let mut found = BTreeMap::new();
        for (loss, count) in self.books.reader.losses().unwrap_or_default() {
            found.insert(("lost", format!("{loss:?}")), count);
        }
        let served = self.echoes.iter().filter_map(|echo| self.server.served(echo).ok());
        let refused = served.map(|served| served.refused).sum();
        found.insert(("server", "answers that were refused".to_owned()), refused);
        for place in HOSTS {
            let Ok(ns) = self.net.ns(place) else { continue };
            let read = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
            let Ok((v4, v6)) = ns.enter(|| (read("snmp"), read("snmp6"))) else { continue };
            let telling = |name: &str| TELLING.iter().any(|part| name.contains(part));
            let counters = pairs(&v4).chain(rows(&v6)).filter(|(name, _)| telling(name));
            found.extend(counters.map(|(name, count)| ((place, name), count)));
        }
        found
    }
}

/// `/proc/net/snmp`: a line of names and a line of numbers for each protocol.
fn pairs(text: &str) -> impl Iterator<Item = (String, u64)> {
    let lines: Vec<&str> = text.lines().collect();
    let all: Vec<(String, u64)> = lines
        .chunks_exact(2)
        .filter_map(|pair| <[&str; 2]>::try_from(pair).ok())
        .flat_map(|[names, numbers]| {
            let protocol = names.split(':').next().unwrap_or_default().to_owned();
            let named = names.split_whitespace().zip(numbers.split_whitespace()).skip(1);
            named
                .filter_map(move |(name, number)| Some((format!("{protocol}{name}"), number.parse().ok()?)))
                .collect::<Vec<_>>()
        })
        .collect();
    all.into_iter()
}

/// `/proc/net/snmp6`: a name and a number a line.
fn rows(text: &str) -> impl Iterator<Item = (String, u64)> {
    text.lines().filter_map(|line| {
        let (name, number) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    })
}
