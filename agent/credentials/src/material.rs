//! Certificates and keys as values: read from PEM, handed to another process, never shown.
//!
//! A key is overwritten when it is dropped, and no `Debug` of anything in this crate prints one. Their
//! form for another process (serde) is the only way that a key leaves this crate, and whoever writes it
//! somewhere must overwrite that too.

use std::fmt;

use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, Zeroizing};

use crate::name::SpiffeId;

/// What a name is shown with: a chain of certificates, the workload's own first and without the root, and
/// its key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Credentials {
    /// Whose they are meant to be; checked against the certificate before they are used.
    pub name: SpiffeId,
    /// The workload's certificate, then who issued it, and so on up to below the root.
    pub chain: Vec<Der>,
    /// The key of the first certificate.
    pub key: Key,
}

/// What is believed: whose certificates, and which of them no longer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bundle {
    /// The one trust domain, such as `example.org`.
    pub domain: String,
    /// Certificates of the authorities; several while one takes over from another.
    pub roots: Vec<Der>,
    /// Revocation lists (RFC 5280, section 5), of roots and of intermediates.
    pub lists: Vec<Der>,
}

/// One certificate or revocation list, in DER. Shown by its length.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Der(Vec<u8>);

impl Der {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'_> {
        CertificateDer::from(self.0.as_slice())
    }
}

impl From<Vec<u8>> for Der {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&CertificateDer<'_>> for Der {
    fn from(certificate: &CertificateDer<'_>) -> Self {
        Self(certificate.to_vec())
    }
}

impl fmt::Debug for Der {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

/// A private key, in the DER of PKCS #8, SEC 1 or PKCS #1. Never shown; overwritten when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Zeroizing<Vec<u8>>);

impl Key {
    /// Takes over `der`.
    pub fn new(der: Vec<u8>) -> Self {
        Self(Zeroizing::new(der))
    }

    /// A copy, as rustls takes it.
    pub(crate) fn to_rustls(&self) -> Result<PrivateKeyDer<'static>, &'static str> {
        PrivateKeyDer::try_from(self.0.as_slice()).map(|key| key.clone_key())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// Why a PEM text cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PemError {
    /// Not PEM, or cut off.
    #[error("it cannot be read as PEM ({0}): is the file whole?")]
    Syntax(String),
    /// Nothing of what is wanted in it.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// More than one key.
    #[error("it has {0} private keys, so which one is meant cannot be told: leave one")]
    SeveralKeys(usize),
}

/// All certificates in `pem`, in their order; at least one.
pub fn certificates_from_pem(pem: &[u8]) -> Result<Vec<Der>, PemError> {
    let found = CertificateDer::pem_slice_iter(pem)
        .map(|item| item.map(|certificate| Der(certificate.to_vec())).map_err(syntax))
        .collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() { Err(PemError::Missing("certificate (`BEGIN CERTIFICATE`)")) } else { Ok(found) }
}

/// All revocation lists in `pem`; there may be none.
pub fn lists_from_pem(pem: &[u8]) -> Result<Vec<Der>, PemError> {
    CertificateRevocationListDer::pem_slice_iter(pem)
        .map(|item| item.map(|list| Der(list.to_vec())).map_err(syntax))
        .collect()
}

/// The one private key in `pem`.
pub fn key_from_pem(pem: &[u8]) -> Result<Key, PemError> {
    let mut keys: Vec<Key> = Vec::new();
    for item in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, mut der) = item.map_err(syntax)?;
        match kind {
            SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey => {
                keys.push(Key::new(der));
            }
            _ => der.zeroize(),
        }
    }
    let count = keys.len();
    match keys.pop() {
        Some(key) if count == 1 => Ok(key),
        Some(_) => Err(PemError::SeveralKeys(count)),
        None => Err(PemError::Missing("private key (`BEGIN PRIVATE KEY`), or the key is encrypted")),
    }
}

fn syntax(error: rustls_pki_types::pem::Error) -> PemError {
    PemError::Syntax(error.to_string())
}

impl Serialize for Der {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Der {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut bytes = deserializer.deserialize_byte_buf(Bytes)?;
        Ok(Self(std::mem::take(&mut *bytes)))
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(Bytes).map(Self)
    }
}

/// Bytes, in formats that have them and in those that write lists of numbers.
struct Bytes;

/// More than any certificate, key or revocation list needs: a length from outside is not believed.
const LARGEST: usize = 16 * 1024 * 1024;

impl<'de> Visitor<'de> for Bytes {
    type Value = Zeroizing<Vec<u8>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Zeroizing::new(bytes.to_vec()))
    }

    fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Self::Value, E> {
        Ok(Zeroizing::new(bytes))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        // Never grown in place: what growing leaves behind is not overwritten.
        let mut bytes = Zeroizing::new(Vec::with_capacity(items.size_hint().unwrap_or(4096).min(LARGEST)));
        while let Some(byte) = items.next_element::<u8>()? {
            if bytes.len() == bytes.capacity() {
                let mut larger = Zeroizing::new(Vec::with_capacity(bytes.len().saturating_mul(2).max(4096)));
                larger.extend_from_slice(&bytes);
                bytes = larger;
            }
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_a_format_of_numbers() {
        let key = Key::new((0..=255).cycle().take(10_000).collect());
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<Key>(&text).unwrap(), key);
        let der = Der(vec![0x30, 0, 255]);
        assert_eq!(serde_json::to_string(&der).unwrap(), "[48,0,255]");
        assert_eq!(serde_json::from_str::<Der>("[48,0,255]").unwrap(), der);
        assert!(serde_json::from_str::<Der>("[256]").is_err());
    }
}
