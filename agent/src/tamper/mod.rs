//! Watches over what the kernel holds for the agent, and puts right what somebody took away.
//!
//! A thread of its own looks at every link and pin ten times a second: the kernel tells nobody when a
//! link is detached, so looking is what there is, and it costs some forty small system calls. Whatever
//! is found is put right at once, counted, and told once at WARN as a finding.
//!
//! Which way it fails: the programs enforce without this. What cannot be put right is told once, and
//! tried again at every look. It is no defence against root, who can stop the agent first; it tells.

mod record;
mod watch;

use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::datapath::keep::Watched;

pub use record::{Action, Finding, Record};
use watch::Entry;

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(100);

/// Everything that is watched; things may come and go while it is.
#[derive(Default)]
pub struct Watchlist(Mutex<Vec<Entry>>);

impl Watchlist {
    /// Watches `thing` from the next look on, in the place of one of the same name.
    pub fn add(&self, thing: Box<dyn Watched>) {
        let mut entries = self.entries();
        entries.retain(|entry| entry.name() != thing.name());
        entries.push(Entry::new(thing));
    }

    /// Watches the thing with this name no longer. Do so before you take it away.
    pub fn remove(&self, name: &str) {
        self.entries().retain(|entry| entry.name() != name);
    }

    /// Looks at everything once; whether a link was made anew.
    fn look(&self, now: Instant, record: &Record) -> bool {
        let mut relinked = false;
        self.entries().retain_mut(|entry| {
            let look = entry.look(now, record);
            relinked |= look.relinked;
            look.keep
        });
        relinked
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Watchlist {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.entries().iter().map(Entry::name)).finish()
    }
}

/// The watch; it ends when this is dropped, and nothing is put back from then on.
#[derive(Debug)]
pub struct Watch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to watch. `relinked` is called after a link was made anew: what was opened while it was off
    /// has yet to be judged.
    pub fn start(
        things: Arc<Watchlist>,
        record: Arc<Record>,
        relinked: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let watch = move || {
            while stopped.recv_timeout(PERIOD) == Err(mpsc::RecvTimeoutError::Timeout) {
                if things.look(Instant::now(), &record) {
                    relinked();
                }
            }
        };
        let thread = std::thread::Builder::new().name("tamper".to_owned()).spawn(watch)?;
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
