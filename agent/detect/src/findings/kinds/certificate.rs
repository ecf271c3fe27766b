//! Certificates that have ended, or will soon. Only where the handshake shows them: TLS 1.2 and before.

use std::net::SocketAddr;
use std::time::Duration;

use super::Machine;
use crate::findings::finding::{Evidence, Key, Kind, Severity, Subject};
use crate::findings::ledger::Ledger;
use crate::findings::observation::Observation;
use crate::findings::time::Time;

#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) soon: Duration,
    pub(super) urgent: Duration,
}

impl Machine for Certificate {
    fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger) {
        let Observation::Handshake { flow, facts } = seen else { return };
        let Some(not_after) = facts.not_after else { return };
        let server = Subject::Server(SocketAddr::new(flow.dst, flow.port));
        let key = |kind| Key::new(kind, flow.edge.clone(), server.clone());
        let left = not_after.since(at);
        let (kind, severity) = match () {
            () if not_after <= at => (Kind::CertificateExpired, Severity::High),
            () if left <= self.urgent => (Kind::CertificateExpiring, Severity::High),
            () if left <= self.soon => (Kind::CertificateExpiring, Severity::Medium),
            () => {
                // It was renewed.
                ledger.clear(at, &key(Kind::CertificateExpired));
                ledger.clear(at, &key(Kind::CertificateExpiring));
                return;
            }
        };
        let other = match kind {
            Kind::CertificateExpired => Kind::CertificateExpiring,
            _ => Kind::CertificateExpired,
        };
        ledger.clear(at, &key(other));
        ledger.raise(at, key(kind), severity, 1, || {
            Evidence::new()
                .with("name", facts.name.as_deref().unwrap_or("unknown"))
                .with("not-after", not_after.millis() / 1000)
                .with("days-left", not_after.since(at).as_secs() / 86_400)
                .with("last-source", flow.src)
        });
    }
}
