//! The server's certificate, where the handshake shows it: TLS 1.3 encrypts it, TLS 1.2 and older do not.

use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Name;

use super::bytes::Reader;
use super::names::printable;

/// Names that are kept of one certificate.
const NAMES: usize = 16;
/// Bytes of one name that are kept.
const NAME: usize = 256;

/// What is kept of a leaf certificate. Texts are fit for printing, times are seconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// Whom it is for.
    pub subject: String,
    /// Its alternative names: host names, addresses, URIs; not more than sixteen.
    pub names: Vec<String>,
    /// Alternative names beyond those.
    pub more_names: usize,
    /// Who signed it.
    pub issuer: String,
    /// It says of itself that it signed itself.
    pub self_issued: bool,
    /// Not valid before.
    pub not_before: i64,
    /// Not valid after.
    pub not_after: i64,
    /// Its key, as `RSA 2048`, `EC 256`, `other`.
    pub key: String,
    /// Its serial number in hex.
    pub serial: String,
}

impl Certificate {
    /// Whether it is past its time, at `now` in seconds since 1970.
    pub const fn is_expired(&self, now: i64) -> bool {
        now > self.not_after
    }
}

/// The leaf out of a Certificate message of TLS 1.2 and older. It may be cut behind the leaf: chains are
/// long.
pub(crate) fn leaf(body: &[u8]) -> Option<Certificate> {
    let mut reader = Reader::new(body);
    reader.u24()?;
    let length = reader.u24()?;
    read(reader.take(length)?)
}

fn read(der: &[u8]) -> Option<Certificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let (names, more_names) = alternative_names(&certificate);
    let validity = certificate.validity();
    let serial: String = certificate.raw_serial().iter().take(20).map(|byte| format!("{byte:02x}")).collect();
    Some(Certificate {
        subject: name(certificate.subject()),
        names,
        more_names,
        issuer: name(certificate.issuer()),
        self_issued: certificate.subject().as_raw() == certificate.issuer().as_raw(),
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
        key: key(&certificate),
        serial,
    })
}

fn name(name: &X509Name<'_>) -> String {
    printable(name.to_string().as_bytes(), NAME)
}

fn alternative_names(certificate: &X509Certificate<'_>) -> (Vec<String>, usize) {
    let mut names = Vec::new();
    let mut more = 0;
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(alternative) = extension.parsed_extension() else {
            continue;
        };
        for general in &alternative.general_names {
            let Some(text) = general_name(general) else { continue };
            if names.len() < NAMES {
                names.push(text);
            } else {
                more += 1;
            }
        }
    }
    (names, more)
}

fn general_name(name: &GeneralName<'_>) -> Option<String> {
    Some(match name {
        GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => {
            printable(text.as_bytes(), NAME)
        }
        GeneralName::IPAddress(bytes) => {
            if let Ok(four) = <[u8; 4]>::try_from(*bytes) {
                std::net::Ipv4Addr::from(four).to_string()
            } else {
                std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()
            }
        }
        _ => return None,
    })
}

fn key(certificate: &X509Certificate<'_>) -> String {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(PublicKey::EC(point)) => format!("EC {}", point.key_size()),
        _ => "other".to_owned(),
    }
}
