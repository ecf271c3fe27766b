//! What is counted and told: by edge while connections live, one [`Record`] when each has ended.
//!
//! Nothing here waits: a record that nobody takes in time is dropped, and counted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_credentials::SpiffeId;
use tokio::sync::mpsc;

use crate::end::{End, Outcome, Refusal};
use crate::node::{Denied, Edge};

/// Upper bounds of the buckets of times to the first byte, in seconds.
const BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

/// Which way a connection goes at this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// A program of this node dials.
    Outbound,
    /// A program of this node is dialled.
    Inbound,
}

impl Direction {
    /// The word, as metric label and in the access log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// A connection, live, ended or refused.
#[derive(Clone, Debug)]
pub struct Record {
    /// Which way.
    pub direction: Direction,
    /// The client.
    pub client: SocketAddr,
    /// Where to; of a client that was refused before it said so, where it came to.
    pub destination: SocketAddr,
    /// The client's name, shown or verified.
    pub client_name: Option<SpiffeId>,
    /// The server's.
    pub server_name: Option<SpiffeId>,
    /// Zones and rule, as far as they are known.
    pub edge: Option<Edge>,
    /// Bytes from the client.
    pub sent: u64,
    /// Bytes to the client.
    pub received: u64,
    /// How long it lived, or lives.
    pub age: Duration,
    /// How it ended; `None` while it lives.
    pub outcome: Option<Outcome>,
    /// Of a refused one, or one that was let in by a dry run: the word of the reason.
    pub reason: Option<&'static str>,
    /// The whole story, where it did not end well.
    pub text: String,
}

impl Record {
    /// Of a connection that came at `began` and was refused; who shows which name, and the edge, are the
    /// caller's to add.
    pub(crate) fn refused(
        direction: Direction,
        (client, destination): (SocketAddr, SocketAddr),
        began: Instant,
        refusal: Refusal,
    ) -> Self {
        Self {
            direction,
            client,
            destination,
            client_name: None,
            server_name: None,
            edge: None,
            sent: 0,
            received: 0,
            age: began.elapsed(),
            outcome: Some(Outcome::Refused),
            reason: Some(refusal.reason),
            text: refusal.text,
        }
    }
}

/// How an edge stands.
#[derive(Clone, Debug, Default)]
pub struct EdgeStats {
    /// Connections that were begun.
    pub connections: u64,
    /// Open now.
    pub open: u64,
    /// Bytes from clients.
    pub sent: u64,
    /// Bytes to clients.
    pub received: u64,
    /// Times from a connection's beginning to the first byte of its answer: upper bounds in seconds with
    /// cumulative counts; the last is infinite.
    pub first_byte: Vec<(f64, u64)>,
    /// Their sum, in seconds.
    pub first_byte_sum: f64,
}

/// How everything stands.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// By edge and direction.
    pub edges: Vec<(Edge, Direction, EdgeStats)>,
    /// Handshakes, by edge (as far as it is known), direction, and the reason of those that failed.
    pub handshakes: Vec<(Option<Edge>, Direction, Option<&'static str>, u64)>,
    /// Connections that were refused, by edge (as far as it is known) and reason.
    pub refused: Vec<(Option<Edge>, &'static str, u64)>,
    /// The same of those that a dry run has let in.
    pub audited: Vec<(Option<Edge>, &'static str, u64)>,
    /// Tunnels that are open, dialled by us.
    pub tunnels: u64,
    /// Records that nobody took in time.
    pub lost: u64,
}

impl Stats {
    /// How many handshakes were made.
    pub fn made(&self) -> u64 {
        self.handshakes.iter().filter(|(.., failed, _)| failed.is_none()).map(|(.., count)| count).sum()
    }
}

/// The books. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Books(Arc<State>);

/// By edge, direction, and why it failed, if it did.
type Handshakes = HashMap<(Option<Edge>, Direction, Option<&'static str>), u64>;
type Reasons = HashMap<(Option<Edge>, &'static str), u64>;

#[derive(Debug)]
struct State {
    live: Mutex<HashMap<u64, Arc<Live>>>,
    edges: Mutex<HashMap<(Edge, Direction), Arc<Page>>>,
    handshakes: Mutex<Handshakes>,
    refused: Mutex<Reasons>,
    audited: Mutex<Reasons>,
    tunnels: AtomicU64,
    lost: AtomicU64,
    next: AtomicU64,
    ended: mpsc::Sender<Record>,
}

#[derive(Debug, Default)]
struct Page {
    connections: AtomicU64,
    open: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    first_byte: [AtomicU64; BUCKETS.len() + 1],
    first_byte_micros: AtomicU64,
}

/// A live connection, in the books until this is dropped or [closed](Entry::close).
#[derive(Debug)]
pub(crate) struct Entry {
    books: Books,
    number: u64,
    live: Arc<Live>,
    end: Option<End>,
}

#[derive(Debug)]
struct Live {
    direction: Direction,
    client: SocketAddr,
    destination: SocketAddr,
    names: (SpiffeId, SpiffeId),
    edge: Edge,
    audited: Option<Denied>,
    page: Arc<Page>,
    sent: AtomicU64,
    received: AtomicU64,
    began: Instant,
}

/// Who talks to whom, for the books.
pub(crate) struct Parties {
    pub(crate) direction: Direction,
    pub(crate) client: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// The client's name and the server's.
    pub(crate) names: (SpiffeId, SpiffeId),
    pub(crate) edge: Edge,
    /// Of a dry run: why it would be refused.
    pub(crate) audited: Option<Denied>,
}

impl Books {
    /// Empty ones; `ended` takes the records.
    pub fn new(ended: mpsc::Sender<Record>) -> Self {
        Self(Arc::new(State {
            live: Mutex::default(),
            edges: Mutex::default(),
            handshakes: Mutex::default(),
            refused: Mutex::default(),
            audited: Mutex::default(),
            tunnels: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            next: AtomicU64::new(0),
            ended,
        }))
    }

    /// How everything stands.
    pub fn stats(&self) -> Stats {
        let state = &self.0;
        Stats {
            edges: lock(&state.edges)
                .iter()
                .map(|((edge, direction), page)| (edge.clone(), *direction, page.stats()))
                .collect(),
            handshakes: lock(&state.handshakes)
                .iter()
                .map(|((edge, direction, failed), count)| (edge.clone(), *direction, *failed, *count))
                .collect(),
            refused: list(&lock(&state.refused)),
            audited: list(&lock(&state.audited)),
            tunnels: state.tunnels.load(Relaxed),
            lost: state.lost.load(Relaxed),
        }
    }

    /// The connections that live.
    pub fn connections(&self) -> Vec<Record> {
        lock(&self.0.live).values().map(|live| live.record(None)).collect()
    }

    /// How many there are.
    pub fn open(&self) -> usize {
        lock(&self.0.live).len()
    }

    pub(crate) fn begin(&self, parties: Parties, began: Instant) -> Entry {
        let key = (parties.edge.clone(), parties.direction);
        let page = Arc::clone(lock(&self.0.edges).entry(key).or_default());
        page.connections.fetch_add(1, Relaxed);
        page.open.fetch_add(1, Relaxed);
        let Parties { direction, client, destination, names, edge, audited } = parties;
        if let Some(denied) = &audited {
            *lock(&self.0.audited).entry((Some(edge.clone()), denied.reason)).or_default() += 1;
        }
        let live = Arc::new(Live {
            direction,
            client,
            destination,
            names,
            edge,
            audited,
            page,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            began,
        });
        let number = self.0.next.fetch_add(1, Relaxed);
        lock(&self.0.live).insert(number, Arc::clone(&live));
        Entry { books: self.clone(), number, live, end: None }
    }

    /// Counts and tells of one that was refused.
    pub(crate) fn refuse(&self, record: Record) {
        let Record { client, destination, reason, text, .. } = &record;
        tracing::debug!(%client, %destination, reason, text, "refused");
        let key = (record.edge.clone(), record.reason.unwrap_or_default());
        *lock(&self.0.refused).entry(key).or_default() += 1;
        self.tell(record);
    }

    /// Counts a handshake; `failed` is the reason why it did.
    pub(crate) fn shook_hands(&self, direction: Direction, edge: Option<Edge>, failed: Option<&'static str>) {
        *lock(&self.0.handshakes).entry((edge, direction, failed)).or_default() += 1;
    }

    pub(crate) fn tunnel_opened(&self) {
        self.0.tunnels.fetch_add(1, Relaxed);
    }

    pub(crate) fn tunnel_closed(&self) {
        self.0.tunnels.fetch_sub(1, Relaxed);
    }

    fn tell(&self, record: Record) {
        if self.0.ended.try_send(record).is_err() {
            self.0.lost.fetch_add(1, Relaxed);
        }
    }
}

impl Entry {
    /// Which way it goes.
    pub(crate) fn direction(&self) -> Direction {
        self.live.direction
    }

    /// Bytes went to the server.
    pub(crate) fn sent(&self, bytes: usize) {
        self.live.sent.fetch_add(bytes as u64, Relaxed);
        self.live.page.sent.fetch_add(bytes as u64, Relaxed);
    }

    /// Bytes went to the client.
    pub(crate) fn received(&self, bytes: usize) {
        if self.live.received.fetch_add(bytes as u64, Relaxed) == 0 {
            self.live.page.first_byte(self.live.began.elapsed());
        }
        self.live.page.received.fetch_add(bytes as u64, Relaxed);
    }

    /// It has ended so.
    pub(crate) fn close(mut self, end: End) {
        self.end = Some(end);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.books.0.live).remove(&self.number);
        self.live.page.open.fetch_sub(1, Relaxed);
        // Whoever drops it without a word was cut off in the middle.
        let end = self.end.take().unwrap_or(End::new(Outcome::Drained, "the proxy was stopped"));
        self.books.tell(self.live.record(Some(end)));
    }
}

impl Live {
    fn record(&self, end: Option<End>) -> Record {
        let (outcome, mut text) = match end {
            Some(end) => (Some(end.outcome), end.text),
            None => (None, String::new()),
        };
        if let Some(denied) = &self.audited {
            let then = if text.is_empty() { "" } else { "; " };
            text = format!("{text}{then}a dry run: it would be refused, {denied}");
        }
        Record {
            direction: self.direction,
            client: self.client,
            destination: self.destination,
            client_name: Some(self.names.0.clone()),
            server_name: Some(self.names.1.clone()),
            edge: Some(self.edge.clone()),
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
            age: self.began.elapsed(),
            outcome,
            reason: self.audited.as_ref().map(|denied| denied.reason),
            text,
        }
    }
}

impl Page {
    fn first_byte(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        if let Some(bucket) = self.first_byte.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        self.first_byte_micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    fn stats(&self) -> EdgeStats {
        let mut sum = 0;
        let bounds = BUCKETS.iter().copied().chain([f64::INFINITY]);
        let first_byte = bounds
            .zip(&self.first_byte)
            .map(|(bound, count)| {
                sum += count.load(Relaxed);
                (bound, sum)
            })
            .collect();
        EdgeStats {
            connections: self.connections.load(Relaxed),
            open: self.open.load(Relaxed),
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
            first_byte,
            first_byte_sum: self.first_byte_micros.load(Relaxed) as f64 / 1e6,
        }
    }
}

fn list(reasons: &Reasons) -> Vec<(Option<Edge>, &'static str, u64)> {
    reasons.iter().map(|((edge, reason), count)| (edge.clone(), *reason, *count)).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
