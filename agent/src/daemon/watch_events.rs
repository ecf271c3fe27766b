//! The event loop: a thread of its own, so that sockets are ended in time also while a large policy is
//! being compiled or the maps are being scraped.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bulkhead_abi::Addr;
use bulkhead_abi::flow::Doomed;
use bulkhead_policy::Image;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::snapshot::Shared;
use super::sweep::Sweeper;
use crate::datapath::EventStream;
use crate::events::EventLog;
use crate::findings::Desk;
use crate::inventory::Book;

/// Events taken at once, so that the other work gets its turn.
const BATCH: usize = 256;
/// Time between two looks at the sockets.
const TICK: Duration = Duration::from_millis(50);

/// The running event loop; it ends when this is dropped.
#[derive(Debug)]
pub struct EventLoop {
    commits: mpsc::UnboundedSender<Arc<Image>>,
    ends: mpsc::UnboundedSender<Vec<(u64, Doomed)>>,
    _thread: JoinHandle<()>,
}

impl EventLoop {
    /// Starts the loop. What the sweeper learns of local addresses goes to `locals`.
    pub fn start(
        stream: EventStream,
        sweeper: Box<dyn Sweeper>,
        shared: Arc<Shared>,
        (findings, inventory): (Desk, Book),
        locals: mpsc::UnboundedSender<BTreeMap<Addr, u64>>,
    ) -> io::Result<Self> {
        let (commits, committed) = mpsc::unbounded_channel();
        let (ends, ended) = mpsc::unbounded_channel();
        let told = Told { findings, inventory, committed, ended };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("events".to_owned()).spawn(move || {
            if let Err(error) = runtime.block_on(run(stream, sweeper, shared, told, locals)) {
                // The watchdog sees the pulse stop, and the service manager restarts the agent.
                tracing::error!(%error, "the event loop ended");
            }
        })?;
        Ok(Self { commits, ends, _thread: thread })
    }

    /// Takes lists of sockets to be ended for what was found out behind the kernel; of each cookie as many
    /// forms as there may be.
    pub fn ends(&self) -> mpsc::UnboundedSender<Vec<(u64, Doomed)>> {
        self.ends.clone()
    }

    /// Tells the loop that `image` is enforced.
    pub fn committed(&self, image: &Arc<Image>) {
        // A loop that has ended has said so itself.
        let _ = self.commits.send(Arc::clone(image));
    }
}

/// Who tells the loop what, and who is told.
struct Told {
    findings: Desk,
    inventory: Book,
    committed: mpsc::UnboundedReceiver<Arc<Image>>,
    ended: mpsc::UnboundedReceiver<Vec<(u64, Doomed)>>,
}

async fn run(
    stream: EventStream,
    mut sweeper: Box<dyn Sweeper>,
    shared: Arc<Shared>,
    mut told: Told,
    locals: mpsc::UnboundedSender<BTreeMap<Addr, u64>>,
) -> io::Result<()> {
    let mut stream = crate::readiness::watch(stream)?;
    let mut log = EventLog::new(Instant::now());
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Commits first: an event of the new generation is then judged by its own image.
            biased;
            image = told.committed.recv() => match image {
                Some(image) => sweeper.after_commit(&image),
                None => return Ok(()),
            },
            Some(doomed) = told.ended.recv() => sweeper.end(&doomed),
            _ = tick.tick() => {
                sweeper.tick();
                if let Some(addresses) = sweeper.locals() {
                    let _ = locals.send(addresses);
                }
                shared.set_ended(sweeper.ended());
                shared.set_flow_table(sweeper.flow_table());
                log.summarize(Instant::now());
                shared.events.beat();
            }
            ready = stream.readable_mut() => {
                let mut ready = ready?;
                let events = ready.get_inner_mut().drain(BATCH);
                if events.len() < BATCH {
                    ready.clear_ready();
                }
                drop(ready);
                let snapshot = shared.snapshot();
                let now = Instant::now();
                for event in &events {
                    log.record(event, &snapshot, now);
                    sweeper.on_event(event);
                }
                told.findings.events(&events, &snapshot);
                told.inventory.events(&events, &snapshot);
                tokio::task::yield_now().await;
            }
        }
    }
}
