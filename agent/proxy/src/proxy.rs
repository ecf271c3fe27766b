//! The proxy as a whole: its listeners, its limits, and its end.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_credentials::Keeper;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::books::{Books, Direction, Record, Stats};
use crate::end::Refusal;
use crate::gate::{Gate, Guest, Limits};
use crate::inbound;
use crate::node::{Node, Place};
use crate::outbound;
use crate::pool::Pool;
use crate::settings::Settings;
use crate::socket;
use crate::watch::{News, herald, stop};

/// Most threads that carry bytes.
const THREADS: usize = 4;
/// Time between two looks for tunnels that carry nothing.
const SWEEP: Duration = Duration::from_secs(10);

/// What comes in at a listener.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Connections of programs that were turned in.
    Capture,
    /// HBONE.
    Tunnel,
}

impl Kind {
    const fn guest(self) -> Guest {
        match self {
            Self::Capture => Guest::Connection,
            Self::Tunnel => Guest::Tunnel,
        }
    }
}

/// A runtime as the proxy wants it: few threads, so that a connection's bytes stay on one as long as that
/// one keeps up, and the programs have processors left. Where one is enough, nothing is handed from thread
/// to thread, which costs a tenth of what carrying bytes costs, and a fifth of what a connection does.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = match (processors / 2).min(THREADS) {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads).thread_name("proxy");
            builder
        }
    };
    builder.enable_io().enable_time().build()
}

/// A running proxy. Dropping it ends what it serves.
pub struct Proxy<N: Node> {
    shared: Arc<Shared<N>>,
    listeners: Mutex<HashMap<(Place, Kind), JoinHandle<()>>>,
    sweeper: JoinHandle<()>,
    herald: JoinHandle<()>,
}

/// What all connections have in common.
pub(crate) struct Shared<N> {
    pub(crate) node: Arc<N>,
    pub(crate) keeper: Keeper,
    pub(crate) settings: Settings,
    pub(crate) books: Books,
    pub(crate) pool: Pool,
    /// Nothing new is to be begun.
    pub(crate) drain: watch::Sender<bool>,
    /// What live connections listen to.
    pub(crate) news: watch::Sender<News>,
    pub(crate) gate: Arc<Gate>,
}

impl<N: Node> Proxy<N> {
    /// A proxy without listeners; within a runtime. `ended` takes a record of each connection; what it does
    /// not take at once is dropped, and counted.
    pub fn new(node: Arc<N>, keeper: Keeper, settings: Settings, ended: mpsc::Sender<Record>) -> Self {
        let shared = Arc::new(Shared {
            node,
            keeper,
            gate: Arc::new(Gate::new(settings.limits)),
            books: Books::new(ended),
            pool: Pool::default(),
            drain: watch::Sender::new(false),
            news: watch::Sender::default(),
            settings,
        });
        let swept = Arc::clone(&shared);
        let sweeper = tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP.min(swept.settings.idle)).await;
                swept.pool.sweep(&swept.settings);
            }
        });
        let (rights, certificates) = (shared.node.changes(), shared.keeper.changes());
        let herald = tokio::spawn(herald(rights, certificates, shared.news.clone()));
        Self { shared, listeners: Mutex::default(), sweeper, herald }
    }

    /// Serves what comes in at `listener`, in place of a listener of the same place and kind. Within a
    /// runtime; the listener must not block.
    pub fn listen(&self, place: Place, kind: Kind, listener: StdListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        socket::prepare_listener(&listener, kind)?;
        let listener = TcpListener::from_std(listener)?;
        let serving = tokio::spawn(accept(Arc::clone(&self.shared), place, kind, listener));
        if let Some(before) = self.lock().insert((place, kind), serving) {
            before.abort();
        }
        Ok(())
    }

    /// Takes nothing new from the listeners of `place`; what lives goes on.
    pub fn unlisten(&self, place: Place) {
        self.lock().retain(|(of, _), serving| {
            let stays = *of != place;
            if !stays {
                serving.abort();
            }
            stays
        });
    }

    /// Takes nothing new, says so to peers (GOAWAY), and waits until everything has ended, for `deadline` at
    /// most; then ends what is left.
    pub async fn drain(&self, deadline: Duration) {
        for (_, serving) in self.lock().drain() {
            serving.abort();
        }
        self.shared.drain.send_replace(true);
        self.shared.pool.clear();
        let until = Instant::now() + deadline;
        while self.shared.books.open() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stop(&self.shared.news);
        // Those that are ended now have a moment to say so.
        let until = Instant::now() + Duration::from_secs(1);
        while self.shared.books.open() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Other limits from now on; what lives goes on.
    pub fn set_limits(&self, limits: Limits) {
        self.shared.gate.set(limits);
    }

    /// The connections that live.
    pub fn connections(&self) -> Vec<Record> {
        self.shared.books.connections()
    }

    /// How everything stands.
    pub fn stats(&self) -> Stats {
        self.shared.books.stats()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(Place, Kind), JoinHandle<()>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<N: Node> Drop for Proxy<N> {
    fn drop(&mut self) {
        self.sweeper.abort();
        self.herald.abort();
        for (_, serving) in self.lock().drain() {
            serving.abort();
        }
        stop(&self.shared.news);
    }
}

async fn accept<N: Node>(shared: Arc<Shared<N>>, place: Place, kind: Kind, listener: TcpListener) {
    loop {
        let (stream, client) = match listener.accept().await {
            Ok((stream, client)) => (stream, socket::plain(client)),
            Err(error) => {
                // Mostly for want of descriptors: others must end first.
                tracing::warn!(%error, netns = place.0, "cannot accept a connection; tried again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let permit = match shared.gate.enter(kind.guest(), || shared.node.resident()) {
            Ok(permit) => permit,
            Err(refusal) => {
                too_many(&shared, kind, (stream, client), refusal);
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            match kind {
                Kind::Capture => outbound::serve(shared, place, (stream, client)).await,
                Kind::Tunnel => Box::pin(inbound::serve(shared, place, (stream, client))).await,
            }
            drop(permit);
        });
    }
}

fn too_many<N>(shared: &Shared<N>, kind: Kind, (stream, client): (TcpStream, SocketAddr), refusal: Refusal) {
    if let Ok(local) = stream.local_addr() {
        let direction = match kind {
            Kind::Capture => Direction::Outbound,
            Kind::Tunnel => Direction::Inbound,
        };
        let ends = (client, socket::plain(local));
        shared.books.refuse(Record::refused(direction, ends, Instant::now(), refusal));
    }
    socket::reset(stream);
}
