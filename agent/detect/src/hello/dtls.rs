//! DTLS records to handshake messages (RFC 6347, 4; RFC 9147, 5.5): each datagram's records one after the
//! other, as they came.
//!
//! Fragments are put together where they come in order; a missing one ends what is read of its message.

use super::bytes::Reader;
use super::message::{Alert, Spoken};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
/// Handshake bytes that are read of one direction.
const LONGEST: usize = 8192;
/// A server's request to show that the client gets its answers; the true ClientHello follows.
const HELLO_VERIFY_REQUEST: u8 = 3;

/// Takes the records of one direction apart, in the form that TLS's have: no fragments.
pub(crate) fn records(datagrams: &[u8]) -> Spoken {
    let mut spoken = Spoken::default();
    let mut reader = Reader::new(datagrams);
    let mut partial = Partial::default();
    while let Some((kind, epoch, body)) = record(&mut reader) {
        match kind {
            HANDSHAKE if epoch == 0 => fragments(body, &mut partial, &mut spoken.before),
            ALERT if epoch == 0 => {
                if let [level @ (1 | 2), description] = *body {
                    spoken.alerts.push(Alert { level, description });
                }
            }
            // A change of cipher, or anything of a later epoch.
            _ => {
                spoken.turned = true;
                break;
            }
        }
    }
    partial.cut(&mut spoken.before);
    spoken
}

/// A message of which fragments are missing yet.
#[derive(Debug, Default)]
struct Partial {
    sequence: u16,
    kind: u8,
    length: usize,
    body: Vec<u8>,
    open: bool,
}

impl Partial {
    /// Puts the message out as TLS writes it, whole or cut.
    fn cut(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.open) && self.kind != HELLO_VERIFY_REQUEST {
            let [_, high, middle, low] = u32::try_from(self.length).unwrap_or(0).to_be_bytes();
            out.extend_from_slice(&[self.kind, high, middle, low]);
            out.append(&mut self.body);
        }
        self.body.clear();
    }
}

fn record<'a>(reader: &mut Reader<'a>) -> Option<(u8, u16, &'a [u8])> {
    let kind = reader.u8()?;
    let version = reader.u16()?;
    let epoch = reader.u16()?;
    reader.take(6)?;
    let length = usize::from(reader.u16()?);
    if version >> 8 != 0xfe {
        return None;
    }
    Some((kind, epoch, reader.take_some(length).0))
}

fn fragments(record: &[u8], partial: &mut Partial, out: &mut Vec<u8>) {
    let mut reader = Reader::new(record);
    while out.len() + partial.body.len() < LONGEST {
        let Some((header, body)) = fragment(&mut reader) else { return };
        if partial.open && header.sequence != partial.sequence {
            partial.cut(out);
        }
        if !partial.open {
            // Repeated and late ones begin elsewhere.
            if header.offset != 0 {
                continue;
            }
            *partial = Partial {
                sequence: header.sequence,
                kind: header.kind,
                length: header.length,
                body: Vec::new(),
                open: true,
            };
        }
        if header.offset == partial.body.len() && header.length == partial.length {
            partial.body.extend_from_slice(body);
        }
        if partial.body.len() >= partial.length {
            partial.body.truncate(partial.length);
            partial.cut(out);
        }
    }
}

struct Header {
    kind: u8,
    length: usize,
    sequence: u16,
    offset: usize,
}

fn fragment<'a>(reader: &mut Reader<'a>) -> Option<(Header, &'a [u8])> {
    let kind = reader.u8()?;
    let length = reader.u24()?;
    let sequence = reader.u16()?;
    let offset = reader.u24()?;
    let size = reader.u24()?;
    Some((Header { kind, length, sequence, offset }, reader.take_some(size).0))
}
