//! Somebody was at the agent's kernel objects: once is enough.

use super::Machine;
use crate::findings::finding::{Evidence, Key, Kind, Severity, Subject};
use crate::findings::ledger::Ledger;
use crate::findings::observation::{Edge, Observation};
use crate::findings::time::Time;

#[derive(Debug)]
pub(super) struct Tampering;

impl Machine for Tampering {
    fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger) {
        let Observation::Tampered { object, name, how, action, count } = seen else { return };
        let key = Key::new(Kind::Tampering, Edge::node(), Subject::Object(format!("{object} {name}")));
        ledger.raise(at, key, Severity::Critical, *count, || {
            Evidence::new().with("how", how).with("action", action)
        });
    }
}
