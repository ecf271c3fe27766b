//! What an operator may set. Everything else is a constant beside the machine that uses it, with the
//! replay in `tests/quality` as its reason.

use std::collections::BTreeSet;
use std::time::Duration;

use super::finding::Kind;
use super::time::days;

/// See the fields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How long edges are learned before a new one is a finding.
    pub learning: Duration,
    /// A certificate that ends within this is a finding.
    pub certificate_soon: Duration,
    /// A certificate that ends within this is a grave one.
    pub certificate_urgent: Duration,
    /// The lowest TLS version that is no finding, as the minor number on the wire: 3 is TLS 1.2.
    pub tls_floor: u8,
    /// Kinds that nobody wants to hear of.
    pub off: BTreeSet<Kind>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            learning: days(7),
            certificate_soon: days(14),
            certificate_urgent: days(3),
            tls_floor: 3,
            off: BTreeSet::new(),
        }
    }
}
