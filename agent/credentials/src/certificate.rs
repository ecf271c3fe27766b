//! What is read out of a certificate: names, serial number, times, usages.
//!
//! Reading is not believing: only [`crate::Trust`] says whether a certificate may be believed. What
//! cannot be read is an error, never a default.

use std::fmt;

use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::name::SpiffeId;
use crate::reason::{PeerError, Presented, Problem};

/// A time as certificates have it: whole seconds since 1970, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Moment(pub i64);

impl Moment {
    /// Now, by the machine's clock.
    pub fn now() -> Self {
        Self(i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX))
    }

    /// Seconds from `earlier` until this; negative if it lies before.
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This and `seconds`.
    #[must_use]
    pub const fn plus(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    pub(crate) fn unix(self) -> UnixTime {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(self.0).unwrap_or(0)))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text =
            OffsetDateTime::from_unix_timestamp(self.0).ok().and_then(|time| time.format(&Rfc3339).ok());
        match text {
            Some(text) => f.write_str(&text),
            None => write!(f, "{} s after 1970", self.0),
        }
    }
}

/// A serial number, as its bytes in the certificate; shown in hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// That of these bytes; leading zeros do not count.
    pub fn new(bytes: &[u8]) -> Self {
        let from = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
        Self(bytes.get(from..).unwrap_or_default().to_vec())
    }

    /// Its bytes, without leading zeros.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::str::FromStr for Serial {
    type Err = SerialError;

    /// Reads hexadecimal digits, with or without colons between them.
    fn from_str(text: &str) -> Result<Self, SerialError> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        let bytes = digits
            .chunks(2)
            .map(|pair| match pair {
                [_, _] => std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()),
                _ => None,
            })
            .collect::<Option<Vec<u8>>>();
        match bytes {
            Some(bytes) if !bytes.is_empty() && bytes.len() <= 20 && !text.contains('+') => {
                Ok(Self::new(&bytes))
            }
            _ => Err(SerialError(text.to_owned())),
        }
    }
}

/// Text that is no serial number.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no serial number: give its hexadecimal digits, as `bulkhead ca show` prints them")]
pub struct SerialError(String);

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("00");
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What a workload's certificate says, once it was found to be of the right kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Its one URI name.
    pub name: SpiffeId,
    /// Its serial number.
    pub serial: Serial,
    /// Its first second.
    pub not_before: Moment,
    /// Its last second.
    pub not_after: Moment,
}

impl Facts {
    /// Reads a workload's certificate: one URI name of the right shape, no right to issue others, and a
    /// key that may sign. Names of other kinds beside it are left alone (X.509-SVID, section 2).
    pub fn read(leaf: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let parsed = parse(leaf).map_err(|problem| PeerError { presented: Presented::default(), problem })?;
        let uris = uris(&parsed);
        let refuse = |problem| PeerError { presented: presented_of(&parsed), problem };
        let uris = uris.map_err(refuse)?;
        let name = match uris.as_slice() {
            [] => return Err(refuse(Problem::NoName)),
            [one] => one.parse::<SpiffeId>().map_err(|error| refuse(Problem::BadName(error.to_string())))?,
            several => return Err(refuse(Problem::TwoNames(several.len()))),
        };
        if parsed.is_ca() {
            return Err(refuse(Problem::AuthorityAsLeaf));
        }
        match parsed.key_usage() {
            Err(_) => return Err(refuse(Problem::Unreadable("its key usage".to_owned()))),
            Ok(Some(usage)) if usage.value.key_cert_sign() || usage.value.crl_sign() => {
                return Err(refuse(Problem::AuthorityAsLeaf));
            }
            Ok(Some(usage)) if !usage.value.digital_signature() => {
                return Err(refuse(Problem::WrongUsage("signing a handshake")));
            }
            Ok(_) => {}
        }
        Ok(Self {
            name,
            serial: Serial::new(parsed.raw_serial()),
            not_before: Moment(parsed.validity().not_before.timestamp()),
            not_after: Moment(parsed.validity().not_after.timestamp()),
        })
    }
}

/// What `leaf` calls itself, for messages; of what cannot be read, nothing.
pub(crate) fn presented(leaf: &CertificateDer<'_>) -> Presented {
    parse(leaf).map(|parsed| presented_of(&parsed)).unwrap_or_default()
}

/// The certificate in `der`, and nothing after it.
pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Problem> {
    match X509Certificate::from_der(der.as_ref()) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(Problem::Unreadable("bytes follow after its end".to_owned())),
        Err(error) => Err(Problem::Unreadable(error.to_string())),
    }
}

fn presented_of(parsed: &X509Certificate<'_>) -> Presented {
    const LONGEST: usize = 256;
    let cut = |name: String| match name.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", name.get(..end).unwrap_or_default()),
        None => name,
    };
    let names =
        uris(parsed).unwrap_or_default().into_iter().take(2).map(|name| cut(printable(&name))).collect();
    Presented { names, serial: Some(Serial::new(parsed.raw_serial()).to_string()) }
}

/// What strangers wrote, fit for a log: no line breaks, no control characters.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// All URI names; it is an error if the names cannot be read, or come in more than one list.
fn uris(parsed: &X509Certificate<'_>) -> Result<Vec<String>, Problem> {
    let mut uris = Vec::new();
    let mut lists = 0;
    for extension in parsed.extensions() {
        if extension.oid != x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME {
            continue;
        }
        lists += 1;
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            return Err(Problem::Unreadable("its names".to_owned()));
        };
        for name in &names.general_names {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::Invalid(..) => return Err(Problem::Unreadable("one of its names".to_owned())),
                _ => {}
            }
        }
    }
    if lists > 1 {
        return Err(Problem::Unreadable("it has two lists of names".to_owned()));
    }
    Ok(uris)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_hexadecimal_digits() {
        assert_eq!("00:0a:FF".parse::<Serial>().unwrap().to_string(), "0aff");
        assert_eq!("0aff".parse::<Serial>().unwrap(), Serial::new(&[0, 10, 255]));
        for wrong in ["", "a", "0x0a", "zz", "+1", "é", &"00".repeat(21)] {
            assert!(wrong.parse::<Serial>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_moment_is_shown_as_a_date() {
        assert_eq!(Moment(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Moment(i64::MAX).to_string(), "9223372036854775807 s after 1970");
    }
}
