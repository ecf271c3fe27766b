//! Why a peer is refused: a closed set of words, for metrics, with a sentence each for people.

use std::fmt;

use rustls::Error as Tls;
use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};
use serde::{Deserialize, Serialize};

use crate::certificate::Moment;
use crate::name::SpiffeId;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $word:literal,)*) => {
        /// What a refusal is counted under.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word, as metric label and in the access log.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

reasons! {
    /// A peer that shows no certificate.
    NoCertificate => "no-certificate",
    /// Its time is over.
    Expired => "expired",
    /// Its time has not come.
    NotYetValid => "not-yet-valid",
    /// No path leads from it to a root of the bundle.
    UnknownIssuer => "unknown-issuer",
    /// It, or who issued it, is on a revocation list.
    Revoked => "revoked",
    /// Its issuer's revocation list cannot be believed.
    RevocationUnknown => "revocation-unknown",
    /// A signature that does not fit.
    BadSignature => "bad-signature",
    /// It cannot be read.
    BadCertificate => "bad-certificate",
    /// It breaks what its issuer may issue: length of the path, constraints on names.
    Constraint => "constraint",
    /// It has no URI name.
    NoName => "no-name",
    /// Its URI name is not of the shape of a workload's.
    BadName => "bad-name",
    /// It has several URI names.
    TwoNames => "two-names",
    /// A name of another trust domain.
    WrongTrustDomain => "wrong-trust-domain",
    /// A name that is good, and not the one that is expected here.
    WrongName => "wrong-name",
    /// Its usages do not include the one it is put to.
    WrongUsage => "wrong-usage",
    /// An authority's certificate, shown as a workload's.
    AuthorityAsLeaf => "authority-as-leaf",
    /// A kind of signature or key that is not understood here.
    Unsupported => "unsupported",
    /// What came is no TLS.
    NotTls => "not-tls",
    /// No TLS 1.3.
    TlsVersion => "tls-version",
    /// No HTTP/2 (ALPN `h2`).
    NoHttp2 => "no-http2",
    /// No cipher suite, key exchange or signature in common.
    NothingInCommon => "nothing-in-common",
    /// The peer ended the handshake with an alert of its own: mostly over our certificate.
    RefusedByPeer => "refused-by-peer",
    /// The connection ended within the handshake.
    Closed => "closed",
    /// The handshake took too long. Counted by whoever holds the clock.
    TooSlow => "too-slow",
    /// Anything else against the protocol.
    Protocol => "protocol",
    /// We have no certificate to show under this name.
    NoOwnCertificate => "no-own-certificate",
    /// Our own certificate's time is over.
    OwnExpired => "own-expired",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a certificate is not taken. Says whose it was, as far as that could be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{presented}: {problem}")]
pub struct PeerError {
    /// What the certificate calls itself, true or not.
    pub presented: Presented,
    /// What is wrong with it.
    pub problem: Problem,
}

impl PeerError {
    /// What it is counted under.
    pub fn reason(&self) -> Reason {
        self.problem.reason()
    }
}

/// What a certificate says of itself: nothing of it needs to be true.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Presented {
    /// Its URI names, cut short.
    pub names: Vec<String>,
    /// Its serial number, in hexadecimal digits.
    pub serial: Option<String>,
}

impl fmt::Display for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.names.is_empty() {
            f.write_str("a certificate without a URI name")?;
        } else {
            write!(f, "the certificate of {}", self.names.join(" and "))?;
        }
        match &self.serial {
            Some(serial) => write!(f, " (serial {serial})"),
            None => Ok(()),
        }
    }
}

/// What is wrong with a certificate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// There is none.
    #[error("the peer showed no certificate: it must speak mutual TLS, with a certificate of its own")]
    None,
    /// See [`Reason::Expired`].
    #[error("expired at {0}: is its renewal stuck, or a clock wrong?")]
    Expired(Moment),
    /// See [`Reason::NotYetValid`].
    #[error("not valid before {0}: compare the clocks of both nodes")]
    NotYetValid(Moment),
    /// See [`Reason::UnknownIssuer`].
    #[error(
        "no root of our bundle stands behind it: is it from another authority, or does the bundle lack a new root?"
    )]
    UnknownIssuer,
    /// See [`Reason::Revoked`].
    #[error("revoked: {0} is on its issuer's revocation list")]
    Revoked(String),
    /// See [`Reason::RevocationUnknown`].
    #[error("the revocation list of its issuer is not signed by that issuer: replace the list in crl.pem")]
    RevocationUnknown,
    /// See [`Reason::BadSignature`].
    #[error(
        "its issuer has the name of one that we believe, and another key: was the authority made anew under the same name?"
    )]
    BadSignature,
    /// See [`Reason::BadCertificate`].
    #[error("it cannot be read as an X.509 certificate: {0}")]
    Unreadable(String),
    /// See [`Reason::Constraint`].
    #[error("it breaks what its issuer may issue ({0})")]
    Constraint(String),
    /// See [`Reason::NoName`].
    #[error(
        "it has no URI name: a workload is known by one name, spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT"
    )]
    NoName,
    /// See [`Reason::BadName`].
    #[error("{0}")]
    BadName(String),
    /// See [`Reason::TwoNames`].
    #[error("it has {0} URI names: which one is meant cannot be told, so issue it with one")]
    TwoNames(usize),
    /// See [`Reason::WrongTrustDomain`].
    #[error("its trust domain is not ours, `{ours}`: federation of trust domains is not offered")]
    WrongTrustDomain {
        /// Ours.
        ours: String,
    },
    /// See [`Reason::WrongName`].
    #[error("expected here is {}", or_list(.0))]
    WrongName(Vec<SpiffeId>),
    /// See [`Reason::WrongUsage`].
    #[error(
        "it may not be used for {0}: issue it with the usages clientAuth and serverAuth, and digitalSignature"
    )]
    WrongUsage(&'static str),
    /// See [`Reason::AuthorityAsLeaf`].
    #[error("it is an authority's: a workload's certificate must not be able to issue others")]
    AuthorityAsLeaf,
    /// See [`Reason::Unsupported`].
    #[error("its kind of key or signature is not supported ({0}): use ECDSA on P-256")]
    Unsupported(String),
}

impl Problem {
    /// What it is counted under.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::None => Reason::NoCertificate,
            Self::Expired(_) => Reason::Expired,
            Self::NotYetValid(_) => Reason::NotYetValid,
            Self::UnknownIssuer => Reason::UnknownIssuer,
            Self::Revoked(_) => Reason::Revoked,
            Self::RevocationUnknown => Reason::RevocationUnknown,
            Self::BadSignature => Reason::BadSignature,
            Self::Unreadable(_) => Reason::BadCertificate,
            Self::Constraint(_) => Reason::Constraint,
            Self::NoName => Reason::NoName,
            Self::BadName(_) => Reason::BadName,
            Self::TwoNames(_) => Reason::TwoNames,
            Self::WrongTrustDomain { .. } => Reason::WrongTrustDomain,
            Self::WrongName(_) => Reason::WrongName,
            Self::WrongUsage(_) => Reason::WrongUsage,
            Self::AuthorityAsLeaf => Reason::AuthorityAsLeaf,
            Self::Unsupported(_) => Reason::Unsupported,
        }
    }
}

fn or_list(names: &[SpiffeId]) -> String {
    const SHOWN: usize = 4;
    let mut shown: Vec<&str> = names.iter().take(SHOWN).map(SpiffeId::as_str).collect();
    let more = format!("{} more", names.len().saturating_sub(SHOWN));
    if names.len() > SHOWN {
        shown.push(&more);
    }
    if shown.is_empty() { "nobody".to_owned() } else { shown.join(" or ") }
}

/// Why a handshake, or the first read after it, failed.
///
/// In TLS 1.3 a client's handshake is over before the server has looked at the client's certificate: the
/// server's alert arrives with the first read. So this is for both.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct HandshakeError {
    /// What it is counted under.
    pub reason: Reason,
    /// The whole story, for one line of a log.
    pub text: String,
}

impl HandshakeError {
    /// Reads `error`, as tokio-rustls gave it.
    pub fn from_io(error: &std::io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>());
        match inner {
            Some(tls) => Self::from_tls(tls),
            None => match alert_by_words(&error.to_string()) {
                Some(alert) => Self::from_tls(&alert),
                None => Self { reason: Reason::Closed, text: format!("the connection ended: {error}") },
            },
        }
    }

    /// Reads `error`, as rustls gave it.
    pub fn from_tls(error: &Tls) -> Self {
        if let Tls::InvalidCertificate(CertificateError::Other(other)) = error
            && let Some(peer) = other.0.downcast_ref::<PeerError>()
        {
            return Self { reason: peer.reason(), text: peer.to_string() };
        }
        let (reason, text) = read_tls(error);
        Self { reason, text }
    }
}

/// The alert that these are rustls' words for: HTTP/2 (h2) keeps of an error that went through it no more.
fn alert_by_words(text: &str) -> Option<Tls> {
    (0..=u8::MAX).map(|code| Tls::AlertReceived(code.into())).find(|alert| alert.to_string() == text)
}

fn read_tls(error: &Tls) -> (Reason, String) {
    let text = |text: &str| text.to_owned();
    match error {
        Tls::NoCertificatesPresented => (Reason::NoCertificate, Problem::None.to_string()),
        Tls::NoApplicationProtocol => {
            (Reason::NoHttp2, text("the peer does not offer HTTP/2 (ALPN h2): is it an HBONE peer?"))
        }
        Tls::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls12NotOffered,
        ) => (Reason::TlsVersion, text("the peer does not speak TLS 1.3, and nothing older is spoken here")),
        Tls::PeerIncompatible(what) => {
            (Reason::NothingInCommon, format!("the peer and we have nothing in common ({what:?})"))
        }
        Tls::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => (
            Reason::NotTls,
            text("what the peer sends is no TLS: does a program speak clear text to the tunnel's port?"),
        ),
        Tls::AlertReceived(AlertDescription::ProtocolVersion) => {
            (Reason::TlsVersion, text("the peer refuses TLS 1.3, and nothing older is spoken here"))
        }
        Tls::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            (Reason::NoHttp2, text("the peer refuses HTTP/2 (ALPN h2): is it an HBONE peer?"))
        }
        Tls::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity) => {
            (Reason::NothingInCommon, text("the peer finds nothing in common with what we offer"))
        }
        Tls::AlertReceived(alert) => (
            Reason::RefusedByPeer,
            format!("the peer ended the handshake, {}; its own log names the cause", alert_text(*alert)),
        ),
        Tls::InvalidCertificate(CertificateError::BadSignature) => {
            (Reason::BadSignature, text("the peer does not hold the key of the certificate that it shows"))
        }
        other => (Reason::Protocol, format!("the peer breaks the protocol: {other}")),
    }
}

fn alert_text(alert: AlertDescription) -> String {
    let about = match alert {
        AlertDescription::CertificateExpired => "since our certificate has expired by its clock",
        AlertDescription::CertificateRevoked => "since our certificate is revoked",
        AlertDescription::UnknownCA => "since its bundle lacks the root of our certificate",
        AlertDescription::CertificateRequired => "since it saw no certificate of ours",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied => "since it does not take our certificate or its name",
        other => return format!("alert {other:?}"),
    };
    about.to_owned()
}
