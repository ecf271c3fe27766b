//! From a stream's bytes to its handshake messages: the record layer, as long as it is in clear.
//!
//! A gap or an end in the middle gives what came before. Nothing is read behind the point where
//! encryption begins.

use super::bytes::Reader;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// Messages of the handshake that are looked at.
pub(crate) mod kind {
    pub(crate) const CLIENT_HELLO: u8 = 1;
    pub(crate) const SERVER_HELLO: u8 = 2;
    pub(crate) const CERTIFICATE: u8 = 11;
    pub(crate) const SERVER_KEY_EXCHANGE: u8 = 12;
    pub(crate) const SERVER_HELLO_DONE: u8 = 14;
}

/// One alert in clear (RFC 8446, 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Alert {
    /// 1 is a warning, 2 is fatal.
    pub level: u8,
    /// What it is about.
    pub description: u8,
}

impl Alert {
    /// The name that RFC 8446 gives it, or that the older RFCs did.
    pub const fn name(self) -> &'static str {
        match self.description {
            0 => "close_notify",
            10 => "unexpected_message",
            20 => "bad_record_mac",
            22 => "record_overflow",
            40 => "handshake_failure",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            48 => "unknown_ca",
            49 => "access_denied",
            50 => "decode_error",
            51 => "decrypt_error",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            86 => "inappropriate_fallback",
            90 => "user_canceled",
            100 => "no_renegotiation",
            109 => "missing_extension",
            110 => "unsupported_extension",
            112 => "unrecognized_name",
            113 => "bad_certificate_status_response",
            115 => "unknown_psk_identity",
            116 => "certificate_required",
            120 => "no_application_protocol",
            _ => "unknown",
        }
    }
}

/// What one direction says in clear.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Spoken {
    /// Bytes of handshake messages before a change of cipher.
    pub(crate) before: Vec<u8>,
    /// Those after it: encrypted, but for TLS 1.3 behind its request for another ClientHello.
    pub(crate) after: Vec<u8>,
    /// Alerts in clear.
    pub(crate) alerts: Vec<Alert>,
    /// Encryption began, by a change of cipher or by data.
    pub(crate) turned: bool,
}

/// Takes a stream's records apart.
pub(crate) fn records(stream: &[u8]) -> Spoken {
    let mut spoken = Spoken::default();
    let mut reader = Reader::new(stream);
    while let Some((kind, body)) = record(&mut reader) {
        match kind {
            HANDSHAKE if spoken.turned => spoken.after.extend_from_slice(body),
            HANDSHAKE => spoken.before.extend_from_slice(body),
            CHANGE_CIPHER_SPEC => spoken.turned = true,
            // An encrypted one is longer.
            ALERT => {
                if let [level @ (1 | 2), description] = *body {
                    spoken.alerts.push(Alert { level, description });
                }
            }
            _ => {
                spoken.turned = true;
                break;
            }
        }
    }
    spoken
}

/// The next record, cut where the stream is.
fn record<'a>(reader: &mut Reader<'a>) -> Option<(u8, &'a [u8])> {
    let kind = reader.u8()?;
    let version = reader.u16()?;
    let length = usize::from(reader.u16()?);
    if version >> 8 != 3 || !(CHANGE_CIPHER_SPEC..=24).contains(&kind) {
        return None;
    }
    Some((kind, reader.take_some(length).0))
}

/// One handshake message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u8,
    pub(crate) body: &'a [u8],
    /// It ends where `body` does.
    pub(crate) whole: bool,
}

/// Takes handshake bytes apart; the last message may be cut.
pub(crate) fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(move || {
        let kind = reader.u8()?;
        let length = reader.u24()?;
        let (body, whole) = reader.take_some(length);
        Some(Message { kind, body, whole })
    })
}
