//! What the detection hears of the proxy's refusals.

use bulkhead_credentials::Reason;
use bulkhead_detect::findings::{Edge, Observation};

use crate::proxy::wire::{Record, reason};

/// Refusals of peers who could not prove who they are, or may not be here under the name that they have.
pub(super) fn suspicious(records: &[Record]) -> Vec<Observation> {
    let ours = [Reason::NoOwnCertificate, Reason::OwnExpired, Reason::Closed];
    let words = |word: &str| {
        let known = Reason::ALL.iter().find(|known| known.as_str() == word && !ours.contains(known));
        let known = known.map(|known| known.as_str());
        known.or_else(|| [reason::UNKNOWN_NAME, reason::DENIED].into_iter().find(|known| *known == word))
    };
    let inbound = records.iter().filter(|record| record.direction == "inbound");
    inbound
        .filter_map(|record| {
            let zone = |zone: Option<&String>| zone.map_or("unknown", String::as_str).into();
            let edge = record.edge.as_ref();
            Some(Observation::AuthenticationFailed {
                edge: Edge { from: zone(edge.map(|edge| &edge.from)), to: zone(edge.map(|edge| &edge.to)) },
                src: record.client.ip(),
                why: words(&record.reason)?,
            })
        })
        .collect()
}
