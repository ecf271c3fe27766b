//! Sockets that wait to be used, since to make one the agent has to visit a namespace. Last hops are many, and
//! are made many at a time before anybody waits for one. Tunnels are few, and are made when they are wanted; of
//! who dials one after the other, twice as many each time.
//!
//! Which way it fails: where none is left and no agent is there to make more, the connection is refused.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::link::Link;
use crate::proxy::wire::{Mark, Question};

/// Sockets for last hops that are asked for at once when somebody waits for one of them.
const FEW: u8 = 8;
/// The same when nobody waits.
const MANY: u8 = 32;
/// With fewer than this left, more are asked for.
const LOW: usize = 16;

/// Who dials a tunnel again after so long dials one after the other no more.
const SOON: Duration = Duration::from_secs(1);

/// What a socket is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Use {
    /// The namespace.
    pub(super) place: u64,
    /// The client's address, for a tunnel that is dialled from it; none for a last hop.
    pub(super) bound: Option<IpAddr>,
    pub(super) ipv6: bool,
    /// What the kernel counts its flows as.
    pub(super) mark: Mark,
}

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
    /// When tunnels' sockets were last asked for, and how many.
    asked: HashMap<Use, (Instant, u8)>,
    /// How often some were forgotten: what was asked for before that is not kept, or it would hold a namespace
    /// that nobody lives in.
    forgotten: u64,
}

impl Spare {
    pub(super) fn new(link: Link) -> Self {
        Self(Arc::new(State { link, held: Mutex::default(), asking: AtomicBool::new(false) }))
    }

    /// One for this, and for a connection that began at `since`.
    pub(super) async fn take(&self, of: Use, since: Instant) -> io::Result<OwnedFd> {
        let (socket, left) = self.pop(of);
        if let Some(socket) = socket {
            if of.bound.is_none()
                && left < LOW
                && self.0.link.is_answered()
                && !self.0.asking.swap(true, Ordering::AcqRel)
            {
                let (spare, before) = (self.clone(), self.lock().forgotten);
                tokio::spawn(async move {
                    match spare.made(of, MANY, Instant::now()).await {
                        Ok(sockets) => spare.put(of, sockets, before),
                        Err(error) => {
                            tracing::debug!(%error, netns = of.place, "no sockets were made beforehand")
                        }
                    }
                    spare.0.asking.store(false, Ordering::Release);
                });
            }
            return Ok(socket);
        }
        let (before, count) = self.lock().wanted(of);
        let mut sockets = self.made(of, count, since).await?;
        let socket = sockets.pop();
        self.put(of, sockets, before);
        socket.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Those in a namespace that nobody lives in any more.
    pub(super) fn forget(&self, place: u64) {
        let mut held = self.lock();
        held.sockets.retain(|of, _| of.place != place);
        held.asked.retain(|of, _| of.place != place);
        held.forgotten += 1;
    }

    /// All: what they were to be counted as may be nobody's any more.
    pub(super) fn clear(&self) {
        let mut held = self.lock();
        held.sockets.clear();
        held.asked.clear();
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

    async fn made(&self, of: Use, count: u8, since: Instant) -> io::Result<Vec<OwnedFd>> {
        let Use { place, bound, ipv6, mark } = of;
        self.0.link.sockets(&Question::Sockets { place, bound, ipv6, mark, count }, since).await
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// What was forgotten so far, and how many to ask for now that somebody waits.
    fn wanted(&mut self, of: Use) -> (u64, u8) {
        if of.bound.is_none() {
            return (self.forgotten, FEW);
        }
        // Addresses come and go; what is asked for rarely is asked for one by one anyway.
        self.asked.retain(|_, (when, _)| when.elapsed() < SOON);
        let count = self.asked.get(&of).map_or(1, |(_, before)| before.saturating_mul(2).min(MANY));
        self.asked.insert(of, (Instant::now(), count));
        (self.forgotten, count)
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn sockets_for_tunnels_are_asked_for_one_by_one_unless_many_are_wanted_soon() {
        let of = |place, last| Use {
            place,
            bound: Some(Ipv4Addr::new(10, 0, 0, last).into()),
            ipv6: false,
            mark: Mark { from: 1, to: 2, rule: 0 },
        };
        let mut held = Held::default();
        let mut counts = |of| (0..7).map(|_| held.wanted(of).1).collect::<Vec<_>>();
        assert_eq!(counts(of(1, 1)), [1, 2, 4, 8, 16, 32, 32]);
        assert_eq!(counts(of(1, 2))[..2], [1, 2], "another client");
        assert_eq!(counts(Use { bound: None, ..of(1, 1) }), [FEW; 7], "last hops");
        for (when, _) in held.asked.values_mut() {
            *when -= SOON;
        }
        assert_eq!(held.wanted(of(1, 1)).1, 1, "long ago");
        assert_eq!(held.asked.len(), 1, "what is over is not kept");
    }
}
