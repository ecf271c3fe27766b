//! The inventory as it is told. Field names are those of JSON: one that is there keeps its name and its
//! meaning.

use bulkhead_abi::Protocol;
use serde::{Deserialize, Serialize};

use super::known::{Known, Seen};
use super::{Entry, Service};
use crate::hello::CertificateSummary;

/// One line of the inventory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Line {
    /// What the kernel counted on an edge, over all ports: exact.
    Edge(EdgeClass),
    /// What was seen of a service.
    Service(Box<ServiceView>),
}

/// Flows of one class on an edge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EdgeClass {
    /// Zones of the openers.
    pub from: String,
    /// Zones of the receivers.
    pub to: String,
    /// How they are encrypted.
    pub class: String,
    /// What they speak.
    pub protocol: String,
    /// What their rule wants.
    pub tls: String,
    /// What came of it.
    pub verdict: String,
    /// How many.
    pub flows: u64,
}

/// A service: an edge and a port.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceView {
    /// Zones of the openers.
    pub from: String,
    /// Zones of the receiver.
    pub to: String,
    /// `tcp`, `udp`, or the number of the protocol.
    pub transport: String,
    /// The receiver's port.
    pub port: u16,
    /// Seconds since 1970.
    pub first_seen: u64,
    /// Seconds since 1970.
    pub last_seen: u64,
    /// Classes that were told of this service. Told, not counted: of many alike in a short time the kernel
    /// tells one.
    pub classes: Vec<ClassView>,
    /// Handshakes, by what was agreed on.
    pub handshakes: Vec<RowView>,
    /// Handshakes in which the client offered a group that withstands a quantum computer.
    pub post_quantum_offered: u64,
    /// Handshakes that went on with an older session.
    pub resumed: u64,
    /// Groups that clients offered.
    pub groups_offered: NamesView,
    /// Names that clients asked for.
    pub server_names: NamesView,
    /// Application protocols: those chosen, and where that is encrypted, those offered.
    pub alpn: NamesView,
    /// Fingerprints of clients.
    pub ja4: NamesView,
    /// Certificates that the server showed.
    pub certificates: Vec<CertificateSummary>,
}

/// A class that was told of a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClassView {
    /// How it is encrypted.
    pub class: String,
    /// What it speaks.
    pub protocol: String,
    /// Seconds since 1970.
    pub first_seen: u64,
    /// Seconds since 1970.
    pub last_seen: u64,
}

/// Handshakes that agreed on the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RowView {
    /// `tls` or `dtls`.
    pub class: String,
    /// The protocol whose STARTTLS dialogue led to it, or `unknown`.
    pub protocol: String,
    /// The version.
    pub version: String,
    /// The cipher suite.
    pub cipher: String,
    /// `strong`, `dated`, `weak`, `unknown`.
    pub cipher_strength: String,
    /// The group of the key exchange.
    pub group: String,
    /// `classic`, `hybrid`, `post-quantum`, `unknown`.
    pub group_kind: String,
    /// How many.
    pub flows: u64,
    /// Seconds since 1970.
    pub first_seen: u64,
    /// Seconds since 1970.
    pub last_seen: u64,
}

/// Names, those seen most often first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NamesView {
    /// Each with how often it was seen.
    pub names: Vec<(String, u64)>,
    /// Names that had to make room for these.
    pub more: u64,
}

impl NamesView {
    /// The names in one line.
    pub fn joined(&self, separator: &str) -> String {
        let mut names: Vec<String> = self.names.iter().map(|(name, _)| name.clone()).collect();
        if self.more > 0 {
            names.push(format!("and {} more", self.more));
        }
        names.join(separator)
    }
}

/// What there is to say of a service.
pub(super) fn service(service: &Service, entry: &Entry) -> ServiceView {
    let classes: Vec<ClassView> = entry
        .classes
        .iter()
        .map(|((class, protocol), seen)| ClassView {
            class: class.clone(),
            protocol: protocol.clone(),
            first_seen: seen.first,
            last_seen: seen.last,
        })
        .collect();
    let handshakes: Vec<RowView> = entry
        .rows
        .iter()
        .map(|(row, seen)| RowView {
            class: row.class.clone(),
            protocol: row.protocol.clone(),
            version: row.version.clone(),
            cipher: row.cipher.clone(),
            cipher_strength: row.strength.clone(),
            group: row.group.clone(),
            group_kind: row.group_kind.clone(),
            flows: seen.flows,
            first_seen: seen.first,
            last_seen: seen.last,
        })
        .collect();
    let times = classes.iter().map(|class| (class.first_seen, class.last_seen));
    let times = times.chain(handshakes.iter().map(|row| (row.first_seen, row.last_seen)));
    let (first, last) = times.fold((u64::MAX, 0), |(first, last), (a, b)| (first.min(a), last.max(b)));
    ServiceView {
        from: service.from.to_string(),
        to: service.to.to_string(),
        transport: match Protocol(service.protocol) {
            Protocol::TCP => "tcp".to_owned(),
            Protocol::UDP => "udp".to_owned(),
            Protocol(number) => number.to_string(),
        },
        port: service.port,
        first_seen: if first == u64::MAX { 0 } else { first },
        last_seen: last,
        classes,
        handshakes,
        post_quantum_offered: entry.post_quantum_offered,
        resumed: entry.resumed,
        groups_offered: names(&entry.groups_offered),
        server_names: names(&entry.server_names),
        alpn: names(&entry.alpn),
        ja4: names(&entry.ja4),
        certificates: entry.certificates.iter().map(|(_, (certificate, _))| certificate.clone()).collect(),
    }
}

fn names(known: &Known<String, Seen>) -> NamesView {
    let mut names: Vec<(String, u64)> = known.iter().map(|(name, seen)| (name.clone(), seen.flows)).collect();
    names.sort_by(|(a, one), (b, other)| other.cmp(one).then_with(|| a.cmp(b)));
    NamesView { names, more: known.more() }
}
