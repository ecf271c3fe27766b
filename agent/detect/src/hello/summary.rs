//! A handshake as it is told: names instead of numbers, what nobody knows absent.

use serde::{Deserialize, Serialize};

use super::certificate::Certificate;
use super::handshake::Handshake;
use super::names::{GroupKind, printable};

/// What there is to say of a handshake. Its field names are those of JSON; a field, once there, keeps its
/// name and its meaning, and `null` means that it was not seen.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// The version that is spoken: `1.3`, `1.2`, `1.1`, `1.0`, `ssl3`; a number in hex where it has no
    /// name.
    pub version: Option<String>,
    /// IANA's name of the cipher suite.
    pub cipher: Option<String>,
    /// `strong`, `dated`, `weak`, `unknown`.
    pub cipher_strength: Option<String>,
    /// The server's name as the client asked for it.
    pub server_name: Option<String>,
    /// Application protocols that the client offered.
    pub alpn_offered: Vec<String>,
    /// The application protocol that the server chose; encrypted in TLS 1.3.
    pub alpn: Option<String>,
    /// Versions that the client offered, where it listed them.
    pub versions_offered: Vec<String>,
    /// Groups of the key exchange that the client offered.
    pub groups_offered: Vec<String>,
    /// The group that the server chose.
    pub group: Option<String>,
    /// `classic`, `hybrid`, `post-quantum`, `unknown`.
    pub group_kind: Option<String>,
    /// Whether the client offered a group that withstands a quantum computer.
    pub post_quantum_offered: Option<bool>,
    /// The client's fingerprint.
    pub ja4: Option<String>,
    /// An older session goes on.
    pub resumed: bool,
    /// The server asked for another ClientHello.
    pub retried: bool,
    /// The server's certificate; encrypted in TLS 1.3.
    pub certificate: Option<CertificateSummary>,
    /// Alerts in clear.
    pub alerts: Vec<String>,
}

/// What there is to say of a certificate.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CertificateSummary {
    /// Whom it is for.
    pub subject: String,
    /// Its alternative names.
    pub names: Vec<String>,
    /// Who signed it.
    pub issuer: String,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// Its key, as `RSA 2048`.
    pub key: String,
    /// Its serial number in hex.
    pub serial: String,
}

impl From<&Certificate> for CertificateSummary {
    fn from(certificate: &Certificate) -> Self {
        Self {
            subject: certificate.subject.clone(),
            names: certificate.names.clone(),
            issuer: certificate.issuer.clone(),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            key: certificate.key.clone(),
            serial: certificate.serial.clone(),
        }
    }
}

impl From<&Handshake> for Summary {
    fn from(handshake: &Handshake) -> Self {
        let mut summary = Self {
            group: handshake.group.map(|group| group.to_string()),
            post_quantum_offered: handshake.offers_post_quantum(),
            resumed: handshake.resumed,
            retried: handshake.retried,
            certificate: handshake.certificate.as_ref().map(CertificateSummary::from),
            alerts: handshake.alerts.iter().map(|alert| alert.name().to_owned()).collect(),
            ..Self::default()
        };
        if handshake.group.is_some() || handshake.prime_bits.is_some() {
            let kind = handshake.group.map_or(GroupKind::Classic, |group| group.kind());
            summary.group_kind = Some(kind.as_str().to_owned());
        }
        if let Some(bits) = handshake.prime_bits {
            summary.group = Some(format!("dh{bits}"));
        }
        // A server that only asked for another hello has agreed to nothing yet.
        if let Some(server) = handshake.server.as_ref().filter(|server| !server.retry) {
            let version = server.version.as_str();
            let number = || format!("0x{:04x}", server.version.0);
            summary.version = Some(if version == "unknown" { number() } else { version.to_owned() });
            summary.cipher = Some(server.cipher.to_string());
            summary.cipher_strength = Some(server.cipher.strength().as_str().to_owned());
            summary.alpn = server.alpn.clone();
        }
        if let Some(client) = &handshake.client {
            summary.server_name = client.server_name.clone();
            summary.alpn_offered = client.alpn.iter().take(16).map(|name| printable(name, 64)).collect();
            summary.versions_offered =
                client.versions.iter().map(|version| version.as_str().to_owned()).collect();
            summary.groups_offered = client.groups.iter().map(ToString::to_string).collect();
            summary.ja4 = client.ja4.clone();
        }
        summary
    }
}
