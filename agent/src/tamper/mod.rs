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
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::datapath::keep::Watched;

pub use record::{Action, Finding, Record};
use watch::Entry;

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(100);

/// The watch; it ends when this is dropped, and nothing is put back from then on.
#[derive(Debug)]
pub struct Watch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to watch over `things`. `relinked` is called after a link was made anew: what was opened while it was off
    /// has yet to be judged.
    pub fn start(
        things: Vec<Box<dyn Watched>>,
        record: Arc<Record>,
        relinked: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let mut entries: Vec<Entry> = things.into_iter().map(Entry::new).collect();
        let watch = move || {
            while stopped.recv_timeout(PERIOD) == Err(mpsc::RecvTimeoutError::Timeout) {
                let now = Instant::now();
                // All of them at each look: no short cut.
                let made =
                    entries.iter_mut().map(|entry| entry.look(now, &record)).filter(|made| *made).count();
                if made > 0 {
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
