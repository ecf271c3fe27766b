//! Makes revocation lists. A list is its own record: a new one repeats the old one's entries.

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use time::OffsetDateTime;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::{AuthorityError, Issuing};
use crate::certificate::{Moment, Serial};
use crate::material::Der;

/// `lists` with `serial` added to the one of `issuing`, whose name in DER is `issuer`.
pub(super) fn revoke(
    lists: &[Der],
    issuing: &Issuing,
    issuer: &[u8],
    serial: &Serial,
) -> Result<Vec<Der>, AuthorityError> {
    let mut others = Vec::new();
    let mut revoked = Vec::new();
    let mut number = 0;
    for list in lists {
        match CertificateRevocationList::from_der(list.as_bytes()) {
            Ok((_, parsed)) if parsed.issuer().as_raw() == issuer => {
                let old = parsed.crl_number().and_then(|number| number.to_u64_digits().first().copied());
                number = number.max(old.unwrap_or(0));
                for entry in parsed.iter_revoked_certificates() {
                    revoked
                        .push((Serial::new(entry.raw_serial()), Moment(entry.revocation_date.timestamp())));
                }
            }
            _ => others.push(list.clone()),
        }
    }
    if revoked.iter().any(|(known, _)| known == serial) {
        return Err(AuthorityError::Already(serial.to_string()));
    }
    revoked.push((serial.clone(), Moment::now()));
    let entry = |(serial, since): (Serial, Moment)| RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial.as_bytes()),
        revocation_time: OffsetDateTime::from_unix_timestamp(since.0).unwrap_or(OffsetDateTime::UNIX_EPOCH),
        reason_code: None,
        invalidity_date: None,
    };
    let now = OffsetDateTime::now_utc();
    let params = CertificateRevocationListParams {
        this_update: now - time::Duration::MINUTE,
        // There is no schedule: a list is good until the next revocation, or its issuer's end.
        next_update: OffsetDateTime::from_unix_timestamp(issuing.not_after().0).unwrap_or(now),
        crl_number: SerialNumber::from(number + 1),
        issuing_distribution_point: None,
        revoked_certs: revoked.into_iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(issuing.issuer())?;
    others.push(Der::from(list.der().to_vec()));
    Ok(others)
}
