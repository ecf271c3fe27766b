//! One line of what an authority has issued.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::certificate::{Moment, Serial, parse, presented};
use crate::material::Der;

/// A certificate, as `bulkhead ca show` lists it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Entry {
    /// What it is for.
    pub kind: Kind,
    /// A workload's SPIFFE name; of an authority, the common name.
    pub name: String,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// Its first second.
    pub not_before: Moment,
    /// Its last second.
    pub not_after: Moment,
    /// SHA-256 over the certificate, in hexadecimal digits.
    pub fingerprint: String,
    /// Whether it is good now.
    pub state: State,
}

/// What a certificate is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The beginning of all.
    Root,
    /// A node's, which issues workloads'.
    Node,
    /// A workload's.
    Workload,
}

/// Whether a certificate is good.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is.
    Good,
    /// Its time is over.
    Expired,
    /// It is on the revocation list.
    Revoked,
    /// A root that was taken out of the bundle.
    Retired,
}

impl Kind {
    /// The word of the listing.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Node => "node",
            Self::Workload => "workload",
        }
    }

    pub(super) fn of(der: &Der) -> Self {
        match parse(&der.certificate()) {
            Ok(parsed) if parsed.is_ca() => Self::Node,
            _ => Self::Workload,
        }
    }
}

impl State {
    /// The word of the listing.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Retired => "retired",
        }
    }
}

impl Entry {
    pub(super) fn new(der: &Der, kind: Kind, revoked: bool) -> Self {
        let certificate = der.certificate();
        let mut entry = Self {
            kind,
            name: presented(&certificate).names.into_iter().next().unwrap_or_default(),
            serial: String::new(),
            not_before: Moment(0),
            not_after: Moment(0),
            fingerprint: Sha256::digest(der.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect(),
            state: State::Good,
        };
        if let Ok(parsed) = parse(&certificate) {
            entry.serial = Serial::new(parsed.raw_serial()).to_string();
            entry.not_before = Moment(parsed.validity().not_before.timestamp());
            entry.not_after = Moment(parsed.validity().not_after.timestamp());
            let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
            if let (Some(common_name), Kind::Root | Kind::Node) = (common_name, kind) {
                entry.name = common_name.to_owned();
            }
        }
        if revoked {
            entry.state = State::Revoked;
        } else if entry.not_after < Moment::now() {
            entry.state = State::Expired;
        }
        entry
    }
}
