//! TLS of a version below the floor.

use super::Machine;
use crate::findings::finding::{Evidence, Key, Kind, Severity, Subject};
use crate::findings::ledger::Ledger;
use crate::findings::observation::Observation;
use crate::findings::time::Time;

#[derive(Debug)]
pub(super) struct TlsVersion {
    /// Minor number on the wire.
    pub(super) floor: u8,
}

impl Machine for TlsVersion {
    fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger) {
        let Observation::Handshake { flow, facts } = seen else { return };
        let Some(version) = facts.version.filter(|version| *version < self.floor) else { return };
        // SSL 3.0 is broken (RFC 7568), TLS 1.0 and 1.1 are retired (RFC 8996).
        let severity = if version == 0 { Severity::High } else { Severity::Medium };
        let key = Key::new(Kind::TlsTooOld, flow.edge.clone(), Subject::Port(flow.port_name()));
        ledger.raise(at, key, severity, 1, || {
            Evidence::new()
                .with("version", name(version))
                .with("lowest-wanted", name(self.floor))
                .with("last-source", flow.src)
                .with("last-destination", flow.dst)
        });
    }
}

fn name(minor: u8) -> String {
    match minor.checked_sub(1) {
        None => "SSL 3.0".to_owned(),
        Some(minor) => format!("TLS 1.{minor}"),
    }
}
