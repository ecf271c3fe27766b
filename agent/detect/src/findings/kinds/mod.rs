//! One machine for each kind of finding, or for two that are told from the same numbers.
//!
//! A machine takes what it understands, keeps little, and raises what it finds; when a finding ends is the
//! ledger's business, except where the machine knows better. Opening takes more than keeping open does, so
//! that a number at the threshold is one finding and not a hundred.

mod authentication;
mod certificate;
mod cipher;
mod denied_burst;
mod encryption_stopped;
mod event_loss;
mod new_edge;
mod plaintext;
mod scan;
mod syn_flood;
mod table;
mod tampering;
mod tls_version;
mod unusual;

use std::collections::HashMap;
use std::hash::Hash;

use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use super::observation::Observation;
use super::settings::Settings;
use super::time::Time;

/// Edges of which a machine keeps something.
const EDGES: usize = 2048;

/// What makes findings of observations.
trait Machine {
    /// Something was seen.
    fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger);
    /// Time passed.
    fn tick(&mut self, _at: Time, _ledger: &mut Ledger) {}
}

/// All of them.
#[derive(Debug)]
pub(super) struct Machines {
    plaintext: plaintext::Plaintext,
    tls_version: tls_version::TlsVersion,
    cipher: cipher::Cipher,
    certificate: certificate::Certificate,
    encryption_stopped: encryption_stopped::EncryptionStopped,
    denied_burst: denied_burst::DeniedBurst,
    scan: scan::Scan,
    new_edge: new_edge::NewEdge,
    unusual: unusual::Unusual,
    syn_flood: syn_flood::SynFlood,
    table: table::Table,
    authentication: authentication::Authentication,
    tampering: tampering::Tampering,
    event_loss: event_loss::EventLoss,
}

/// What must outlive the process.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    edges: new_edge::Memory,
    encryption: encryption_stopped::Memory,
    habits: unusual::Memory,
}

impl Machines {
    pub(super) fn new(settings: &Settings, memory: Memory, at: Time) -> Self {
        Self {
            plaintext: plaintext::Plaintext,
            tls_version: tls_version::TlsVersion { floor: settings.tls_floor },
            cipher: cipher::Cipher,
            certificate: certificate::Certificate {
                soon: settings.certificate_soon,
                urgent: settings.certificate_urgent,
            },
            encryption_stopped: encryption_stopped::EncryptionStopped::new(memory.encryption),
            denied_burst: denied_burst::DeniedBurst::default(),
            scan: scan::Scan::default(),
            new_edge: new_edge::NewEdge::new(settings.learning, memory.edges, at),
            unusual: unusual::Unusual::new(memory.habits),
            syn_flood: syn_flood::SynFlood::default(),
            table: table::Table::default(),
            authentication: authentication::Authentication::default(),
            tampering: tampering::Tampering,
            event_loss: event_loss::EventLoss::default(),
        }
    }

    pub(super) fn memory(&self) -> Memory {
        Memory {
            edges: self.new_edge.memory(),
            encryption: self.encryption_stopped.memory(),
            habits: self.unusual.memory(),
        }
    }

    pub(super) fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger) {
        for machine in self.all() {
            machine.observe(at, seen, ledger);
        }
    }

    pub(super) fn tick(&mut self, at: Time, ledger: &mut Ledger) {
        for machine in self.all() {
            machine.tick(at, ledger);
        }
    }

    fn all(&mut self) -> [&mut dyn Machine; 14] {
        [
            &mut self.plaintext,
            &mut self.tls_version,
            &mut self.cipher,
            &mut self.certificate,
            &mut self.encryption_stopped,
            &mut self.denied_burst,
            &mut self.scan,
            &mut self.new_edge,
            &mut self.unusual,
            &mut self.syn_flood,
            &mut self.table,
            &mut self.authentication,
            &mut self.tampering,
            &mut self.event_loss,
        ]
    }
}

/// Makes room in a table that is full: the quarter with the lowest rank goes, so that the price is paid
/// once in a while and not for each newcomer.
fn make_room<K: Clone + Eq + Hash, V, R: Ord>(
    table: &mut HashMap<K, V>,
    capacity: usize,
    rank: impl Fn(&V) -> R,
) {
    if table.len() < capacity {
        return;
    }
    let mut ranked: Vec<(R, K)> = table.iter().map(|(key, value)| (rank(value), key.clone())).collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, key) in ranked.into_iter().take(capacity / 4 + 1) {
        table.remove(&key);
    }
}
