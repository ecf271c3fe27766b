//! The thread that reads the ring of opening bytes.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bulkhead_abi::flow::Doomed;
use bulkhead_abi::inspect::Piece;
use bulkhead_abi::{Protocol, Verdict};
use bulkhead_detect::findings::{self, Edge, Flow, Observation, Time, TlsFacts};
use bulkhead_detect::hello::{GroupKind, Limits, Opening, Reassembly, Stage, Strength, Summary};
use bulkhead_detect::inventory::Inventory;
use bulkhead_policy::prefix::to_ip;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::{Book, floor};
use crate::daemon::snapshot::Shared;
use crate::datapath::{PieceStream, Reader};
use crate::findings::Desk;
use crate::store::Store;

/// Pieces taken at once.
const BATCH: usize = 64;
/// How often the ring is looked at. It wakes nobody before it is a quarter full, but for a handshake that may
/// have to be ended: to be woken for each costs more than to read it.
const LOOK: Duration = Duration::from_millis(100);
/// Batches taken then, at most: the ring once over.
const LOOKS: usize = bulkhead_abi::limits::PIECES as usize / size_of::<Piece>() / BATCH;
/// How often openings that nothing follows are let go.
const TICK: Duration = Duration::from_secs(1);
/// How often the inventory is written down.
const SAVE: Duration = Duration::from_secs(60);

/// Whom the thread works with.
#[derive(Debug)]
pub struct Sources {
    /// The kernel's tables: what rules ask for now.
    pub reader: Reader,
    /// Names of identities.
    pub shared: Arc<Shared>,
    /// Who hears of handshakes.
    pub findings: Desk,
    /// Who ends sockets.
    pub ends: mpsc::UnboundedSender<Vec<(u64, Doomed)>>,
}

/// The thread; when this is dropped it saves and ends.
#[derive(Debug)]
pub struct Watch {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to read.
    pub fn start(
        stream: PieceStream,
        book: Book,
        sources: Sources,
        store: Store<Inventory>,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut reader = Reading {
            book,
            sources,
            store,
            openings: Reassembly::new(Limits::default()),
            begun: Instant::now(),
            saved: Instant::now(),
        };
        let thread = std::thread::Builder::new().name("openings".to_owned()).spawn(move || {
            if let Err(error) = runtime.block_on(reader.run(stream, stopped)) {
                tracing::error!(%error, "handshakes are not read any more; restart the agent");
            }
            reader.save();
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic was told by its own thread.
            let _ = thread.join();
        }
    }
}

struct Reading {
    book: Book,
    sources: Sources,
    store: Store<Inventory>,
    openings: Reassembly,
    begun: Instant,
    saved: Instant,
}

impl Reading {
    async fn run(&mut self, stream: PieceStream, mut stopped: oneshot::Receiver<()>) -> io::Result<()> {
        let mut stream = crate::readiness::watch(stream)?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = &mut stopped => return Ok(()),
                _ = tick.tick() => {
                    let told = self.openings.expire(self.begun.elapsed());
                    self.take(&told);
                    self.book.set_evicted(self.openings.evicted());
                    if self.saved.elapsed() >= SAVE {
                        self.save();
                    }
                }
                _ = look.tick() => {
                    for _ in 0..LOOKS {
                        if !self.read(stream.get_mut()) {
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                }
                ready = stream.readable_mut() => {
                    let mut ready = ready?;
                    if !self.read(ready.get_inner_mut()) {
                        ready.clear_ready();
                    }
                    drop(ready);
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Reads some pieces; whether there are more.
    fn read(&mut self, stream: &mut PieceStream) -> bool {
        let pieces: Vec<Piece> = stream.drain(BATCH);
        let now = self.begun.elapsed();
        for piece in &pieces {
            let told = self.openings.take(piece, now);
            self.take(&told);
        }
        pieces.len() == BATCH
    }

    fn take(&self, openings: &[Opening]) {
        if openings.is_empty() {
            return;
        }
        let labels = Arc::clone(&self.sources.shared.snapshot().labels);
        for opening in openings {
            let edge = Edge::new(labels.get(opening.stream.from), labels.get(opening.stream.to));
            // What was told when it was negotiated is not told again.
            if !opening.again {
                self.judge(opening, &edge);
            }
            self.book.settled(opening, &labels);
            if opening.stage == Stage::Settled {
                self.sources.findings.observe(&observation(opening, edge));
            }
        }
    }

    /// Ends what is below its rule's floor.
    fn judge(&self, opening: &Opening, edge: &Edge) {
        let Some(below) = floor::judge(&self.sources.reader, opening) else { return };
        let stream = &opening.stream;
        tracing::info!(
            from = %edge.from,
            to = %edge.to,
            port = crate::events::port_name(stream.protocol, stream.dst.1),
            verdict = below.verdict.as_str(),
            reason = bulkhead_abi::Reason::WeakEncryption.as_str(),
            version = below.version.as_str(),
            floor = format!("1.{}", below.floor.saturating_sub(1)),
            "a handshake agreed on less than its rule asks for"
        );
        self.book.below_floor(Arc::clone(&edge.from), Arc::clone(&edge.to), below.verdict);
        if below.verdict == Verdict::Deny && stream.protocol == Protocol::TCP.0 {
            // The event loop has ended with the agent.
            let _ = self.sources.ends.send(floor::sentence(stream).to_vec());
        }
    }

    fn save(&mut self) {
        self.saved = Instant::now();
        self.store.save(&self.book.inventory());
    }
}

fn observation(opening: &Opening, edge: Edge) -> Observation {
    let (stream, handshake) = (&opening.stream, &opening.handshake);
    let seen = handshake.server.as_ref().filter(|server| !server.retry);
    let summary = Summary::from(handshake);
    Observation::Handshake {
        flow: Flow {
            edge,
            src: to_ip(stream.src.0),
            dst: to_ip(stream.dst.0),
            port: stream.dst.1,
            protocol: stream.protocol,
        },
        facts: TlsFacts {
            version: seen.and_then(|server| server.version.minor()),
            cipher: summary.cipher,
            strength: match handshake.strength() {
                Strength::Strong => findings::Strength::Strong,
                Strength::Dated => findings::Strength::Legacy,
                Strength::Weak => findings::Strength::Weak,
                Strength::Unknown => findings::Strength::Unknown,
            },
            group: match handshake.group_kind() {
                GroupKind::Classic => findings::GroupKind::Classical,
                GroupKind::Hybrid | GroupKind::PostQuantum => findings::GroupKind::PostQuantum,
                GroupKind::Unknown => findings::GroupKind::Unknown,
            },
            not_after: handshake
                .certificate
                .as_ref()
                .map(|certificate| Time::from_secs(u64::try_from(certificate.not_after).unwrap_or(0))),
            name: handshake.certificate.as_ref().map(|leaf| leaf.subject.clone()).or(summary.server_name),
        },
    }
}
