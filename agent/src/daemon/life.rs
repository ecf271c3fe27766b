//! The daemon's life between start and stop: who is woken by what.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_abi::Addr;
use bulkhead_sys::lock::Lock;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use super::RunError;
use super::admin::Command;
use super::folder::PolicyFolder;
use super::reconcile::{Outcome, Reconciler};
use super::snapshot::Shared;
use super::watch_events::EventLoop;
use crate::cgroups::CgroupFollower;
use crate::control::protocol::DriftView;
use crate::datapath::Datapath;
use crate::findings;
use crate::guard::Running;
use crate::systemd::Notifier;
use crate::tamper::Watch;
use crate::watch::FolderWatch;

/// The folder is read this often although nothing told that it changed.
const RESCAN: Duration = Duration::from_secs(60);
/// The host's addresses are read this often.
const ADDRESSES: Duration = Duration::from_secs(3);
/// The loop's own pulse, if the service manager asks for none.
const PULSE: Duration = Duration::from_secs(5);
/// An event loop that has not turned for so long is not reported as alive.
const STALE: Duration = Duration::from_secs(10);

/// Everything that runs.
pub(super) struct Daemon {
    /// Before the lock: who takes that next may remove what is watched.
    pub(super) _tamper: Watch,
    /// Before the lock: its file is the instance's.
    pub(super) _findings: findings::Watch,
    /// Before the lock, likewise: it writes into the state directory.
    pub(super) _openings: crate::inventory::Watch,
    /// Before the lock: it is the one that talks to the proxy.
    pub(super) _proxy: Option<crate::proxy::parent::Supervisor>,
    // Before the lock: whoever has that next finds a guard that nobody moves any more.
    pub(super) _guard: Option<Running>,
    pub(super) _lock: Lock,
    pub(super) reconciler: Reconciler<Datapath, PolicyFolder>,
    pub(super) watch: FolderWatch,
    pub(super) cgroups: CgroupFollower,
    pub(super) event_loop: EventLoop,
    pub(super) learned: mpsc::UnboundedReceiver<BTreeMap<Addr, u64>>,
    pub(super) relinked: mpsc::UnboundedReceiver<()>,
    pub(super) requests: mpsc::Receiver<Command>,
    pub(super) shared: Arc<Shared>,
    pub(super) notifier: Notifier,
    /// How often the kernel's tables are compared with the policy, unasked.
    pub(super) verify: Option<Duration>,
}

impl Daemon {
    /// Lives until it is told to stop.
    pub(super) async fn live(mut self) -> Result<(), RunError> {
        let [mut terminate, mut interrupt, mut hang_up] = signals()?;
        let pulse = self.notifier.watchdog_interval().unwrap_or(PULSE).min(PULSE);
        let [mut rescan, mut addresses, mut pulse] = [RESCAN, ADDRESSES, pulse].map(|period| {
            let mut interval = interval_at(Instant::now() + period, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        // At once for the first time: somebody may have been at the tables while no agent ran.
        let mut verify = interval(self.verify.unwrap_or(RESCAN));
        verify.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.notifier.ready(&self.status());
        loop {
            tokio::select! {
                () = self.watch.changed() => self.reload(),
                () = self.cgroups.changed() => self.observe(),
                _ = addresses.tick() => self.observe(),
                _ = rescan.tick() => self.reload(),
                Some(()) = self.relinked.recv() => self.judge_again(),
                Some(locals) = self.learned.recv() => self.learn(locals),
                _ = verify.tick(), if self.verify.is_some() => { self.verify_tables().ok(); }
                Some(command) = self.requests.recv() => match command {
                    // Whoever asked may have gone.
                    Command::Verify(answer) => { let _ = answer.send(self.verify_tables()); }
                    Command::Stop(answer) => {
                        let _ = answer.send(());
                        return self.stop("asked to");
                    }
                },
                _ = terminate.recv() => return self.stop("SIGTERM"),
                _ = interrupt.recv() => return self.stop("SIGINT"),
                _ = hang_up.recv() => {
                    self.notifier.reloading(Duration::from_nanos(bulkhead_sys::clock::monotonic_ns()));
                    self.reload();
                    self.notifier.ready(&self.status());
                }
                _ = pulse.tick() => {
                    if self.shared.events.age() < STALE {
                        self.notifier.alive();
                    }
                }
            }
            self.shared.reconciler.beat();
        }
    }

    fn reload(&mut self) {
        let before = self.shared.snapshot();
        let outcome = self.reconciler.reload();
        self.announce(outcome);
        let after = self.shared.snapshot();
        if after.failure != before.failure || after.generation != before.generation {
            self.notifier.status(&self.status());
        }
    }

    fn observe(&mut self) {
        let outcome = self.reconciler.observe(super::start::facts(&self.cgroups));
        self.announce(outcome);
    }

    fn announce(&self, outcome: Outcome) {
        if matches!(outcome, Outcome::Committed | Outcome::Membership)
            && let Some(image) = self.reconciler.image()
        {
            self.event_loop.committed(image);
        }
    }

    /// Programs were off their hooks for a moment: what was opened meanwhile has yet to be judged.
    fn judge_again(&self) {
        if let Some(image) = self.reconciler.image() {
            self.event_loop.committed(image);
        }
    }

    /// Compares the kernel's tables with the policy, and writes right what differs.
    fn verify_tables(&mut self) -> Result<DriftView, String> {
        let verified = self.reconciler.verify()?;
        if !verified.drift.is_empty() {
            // What was opened by false entries is ended.
            self.judge_again();
        }
        let labels = Arc::clone(&self.shared.snapshot().labels);
        Ok(super::drift::answer(&verified, |identity| labels.get(identity).to_string()))
    }

    fn learn(&mut self, locals: BTreeMap<Addr, u64>) {
        let outcome = self.reconciler.set_local_addresses(locals.into_keys().collect());
        self.announce(outcome);
    }

    fn stop(&self, why: &str) -> Result<(), RunError> {
        self.notifier.stopping();
        tracing::info!(why, "the agent stops; enforcement stays on (`bulkhead detach` takes it off)");
        Ok(())
    }

    fn status(&self) -> String {
        let snapshot = self.shared.snapshot();
        let (mode, generation) = (snapshot.mode.as_str(), snapshot.generation);
        match snapshot.failure {
            None => format!("{mode} mode, generation {generation}"),
            Some(_) => format!("{mode} mode, generation {generation}; the policy folder has errors"),
        }
    }
}

fn signals() -> Result<[Signal; 3], RunError> {
    let listen = |kind| signal(kind).map_err(|source| RunError::Io { what: "listen for signals", source });
    Ok([listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?])
}
