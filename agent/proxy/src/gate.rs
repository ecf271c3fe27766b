//! What is refused because there is too much of it: connections, handshakes of others, memory. The limits
//! may change while connections live; those that live are left alone.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::end::{Refusal, reason};

/// How old a look at the memory may be.
const LOOK: Duration = Duration::from_millis(50);

/// How much there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most connections at a time, both directions; more are refused (`too-many-connections`). There are no more
    /// tunnels that others have dialled, either.
    pub connections: usize,
    /// Most handshakes that others may begin in a second; more are refused (`too-many-handshakes`).
    pub handshakes_per_second: u32,
    /// Bytes that the process may have resident; while it has more, new connections are refused
    /// (`too-much-memory`).
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 65_536, handshakes_per_second: 1000, memory: 1 << 30 }
    }
}

/// What wants to come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Guest {
    /// A program's connection, be it turned in or carried by a tunnel.
    Connection,
    /// A tunnel that somebody has dialled, with a handshake to come.
    Tunnel,
}

/// Where connections come in.
#[derive(Debug)]
pub(crate) struct Gate {
    connections: AtomicUsize,
    tunnels: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    /// A token bucket of one second: handshakes that may be begun, and when it was filled.
    tokens: f64,
    filled: Instant,
    /// Bytes of memory, and when they were looked at.
    resident: Option<(u64, Instant)>,
}

/// A guest's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Gate>, Guest);

impl Gate {
    pub(crate) fn new(limits: Limits) -> Self {
        let tokens = f64::from(limits.handshakes_per_second);
        let state = State { limits, tokens, filled: Instant::now(), resident: None };
        Self { connections: AtomicUsize::new(0), tunnels: AtomicUsize::new(0), state: Mutex::new(state) }
    }

    /// Other limits from now on.
    pub(crate) fn set(&self, limits: Limits) {
        self.lock().limits = limits;
    }

    /// Lets one in, or says why not. `resident` tells the memory in bytes, and is asked now and then.
    pub(crate) fn enter(
        self: &Arc<Self>,
        guest: Guest,
        resident: impl FnOnce() -> u64,
    ) -> Result<Permit, Refusal> {
        let mut state = self.lock();
        if self.open(guest).load(Relaxed) >= state.limits.connections {
            let text = "as many connections as are configured live";
            return Err(Refusal::new(reason::CONNECTIONS, text));
        }
        let memory = state.memory(resident);
        if memory > state.limits.memory {
            let text = format!(
                "the proxy holds {} MiB of memory, and {} MiB are configured",
                memory >> 20,
                state.limits.memory >> 20
            );
            return Err(Refusal::new(reason::MEMORY, text));
        }
        if guest == Guest::Tunnel && !state.may_shake_hands() {
            let text = "more handshakes a second than are configured";
            return Err(Refusal::new(reason::HANDSHAKES, text));
        }
        // Only here is anything added, and the lock is held.
        self.open(guest).fetch_add(1, Relaxed);
        drop(state);
        Ok(Permit(Arc::clone(self), guest))
    }

    const fn open(&self, guest: Guest) -> &AtomicUsize {
        match guest {
            Guest::Connection => &self.connections,
            Guest::Tunnel => &self.tunnels,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open(self.1).fetch_sub(1, Relaxed);
    }
}

impl State {
    fn memory(&mut self, resident: impl FnOnce() -> u64) -> u64 {
        match self.resident {
            Some((bytes, when)) if when.elapsed() < LOOK => bytes,
            _ => {
                let bytes = resident();
                self.resident = Some((bytes, Instant::now()));
                bytes
            }
        }
    }

    fn may_shake_hands(&mut self) -> bool {
        let rate = f64::from(self.limits.handshakes_per_second);
        self.tokens = (self.tokens + self.filled.elapsed().as_secs_f64() * rate).min(rate);
        self.filled = Instant::now();
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn limits_may_change_while_connections_live() {
        let gate = Arc::new(Gate::new(Limits { connections: 1, ..Limits::default() }));
        let first = gate.enter(Guest::Connection, || 0).unwrap();
        assert_eq!(gate.enter(Guest::Connection, || 0).unwrap_err().reason, reason::CONNECTIONS);
        gate.set(Limits { connections: 2, ..Limits::default() });
        let _second = gate.enter(Guest::Connection, || 0).unwrap();
        assert_eq!(gate.enter(Guest::Connection, || 0).unwrap_err().reason, reason::CONNECTIONS);
        drop(first);
        gate.enter(Guest::Connection, || 0).unwrap();
    }

    #[test]
    fn what_holds_too_much_memory_takes_nothing_new() {
        let gate = Arc::new(Gate::new(Limits { memory: 32 << 20, ..Limits::default() }));
        let refusal = gate.enter(Guest::Tunnel, || 33 << 20).unwrap_err();
        assert_eq!(refusal.reason, reason::MEMORY);
        assert!(refusal.text.contains("33 MiB") && refusal.text.contains("32 MiB"), "{refusal}");
        std::thread::sleep(LOOK);
        gate.enter(Guest::Tunnel, || 31 << 20).unwrap();
    }
}
