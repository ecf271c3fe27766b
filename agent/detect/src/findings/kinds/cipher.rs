//! A cipher that is broken.

use super::Machine;
use crate::findings::finding::{Evidence, Key, Kind, Severity, Subject};
use crate::findings::ledger::Ledger;
use crate::findings::observation::{Observation, Strength};
use crate::findings::time::Time;

#[derive(Debug)]
pub(super) struct Cipher;

impl Machine for Cipher {
    fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger) {
        let Observation::Handshake { flow, facts } = seen else { return };
        if facts.strength != Strength::Weak {
            return;
        }
        let key = Key::new(Kind::WeakCipher, flow.edge.clone(), Subject::Port(flow.port_name()));
        ledger.raise(at, key, Severity::High, 1, || {
            Evidence::new()
                .with("cipher", facts.cipher.as_deref().unwrap_or("unknown"))
                .with("last-source", flow.src)
                .with("last-destination", flow.dst)
        });
    }
}
