//! Revocation lists (RFC 5280, section 5).
//!
//! A list counts for a certificate if its issuer's name is the certificate's issuer's and its signature
//! fits the key of that issuer. A list that bears the name of an issuer, and the signature of somebody
//! else, is no answer: then the certificate is refused, unless another list answers, or the list was
//! made by an earlier root of the same name. A list that is past its `nextUpdate` goes on to count: a
//! certificate that was revoked does not come back because nobody made a new list.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rustls_pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::{CertRevocationList, OwnedCertRevocationList, RawPublicKeyEntity};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::certificate::{Moment, Serial};
use crate::material::Der;

type Algorithms = &'static [&'static dyn SignatureVerificationAlgorithm];

/// A list that was read.
pub(crate) struct List {
    entries: CertRevocationList<'static>,
    raw: Vec<u8>,
    /// When a newer one was promised for.
    pub(crate) next_update: Option<Moment>,
    algorithms: Algorithms,
    /// What was found for a key: keys of issuers whose certificates were verified, so they are few.
    signed_by: Mutex<HashMap<Vec<u8>, bool>>,
}

/// What the lists say of one certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Status {
    Good,
    Revoked,
    /// The lists that should answer cannot be believed.
    Unknown,
}

impl List {
    pub(crate) fn read(der: &Der, algorithms: Algorithms) -> Result<Self, String> {
        let entries = OwnedCertRevocationList::from_der(der.as_bytes()).map_err(|error| error.to_string())?;
        let next_update = match CertificateRevocationList::from_der(der.as_bytes()) {
            Ok(([], parsed)) => parsed.next_update().map(|time| Moment(time.timestamp())),
            Ok(_) => return Err("bytes follow after its end".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        Ok(Self {
            entries: entries.into(),
            raw: der.as_bytes().to_vec(),
            next_update,
            algorithms,
            signed_by: Mutex::default(),
        })
    }

    /// The issuer's name, as the contents of its DER sequence.
    pub(crate) fn issuer(&self) -> &[u8] {
        self.entries.issuer()
    }

    pub(crate) fn lists(&self, serial: &[u8]) -> bool {
        // What cannot be looked up counts as listed.
        !matches!(self.entries.find_serial(serial), Ok(None))
    }

    /// Whether the holder of `key` made this list.
    pub(crate) fn is_signed_by(&self, key: &SubjectPublicKeyInfoDer<'_>) -> bool {
        let mut known = self.signed_by.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = known.get(key.as_ref()) {
            return *answer;
        }
        let answer = self.verify(key).is_some();
        known.insert(key.to_vec(), answer);
        answer
    }

    fn verify(&self, key: &SubjectPublicKeyInfoDer<'_>) -> Option<()> {
        let key = RawPublicKeyEntity::try_from(key).ok()?;
        let (whole, _) = element(&self.raw)?;
        let (signed, rest) = element(whole.contents)?;
        let (algorithm, rest) = element(rest)?;
        let (signature, _) = element(rest)?;
        // A bit string without unused bits.
        let signature = signature.contents.strip_prefix(&[0])?;
        self.algorithms
            .iter()
            .filter(|known| known.signature_alg_id().as_ref() == algorithm.contents)
            .find(|known| key.verify_signature(**known, signed.whole, signature).is_ok())
            .map(|_| ())
    }
}

/// What `lists` say of the certificate with `serial` from `issuer`, whose key is `key`. Lists that one of
/// `elders` signed, earlier holders of the issuer's name, count for theirs only.
pub(crate) fn status(
    lists: &[List],
    issuer: &[u8],
    serial: &[u8],
    key: &SubjectPublicKeyInfoDer<'_>,
    elders: &[SubjectPublicKeyInfoDer<'static>],
) -> Status {
    let mut doubtful = false;
    let mut answered = false;
    for list in lists.iter().filter(|list| list.issuer() == issuer) {
        if list.is_signed_by(key) {
            answered = true;
            if list.lists(serial) {
                return Status::Revoked;
            }
        } else if !elders.iter().any(|elder| list.is_signed_by(elder)) {
            doubtful = true;
        }
    }
    if doubtful && !answered { Status::Unknown } else { Status::Good }
}

/// The revocation by name and serial alone, without a signature: for connections whose certificates were
/// verified once.
pub(crate) fn mentions(lists: &[List], issuer: &[u8], serial: &[u8]) -> bool {
    lists.iter().any(|list| list.issuer() == issuer && list.lists(serial))
}

/// Whether one of `lists` names `certificate`, for a listing: no signature is looked at.
pub(crate) fn is_listed(lists: &[Der], certificate: &Der) -> bool {
    let certificate = certificate.certificate();
    let Ok(parsed) = crate::certificate::parse(&certificate) else { return false };
    let serial = Serial::new(parsed.raw_serial());
    lists.iter().any(|list| match CertificateRevocationList::from_der(list.as_bytes()) {
        Ok((_, list)) => {
            list.issuer().as_raw() == parsed.issuer().as_raw()
                && list.iter_revoked_certificates().any(|entry| Serial::new(entry.raw_serial()) == serial)
        }
        Err(_) => false,
    })
}

/// The issuer of a list, as a whole DER sequence.
pub(crate) fn issuer_of(list: &Der) -> Option<Vec<u8>> {
    let (_, list) = CertificateRevocationList::from_der(list.as_bytes()).ok()?;
    Some(list.issuer().as_raw().to_vec())
}

/// How a serial is shown.
pub(crate) fn shown(serial: &[u8]) -> String {
    Serial::new(serial).to_string()
}

/// One element of DER.
struct Element<'a> {
    whole: &'a [u8],
    contents: &'a [u8],
}

/// The first element of `der`, and what follows it. Only for what was parsed as a whole before.
fn element(der: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&first, after) = der.get(1..)?.split_first()?;
    let (length, head) = if first < 0x80 {
        (usize::from(first), 2)
    } else {
        let digits = after.get(..usize::from(first & 0x7f)).filter(|digits| matches!(digits.len(), 1..=4))?;
        let length = digits.iter().fold(0usize, |length, digit| length << 8 | usize::from(*digit));
        (length, 2 + digits.len())
    };
    let end = head.checked_add(length)?;
    let whole = der.get(..end)?;
    Some((Element { whole, contents: whole.get(head..)? }, der.get(end..)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn elements_end_where_they_say() {
        let long = [&[0x30, 0x82, 0x01, 0x00][..], &[7; 256], &[5, 0]].concat();
        let (first, rest) = element(&long).unwrap();
        assert_eq!((first.contents.len(), first.whole.len(), rest), (256, 260, &[5, 0][..]));
        for cut in
            [&[][..], &[0x30], &[0x30, 1], &[0x30, 0x80], &[0x30, 0x85, 0, 0, 0, 0, 0], &[0x30, 0x82, 1]]
        {
            assert!(element(cut).is_none(), "{cut:?}");
        }
    }
}
