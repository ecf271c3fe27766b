//! Chains that one [`crate::Trust`] has believed: the same few peers shake hands again and again, and what
//! was said of a chain holds for as long as nothing that it rests on has changed.
//!
//! What it rests on is the bundle, its lists and the chain's own dates. Of the first two there is nothing to
//! check: this belongs to one value of the trust and goes with it, so a new root, a withdrawn one or a new
//! list begins with nothing known. A chain's dates are looked at each time, those of every certificate that
//! came along. Only what was believed is kept; a refusal is found anew each time.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::certificate::{Facts, Moment, parse};
use crate::trust::Usage;

/// Most chains that are kept; beyond it all are forgotten at once, and verified again.
const MOST: usize = 4096;

/// A chain and what it was put to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

/// See the module's comment.
#[derive(Default)]
pub(crate) struct Verified(Mutex<HashMap<Key, Believed>>);

struct Believed {
    facts: Facts,
    /// The last of the first seconds of all of its certificates, and the first of the last ones.
    from: Moment,
    until: Moment,
}

impl Key {
    pub(crate) fn of(chain: &[CertificateDer<'_>], usage: Usage) -> Self {
        let mut hash = Sha256::new();
        hash.update([match usage {
            Usage::Client => 0,
            Usage::Server => 1,
        }]);
        for certificate in chain {
            // With its length, so that no two chains are one row of bytes.
            hash.update((certificate.len() as u64).to_le_bytes());
            hash.update(certificate);
        }
        Self(hash.finalize().into())
    }
}

impl Verified {
    /// What the chain says, if it was believed before and all of it is within its dates at `now`.
    pub(crate) fn get(&self, key: &Key, now: Moment) -> Option<Facts> {
        let known = self.lock();
        let known = known.get(key)?;
        (known.from..=known.until).contains(&now).then(|| known.facts.clone())
    }

    /// `chain` was believed. One with a certificate whose dates cannot be read is verified each time.
    pub(crate) fn put(&self, key: Key, chain: &[CertificateDer<'_>], facts: &Facts) {
        let (mut from, mut until) = (facts.not_before, facts.not_after);
        for certificate in chain {
            let Ok(parsed) = parse(certificate) else { return };
            from = from.max(Moment(parsed.validity().not_before.timestamp()));
            until = until.min(Moment(parsed.validity().not_after.timestamp()));
        }
        let mut known = self.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(key, Believed { facts: facts.clone(), from, until });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Believed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
