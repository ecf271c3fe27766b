//! A port of an edge that has always been encrypted, and now is not, whatever its rule's `tls` says.
//!
//! "Always" is at least [`FLOWS`] encrypted flows over at least [`AGE`], and next to no clear ones. A port
//! that speaks both, as mail and databases do, has no such habit. What is seen while the finding is open
//! does not become habit, so a second regression is found like the first.

use std::collections::HashMap;
use std::time::Duration;

use bulkhead_abi::Class;
use serde::{Deserialize, Serialize};

use super::{EDGES, Machine, make_room};
use crate::findings::finding::{Evidence, Key, Kind, Severity, Subject};
use crate::findings::ledger::Ledger;
use crate::findings::observation::{Edge, Observation};
use crate::findings::time::{Time, days, hours, minutes};
use crate::findings::window::Window;

/// Encrypted flows without which there is no habit.
const FLOWS: f64 = 20.0;
/// Time over which they must have been seen.
const AGE: Duration = hours(2);
/// One clear flow in so many encrypted ones does no harm to the habit: somebody's `curl`.
const STRAYS: f64 = 200.0;
/// Clear flows within [`SOON`] that open a finding, however many are encrypted.
const MANY: f64 = 5.0;
const SOON: Duration = minutes(30);
/// Clear flows within [`LONG`] that open one if at least as many as are encrypted.
const FEW: f64 = 3.0;
const LONG: Duration = hours(6);
/// What was not encrypted for so long has no habit.
const FORGOTTEN: Duration = days(30);

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Port {
    edge: Edge,
    port: String,
    first: Time,
    last: Time,
    encrypted: f64,
    clear: f64,
}

/// What must outlive the process.
pub(super) type Memory = Vec<Port>;

#[derive(Debug)]
pub(super) struct EncryptionStopped {
    ports: HashMap<(Edge, String), State>,
}

#[derive(Debug)]
struct State {
    habit: Port,
    soon: Window,
    long: Window,
    encrypted: Window,
}

impl State {
    fn new(habit: Port) -> Self {
        let [soon, long, encrypted] = [SOON, LONG, LONG].map(Window::new);
        Self { habit, soon, long, encrypted }
    }
}

impl EncryptionStopped {
    pub(super) fn new(memory: Memory) -> Self {
        let ports = memory.into_iter().take(EDGES);
        Self { ports: ports.map(|port| ((port.edge.clone(), port.port.clone()), State::new(port))).collect() }
    }

    pub(super) fn memory(&self) -> Memory {
        self.ports.values().map(|state| state.habit.clone()).collect()
    }
}

impl Machine for EncryptionStopped {
    fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger) {
        let Observation::Classified { flow, class, app, .. } = seen else { return };
        let clear = match class {
            Class::Tls
            | Class::Ssh
            | Class::Quic
            | Class::Dtls
            | Class::WireGuard
            | Class::Ipsec
            | Class::Mutual => false,
            Class::Clear => true,
            // Neither says anything.
            Class::Unknown | Class::StartTls => return,
        };
        let key = (flow.edge.clone(), flow.port_name());
        if !self.ports.contains_key(&key) {
            if clear {
                return;
            }
            make_room(&mut self.ports, EDGES, |state| state.habit.last);
            let (edge, port) = key.clone();
            let habit = Port { edge, port, first: at, last: at, encrypted: 0.0, clear: 0.0 };
            self.ports.insert(key.clone(), State::new(habit));
        }
        let Some(State { habit, soon, long, encrypted }) = self.ports.get_mut(&key) else { return };
        if at.since(habit.last) >= FORGOTTEN {
            (habit.first, habit.encrypted, habit.clear) = (at, 0.0, 0.0);
        }
        if !clear {
            habit.last = at;
            habit.encrypted += 1.0;
            encrypted.add(at, 1);
            if habit.encrypted >= 1_000_000.0 {
                (habit.encrypted, habit.clear) = (habit.encrypted / 2.0, habit.clear / 2.0);
            }
            return;
        }
        let finding = Key::new(Kind::EncryptionStopped, flow.edge.clone(), Subject::Port(habit.port.clone()));
        let used_to = habit.encrypted >= FLOWS && habit.last.since(habit.first) >= AGE;
        let pure = habit.clear <= (habit.encrypted / STRAYS).max(MANY - 1.0);
        let (now, lately) = (soon.add(at, 1), long.add(at, 1));
        let open = ledger.is_live(&finding);
        let enough = now >= MANY || (lately >= FEW && lately >= encrypted.count(at));
        let opens = used_to && pure && enough;
        if !open && !opens {
            habit.clear += 1.0;
            return;
        }
        if !open {
            // The first few of a regression were taken for strays.
            habit.clear = (habit.clear - (lately - 1.0)).max(0.0);
        }
        let count = if open { 1 } else { lately as u64 };
        ledger.raise(at, finding, Severity::High, count, || {
            Evidence::new()
                .with("protocol", app.as_str())
                .with("encrypted-flows-before", habit.encrypted)
                .with("last-encrypted", habit.last.millis() / 1000)
                .with("last-source", flow.src)
                .with("last-destination", flow.dst)
        });
    }
}
