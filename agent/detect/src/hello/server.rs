//! What the server answers: ServerHello (RFC 8446, 4.1.3), and before TLS 1.3 the group of its
//! ServerKeyExchange (RFC 8422, 5.4; RFC 5246, 7.4.3).

use super::bytes::Reader;
use super::cipher::{KeyExchange, Suite};
use super::client::protocols;
use super::names::{Group, Version, printable};

/// The random of a ServerHello that only asks for another ClientHello: SHA-256 of "HelloRetryRequest".
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// What a server chose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerHello {
    /// The version that is spoken.
    pub version: Version,
    /// The cipher suite.
    pub cipher: Suite,
    /// The group, where the message says so (TLS 1.3, and its request for another ClientHello).
    pub group: Option<Group>,
    /// The application protocol, fit for printing. TLS 1.3 encrypts it.
    pub alpn: Option<String>,
    /// It is a request for another ClientHello.
    pub retry: bool,
    /// TLS 1.3: it goes on with a key that both had.
    pub pre_shared_key: bool,
    /// The session's id, which resumes a session before TLS 1.3 where it is the client's.
    pub session: Vec<u8>,
}

/// Reads the body of a ServerHello. `None` where it is cut before its cipher, or where `whole` is not
/// given and the extensions are cut: a ServerHello of TLS 1.3 would be taken for one of 1.2.
pub(crate) fn read(body: &[u8], whole: bool) -> Option<ServerHello> {
    let mut reader = Reader::new(body);
    let legacy = Version(reader.u16()?);
    let random = reader.take(32)?;
    let session = reader.vec8()?.to_vec();
    let cipher = Suite(reader.u16()?);
    // The compression method.
    reader.u8()?;
    let mut hello = ServerHello {
        version: legacy,
        cipher,
        group: None,
        alpn: None,
        retry: random == RETRY,
        pre_shared_key: false,
        session,
    };
    if !whole {
        return None;
    }
    if reader.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader::new(reader.vec16()?);
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        extension(&mut hello, kind, extensions.vec16()?);
    }
    Some(hello)
}

fn extension(hello: &mut ServerHello, kind: u16, body: &[u8]) {
    let mut reader = Reader::new(body);
    match kind {
        0x0010 => hello.alpn = protocols(body).first().map(|name| printable(name, 64)),
        0x0029 => hello.pre_shared_key = true,
        0x002b => {
            if let Some(version) = reader.u16() {
                hello.version = Version(version);
            }
        }
        0x0033 => hello.group = reader.u16().map(Group),
        _ => {}
    }
}

/// The group of a ServerKeyExchange, under the suite that was chosen: a named curve, or the named prime of
/// RFC 7919 by its size.
pub(crate) fn exchanged_group(body: &[u8], suite: Suite) -> Option<Group> {
    let mut reader = Reader::new(body);
    if suite.has_shared_key() {
        // A hint at which key is meant.
        reader.vec16()?;
    }
    match suite.key_exchange() {
        // Type 3 is a named curve.
        KeyExchange::Ecdhe if reader.u8()? == 3 => Some(Group(reader.u16()?)),
        KeyExchange::Dhe => finite_field(reader.vec16()?),
        _ => None,
    }
}

/// Primes of RFC 7919 begin alike: eight bytes of ones, then the digits of e.
fn finite_field(prime: &[u8]) -> Option<Group> {
    const HEAD: [u8; 16] =
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xad, 0xf8, 0x54, 0x58, 0xa2, 0xbb, 0x4a, 0x9a];
    if !prime.starts_with(&HEAD) {
        return None;
    }
    Some(Group(match prime.len() {
        256 => 0x0100,
        384 => 0x0101,
        512 => 0x0102,
        768 => 0x0103,
        1024 => 0x0104,
        _ => return None,
    }))
}

/// How many bits the prime of a ServerKeyExchange with a finite field has.
pub(crate) fn prime_bits(body: &[u8], suite: Suite) -> Option<u16> {
    if suite.key_exchange() != KeyExchange::Dhe {
        return None;
    }
    let mut reader = Reader::new(body);
    if suite.has_shared_key() {
        reader.vec16()?;
    }
    let prime = reader.vec16()?;
    let zeros = prime.iter().take_while(|byte| **byte == 0).count();
    let first = prime.get(zeros)?;
    let bits = (prime.len() - zeros) * 8 - usize::try_from(first.leading_zeros()).ok()?;
    u16::try_from(bits).ok()
}
