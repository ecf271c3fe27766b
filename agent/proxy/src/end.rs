//! How a connection ended, or why it never began.

use std::io;

use bulkhead_credentials::{HandshakeError, PeerError, Reason, Unavailable};

use crate::node::Denied;

/// How a connection ended: a closed set of words, for metrics and the access log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Outcome {
    /// Both ends have said all they had to say.
    Closed,
    /// An end broke it off.
    Reset,
    /// The other proxy, or the way to it, was lost.
    TunnelLost,
    /// The policy no longer lets it.
    Withdrawn,
    /// A certificate that it was made with is no longer believed.
    Revoked,
    /// It has outlived its certificates for longer than its rule lets it.
    TooOld,
    /// The proxy was stopped.
    Drained,
    /// It was never let through.
    Refused,
}

impl Outcome {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::TunnelLost => "tunnel-lost",
            Self::Withdrawn => "withdrawn",
            Self::Revoked => "revoked",
            Self::TooOld => "too-old",
            Self::Drained => "drained",
            Self::Refused => "refused",
        }
    }
}

/// An end with its story.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    /// Why, where it did not end well.
    pub(crate) text: String,
}

impl End {
    pub(crate) const CLOSED: Self = Self { outcome: Outcome::Closed, text: String::new() };

    pub(crate) fn new(outcome: Outcome, text: impl Into<String>) -> Self {
        Self { outcome, text: text.into() }
    }

    /// Whether the program is to see a reset, not an orderly end.
    pub(crate) fn resets(&self) -> bool {
        self.outcome != Outcome::Closed
    }
}

/// Why a connection never began: a word of a closed set for metrics, and the story.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(reason: &'static str, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }
}

/// Reasons of this crate's own; those of certificates are `bulkhead_credentials::Reason`'s, those of the
/// policy the [`Node`](crate::Node)'s.
pub(crate) mod reason {
    pub(crate) const CONNECTIONS: &str = "too-many-connections";
    pub(crate) const MEMORY: &str = "too-much-memory";
    pub(crate) const HANDSHAKES: &str = "too-many-handshakes";
    pub(crate) const UNREACHABLE: &str = "tunnel-unreachable";
    pub(crate) const REFUSED: &str = "refused-by-peer-proxy";
    pub(crate) const PROGRAM: &str = "program-unreachable";
    pub(crate) const TARGET: &str = "bad-target";
    pub(crate) const PROTOCOL: &str = "protocol";
    pub(crate) const SLOW: &str = "too-slow";
    pub(crate) const SOCKET: &str = "no-socket";
    pub(crate) const NAMELESS: &str = "no-name";
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self { reason: denied.reason, text: denied.text }
    }
}

impl From<PeerError> for Refusal {
    fn from(error: PeerError) -> Self {
        Self { reason: error.reason().as_str(), text: error.to_string() }
    }
}

impl From<Unavailable> for Refusal {
    fn from(error: Unavailable) -> Self {
        Self { reason: error.reason().as_str(), text: error.to_string() }
    }
}

impl From<HandshakeError> for Refusal {
    fn from(error: HandshakeError) -> Self {
        Self { reason: error.reason.as_str(), text: error.text }
    }
}

/// Whether both ends have agreed on HTTP/2; rustls lets a peer pass that names no protocol at all.
pub(crate) fn speaks_http2(agreed: Option<&[u8]>) -> Result<(), Refusal> {
    if agreed == Some(b"h2") {
        return Ok(());
    }
    let text = "the peer does not agree on HTTP/2 (ALPN h2): is it an HBONE peer?";
    Err(Refusal::new(Reason::NoHttp2.as_str(), text))
}

/// What an HTTP/2 error says, with what is below it.
pub(crate) fn http2(error: &h2::Error) -> Refusal {
    match error.get_io() {
        Some(io) => HandshakeError::from_io(io).into(),
        None => Refusal::new(reason::PROTOCOL, error.to_string()),
    }
}

/// Whether an error of a program's socket is the program's own doing.
pub(crate) fn is_reset(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe)
}
