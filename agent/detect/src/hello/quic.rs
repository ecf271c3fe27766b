//! QUIC's Initial packets (RFC 9000, 17.2.2; RFC 9369) to handshake messages.
//!
//! They are encrypted with keys that follow from the client's first packet alone (RFC 9001, 5.2), so that nobody
//! else's packets are taken for them, and not to keep anything secret: whoever sees both directions can read
//! them. Behind them everything has keys of its own, and is left alone.
//!
//! A packet that does not open, or a frame that is not known, is left out; what comes behind a gap as well. What
//! is read is bounded by the caller's datagrams, and by [`PACKETS`] and [`FRAGMENTS`] of them.

use std::collections::BTreeMap;

use rustls::Side;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{DirectionalKeys, Version};

use super::bytes::Reader;
use super::message::{Alert, Spoken};

/// Packets of one datagram that are looked at.
const PACKETS: usize = 4;
/// Pieces of one direction's handshake that are put together: clients cut their hello into many, on purpose.
const FRAGMENTS: usize = 128;
/// Handshake bytes that are read of one direction.
const LONGEST: usize = 16_384;
/// Bytes behind the place of the packet number where a sample is taken (RFC 9001, 5.4.2).
const SAMPLE: (usize, usize) = (4, 16);

/// What both ends say in their Initial packets, the opener first.
pub(crate) fn handshakes(opener: &[Vec<u8>], receiver: &[Vec<u8>]) -> [Spoken; 2] {
    let mut asked = Stream::default();
    let mut chosen: Option<Vec<u8>> = None;
    for initial in opener.iter().flat_map(|datagram| initials(datagram)) {
        let known = chosen.as_deref().and_then(|id| initial.open(id, Side::Server));
        if let Some(frames) = known {
            asked.take(&frames);
            continue;
        }
        // The first one, or the first after the server asked for proof of the address (RFC 9001, 5.2).
        if let Some(frames) = initial.open(initial.destination, Side::Server) {
            chosen = Some(initial.destination.to_vec());
            asked = Stream::default();
            asked.take(&frames);
        }
    }
    let mut answered = Stream::default();
    if let Some(id) = &chosen {
        for initial in receiver.iter().flat_map(|datagram| initials(datagram)) {
            if let Some(frames) = initial.open(id, Side::Client) {
                answered.take(&frames);
            }
        }
    }
    [asked.spoken(), answered.spoken()]
}

/// An Initial packet as it came.
struct Initial<'a> {
    version: Version,
    /// The connection identifier that it is sent to.
    destination: &'a [u8],
    /// All of it.
    packet: &'a [u8],
    /// Where its number stands.
    number: usize,
}

/// The Initial packets of a datagram, which may hold others, too.
fn initials(datagram: &[u8]) -> impl Iterator<Item = Initial<'_>> {
    let mut rest = Some(datagram);
    let packets = std::iter::from_fn(move || {
        let (initial, behind) = packet(rest.take()?)?;
        rest = Some(behind).filter(|behind| !behind.is_empty());
        Some(initial)
    });
    packets.take(PACKETS).flatten()
}

/// The first packet of `bytes`, where it is an Initial one, and what follows on it; `None` where nothing more
/// can be told apart.
fn packet(bytes: &[u8]) -> Option<(Option<Initial<'_>>, &[u8])> {
    let mut reader = Reader::new(bytes);
    let first = reader.u8()?;
    let number = u32::from_be_bytes(*reader.take(4)?.first_chunk()?);
    if first & 0x80 == 0 {
        return None;
    }
    let version = match number {
        1 => Version::V1,
        0x6b33_43cf => Version::V2,
        // The drafts whose keys are made alike.
        0xff00_001d..=0xff00_0020 => Version::V1Draft,
        _ => return None,
    };
    let destination = reader.vec8().filter(|id| id.len() <= 20)?;
    reader.vec8()?;
    let kind = (first >> 4) & 3;
    let (initial, retry) = if matches!(version, Version::V2) { (1, 0) } else { (0, 3) };
    if kind == retry {
        return None;
    }
    if kind == initial {
        let token = varint(&mut reader)?;
        reader.take(token)?;
    }
    let length = varint(&mut reader)?;
    let number = bytes.len().checked_sub(reader.rest().len())?;
    let (packet, behind) = bytes.split_at_checked(number.checked_add(length)?)?;
    let found = Initial { version, destination, packet, number };
    Some(((kind == initial).then_some(found), behind))
}

impl Initial<'_> {
    /// Its frames, if it was sent to `side` on the connection whose client first wrote to `id`.
    fn open(&self, id: &[u8], side: Side) -> Option<Vec<u8>> {
        let suite = TLS13_AES_128_GCM_SHA256.tls13()?.quic_suite()?;
        let DirectionalKeys { header, packet: keys } = suite.keys(id, side, self.version).remote;
        let mut bytes = self.packet.to_vec();
        let (front, protected) = bytes.split_at_mut_checked(self.number)?;
        let (numbers, behind) = protected.split_at_mut_checked(SAMPLE.0)?;
        let sample = behind.get(..SAMPLE.1)?;
        let first = front.first_mut()?;
        header.decrypt_in_place(sample, first, numbers).ok()?;
        let length = usize::from(*first & 3) + 1;
        let number = numbers.get(..length)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let (head, payload) = bytes.split_at_mut_checked(self.number + length)?;
        let opened = keys.decrypt_in_place(number, head, payload).ok()?;
        Some(opened.to_vec())
    }
}

/// One direction's handshake in the making.
#[derive(Default)]
struct Stream {
    fragments: BTreeMap<usize, Vec<u8>>,
    alerts: Vec<Alert>,
}

impl Stream {
    /// Takes a packet's frames (RFC 9000, 19): those that an Initial packet may hold.
    fn take(&mut self, frames: &[u8]) {
        let mut reader = Reader::new(frames);
        while let Some(kind) = varint(&mut reader) {
            if self.frame(kind, &mut reader).is_none() {
                return;
            }
        }
    }

    fn frame(&mut self, kind: usize, reader: &mut Reader<'_>) -> Option<()> {
        match kind {
            // Padding and a ping.
            0 | 1 => {}
            // What was received, and what was marked on the way.
            2 | 3 => {
                varint(reader)?;
                varint(reader)?;
                let ranges = varint(reader)?;
                varint(reader)?;
                for _ in 0..ranges {
                    varint(reader)?;
                    varint(reader)?;
                }
                for _ in 0..(kind - 2) * 3 {
                    varint(reader)?;
                }
            }
            6 => {
                let (offset, length) = (varint(reader)?, varint(reader)?);
                let bytes = reader.take(length)?;
                let fits = offset.saturating_add(length) <= LONGEST && self.fragments.len() < FRAGMENTS;
                let kept = self.fragments.get(&offset).map_or(0, Vec::len);
                if fits && kept < bytes.len() {
                    self.fragments.insert(offset, bytes.to_vec());
                }
            }
            0x1c => {
                // An alert is an error of its own (RFC 9001, 4.8).
                let error = varint(reader)?;
                if let (1, Ok(description)) = (error >> 8, u8::try_from(error & 0xff)) {
                    self.alerts.push(Alert { level: 2, description });
                }
                return None;
            }
            _ => return None,
        }
        Some(())
    }

    /// What it says, up to the first gap.
    fn spoken(self) -> Spoken {
        let mut before = Vec::new();
        for (offset, bytes) in &self.fragments {
            let Some(known) = before.len().checked_sub(*offset) else { break };
            before.extend_from_slice(bytes.get(known..).unwrap_or_default());
        }
        Spoken { before, alerts: self.alerts, ..Spoken::default() }
    }
}

/// A number of one to eight bytes (RFC 9000, 16).
fn varint(reader: &mut Reader<'_>) -> Option<usize> {
    let first = reader.u8()?;
    let mut number = u64::from(first & 0x3f);
    for byte in reader.take((1 << (first >> 6)) - 1)? {
        number = number << 8 | u64::from(*byte);
    }
    usize::try_from(number).ok()
}

#[cfg(test)]
#[path = "quic_tests.rs"]
mod tests;
