//! What is encrypted between whom, and how well: by zone edge and service port, in bounded memory.
//!
//! Fed with handshakes and classes, with the time handed in as seconds since 1970. Each set of names has
//! room for so many; then the one that was not seen for longest makes room, and is counted as one of
//! "and N more". What is kept can be written down and read again (serde): an agent that is restarted goes
//! on with the list it had.

mod csv;
mod known;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_abi::{App, Class};
use serde::{Deserialize, Serialize};

use crate::hello::{CertificateSummary, Handshake, Summary, Transport};

pub use csv::{COLUMNS, csv};
pub use known::{Known, Seen};
pub use view::{ClassView, EdgeClass, Line, NamesView, RowView, ServiceView};

/// Services that are kept.
const SERVICES: usize = 4096;
/// Kinds of handshake of one service.
const ROWS: usize = 64;
/// Classes of one service, with what it speaks.
const CLASSES: usize = 32;
/// Names in each of a service's sets.
const NAMES: usize = 24;

/// A service, as it is seen from one side: who opens, who receives, and where.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Service {
    /// Zones of the openers.
    pub from: Arc<str>,
    /// Zones of the receiver.
    pub to: Arc<str>,
    /// IP protocol number.
    pub protocol: u8,
    /// The receiver's port.
    pub port: u16,
}

/// Everything that is known.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    services: Known<Service, Entry>,
}

impl Default for Inventory {
    fn default() -> Self {
        Self { services: Known::new(SERVICES) }
    }
}

/// What is known of one service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Entry {
    classes: Known<(String, String), Seen>,
    rows: Known<Row, Seen>,
    groups_offered: Known<String, Seen>,
    server_names: Known<String, Seen>,
    alpn: Known<String, Seen>,
    ja4: Known<String, Seen>,
    certificates: Known<String, (CertificateSummary, Seen)>,
    post_quantum_offered: u64,
    resumed: u64,
}

/// What two ends agree on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
struct Row {
    class: String,
    protocol: String,
    version: String,
    cipher: String,
    strength: String,
    group: String,
    group_kind: String,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            classes: Known::new(CLASSES),
            rows: Known::new(ROWS),
            groups_offered: Known::new(NAMES),
            server_names: Known::new(NAMES),
            alpn: Known::new(NAMES),
            ja4: Known::new(NAMES),
            certificates: Known::new(NAMES),
            post_quantum_offered: 0,
            resumed: 0,
        }
    }
}

impl Inventory {
    /// A flow to `service` was of this class and protocol.
    pub fn class(&mut self, service: Service, class: Class, app: App, now: u64) {
        let named = (class.as_str().to_owned(), app.as_str().to_owned());
        self.services.at(service, now).classes.at(named, now).again(now);
    }

    /// A handshake with `service` was read; `app` is the protocol whose STARTTLS dialogue led to it.
    pub fn handshake(&mut self, service: Service, app: App, handshake: &Handshake, now: u64) {
        let class = match handshake.transport {
            Transport::Tcp => Class::Tls,
            Transport::Dtls => Class::Dtls,
            Transport::Quic => Class::Quic,
        };
        let summary = Summary::from(handshake);
        let entry = self.services.at(service, now);
        let unknown = || "unknown".to_owned();
        let row = Row {
            class: class.as_str().to_owned(),
            protocol: app.as_str().to_owned(),
            version: summary.version.unwrap_or_else(unknown),
            cipher: summary.cipher.unwrap_or_else(unknown),
            strength: summary.cipher_strength.unwrap_or_else(unknown),
            group: summary.group.unwrap_or_else(unknown),
            group_kind: summary.group_kind.unwrap_or_else(unknown),
        };
        entry.rows.at(row, now).again(now);
        entry.post_quantum_offered += u64::from(summary.post_quantum_offered == Some(true));
        entry.resumed += u64::from(summary.resumed);
        // What is chosen says more than what is offered.
        let alpn = summary.alpn.map_or(summary.alpn_offered, |chosen| vec![chosen]);
        let sets = [
            (&mut entry.groups_offered, summary.groups_offered),
            (&mut entry.server_names, summary.server_name.into_iter().collect()),
            (&mut entry.alpn, alpn),
            (&mut entry.ja4, summary.ja4.into_iter().collect()),
        ];
        for (set, names) in sets {
            for name in names {
                set.at(name, now).again(now);
            }
        }
        if let Some(certificate) = summary.certificate {
            let name = format!("{} {}", certificate.issuer, certificate.serial);
            let (kept, seen) = entry.certificates.at(name, now);
            *kept = certificate;
            seen.again(now);
        }
    }

    /// Services that had to make room.
    pub const fn forgotten(&self) -> u64 {
        self.services.more()
    }

    /// For each edge the end of the certificate that ends first, of those that were seen since `since`.
    pub fn expiries(&self, since: u64) -> BTreeMap<(Arc<str>, Arc<str>), i64> {
        let mut ends = BTreeMap::new();
        for (service, entry) in self.services.iter() {
            let recent = entry.certificates.iter().filter(|(_, (_, seen))| seen.last >= since);
            let Some(end) = recent.map(|(_, (certificate, _))| certificate.not_after).min() else { continue };
            let edge = (Arc::clone(&service.from), Arc::clone(&service.to));
            ends.entry(edge).and_modify(|earliest: &mut i64| *earliest = end.min(*earliest)).or_insert(end);
        }
        ends
    }

    /// Every service, in order.
    pub fn services(&self) -> impl Iterator<Item = ServiceView> + '_ {
        self.services.iter().map(|(service, entry)| view::service(service, entry))
    }
}

#[cfg(test)]
mod tests;
