//! Sockets for last hops that wait to be used: the agent makes many at a time, before anybody waits for one.
//!
//! Which way it fails: where none is left and no agent is there to make more, the connection is refused.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::link::Link;
use crate::proxy::wire::{Mark, Question};

/// Sockets that are asked for at once when somebody waits for one of them.
const FEW: u8 = 8;
/// The same when nobody waits.
const MANY: u8 = 32;
/// With fewer than this left, more are asked for.
const LOW: usize = 16;

/// What a socket is for: the namespace, whether it is for IPv6, and what the kernel counts its flows as.
pub(super) type Use = (u64, bool, Mark);

/// See the module's comment. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Spare(Arc<State>);

#[derive(Debug)]
struct State {
    link: Link,
    held: Mutex<Held>,
    /// More are asked for; one question at a time is enough.
    asking: AtomicBool,
}

#[derive(Debug, Default)]
struct Held {
    sockets: HashMap<Use, Vec<OwnedFd>>,
    /// How often some were forgotten: what was asked for before that is not kept, or it would hold a namespace
    /// that nobody lives in.
    forgotten: u64,
}

impl Spare {
    pub(super) fn new(link: Link) -> Self {
        Self(Arc::new(State { link, held: Mutex::default(), asking: AtomicBool::new(false) }))
    }

    /// One for this.
    pub(super) async fn take(&self, of: Use) -> io::Result<OwnedFd> {
        let (socket, left) = self.pop(of);
        if let Some(socket) = socket {
            if left < LOW && self.0.link.is_answered() && !self.0.asking.swap(true, Ordering::AcqRel) {
                let (spare, before) = (self.clone(), self.lock().forgotten);
                tokio::spawn(async move {
                    match spare.made(of, MANY).await {
                        Ok(sockets) => spare.put(of, sockets, before),
                        Err(error) => {
                            tracing::debug!(%error, netns = of.0, "no sockets were made beforehand")
                        }
                    }
                    spare.0.asking.store(false, Ordering::Release);
                });
            }
            return Ok(socket);
        }
        let before = self.lock().forgotten;
        let mut sockets = self.made(of, FEW).await?;
        let socket = sockets.pop();
        self.put(of, sockets, before);
        socket.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Those in a namespace that nobody lives in any more.
    pub(super) fn forget(&self, place: u64) {
        let mut held = self.lock();
        held.sockets.retain(|(of, ..), _| *of != place);
        held.forgotten += 1;
    }

    /// All: what they were to be counted as may be nobody's any more.
    pub(super) fn clear(&self) {
        let mut held = self.lock();
        held.sockets.clear();
        held.forgotten += 1;
    }

    fn pop(&self, of: Use) -> (Option<OwnedFd>, usize) {
        match self.lock().sockets.get_mut(&of) {
            Some(sockets) => (sockets.pop(), sockets.len()),
            None => (None, 0),
        }
    }

    /// Keeps what was asked for when so many had been forgotten.
    fn put(&self, of: Use, mut sockets: Vec<OwnedFd>, before: u64) {
        let mut held = self.lock();
        if held.forgotten == before {
            held.sockets.entry(of).or_default().append(&mut sockets);
        }
    }

    async fn made(&self, of: Use, count: u8) -> io::Result<Vec<OwnedFd>> {
        let (place, ipv6, mark) = of;
        self.0.link.sockets(Question::Sockets { place, bound: None, ipv6, mark, count }).await
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
