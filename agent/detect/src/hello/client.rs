//! The ClientHello (RFC 8446, 4.1.2; RFC 5246, 7.4.1.2; RFC 6347, 4.3.2 for DTLS).
//!
//! What was not read to its end gives what it has, and says so by [`ClientHello::complete`].

use super::bytes::Reader;
use super::ja4::{self, Transport};
use super::names::{Group, Version, is_grease, printable};

/// What a client offers. Numbers that mean nothing (GREASE) are kept in `ciphers` and `extensions` only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientHello {
    /// The version field, which is 1.2 also where 1.3 is offered.
    pub legacy_version: Version,
    /// Versions of the `supported_versions` extension.
    pub versions: Vec<Version>,
    /// Cipher suites, in the client's order.
    pub ciphers: Vec<u16>,
    /// Extensions, in their order.
    pub extensions: Vec<u16>,
    /// The server's name, fit for printing.
    pub server_name: Option<String>,
    /// Application protocols, in the client's order.
    pub alpn: Vec<Vec<u8>>,
    /// Groups that the client can use.
    pub groups: Vec<Group>,
    /// Groups for which it sent a key share at once.
    pub key_shares: Vec<Group>,
    /// Signature algorithms, in the client's order.
    pub signature_algorithms: Vec<u16>,
    /// It offers to resume a session of TLS 1.3, or one out of band.
    pub pre_shared_key: bool,
    /// The true ClientHello is inside an encrypted extension: what is seen is its cover.
    pub encrypted_inside: bool,
    /// It was read to its end.
    pub complete: bool,
    /// Its fingerprint, where it was read to its end.
    pub ja4: Option<String>,
}

impl Default for ClientHello {
    fn default() -> Self {
        Self {
            legacy_version: Version(0),
            versions: Vec::new(),
            ciphers: Vec::new(),
            extensions: Vec::new(),
            server_name: None,
            alpn: Vec::new(),
            groups: Vec::new(),
            key_shares: Vec::new(),
            signature_algorithms: Vec::new(),
            pre_shared_key: false,
            encrypted_inside: false,
            complete: false,
            ja4: None,
        }
    }
}

/// Reads the body of a ClientHello; `whole` says whether the message ends where `body` does. `None` where
/// not even its version is there.
pub(crate) fn read(body: &[u8], whole: bool, transport: Transport) -> Option<ClientHello> {
    let mut reader = Reader::new(body);
    let mut hello = ClientHello { legacy_version: Version(reader.u16()?), ..ClientHello::default() };
    let reached_end = fields(&mut hello, &mut reader, transport).is_some();
    hello.complete = whole && reached_end;
    if hello.complete {
        hello.ja4 = Some(ja4::fingerprint(&hello, transport));
    }
    Some(hello)
}

/// Everything behind the version; `None` where it ends too early.
fn fields(hello: &mut ClientHello, reader: &mut Reader<'_>, transport: Transport) -> Option<()> {
    reader.take(32)?;
    reader.vec8()?;
    if transport == Transport::Dtls {
        // The cookie.
        reader.vec8()?;
    }
    let length = usize::from(reader.u16()?);
    let (ciphers, all) = reader.take_some(length);
    hello.ciphers = Reader::new(ciphers).u16s().collect();
    if !all {
        return None;
    }
    // Compression methods.
    reader.vec8()?;
    if reader.is_empty() {
        // Extensions are optional before TLS 1.3.
        return Some(());
    }
    let length = usize::from(reader.u16()?);
    let (extensions, all) = reader.take_some(length);
    let mut extensions = Reader::new(extensions);
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        let body = extensions.vec16()?;
        hello.extensions.push(kind);
        extension(hello, kind, body);
    }
    all.then_some(())
}

/// What cannot be read inside an extension is left out: the extension's own length says where it ends.
fn extension(hello: &mut ClientHello, kind: u16, body: &[u8]) {
    let mut reader = Reader::new(body);
    let mut numbers = || -> Vec<u16> {
        let list = reader.vec16().unwrap_or_default();
        Reader::new(list).u16s().filter(|number| !is_grease(*number)).collect()
    };
    match kind {
        0x0000 => hello.server_name = server_name(body),
        0x000a => hello.groups = numbers().into_iter().map(Group).collect(),
        0x000d => hello.signature_algorithms = numbers(),
        0x0010 => hello.alpn = protocols(body),
        0x0029 => hello.pre_shared_key = true,
        0x002b => {
            let list = reader.vec8().unwrap_or_default();
            let offered = Reader::new(list).u16s().filter(|number| !is_grease(*number));
            hello.versions = offered.map(Version).collect();
        }
        0x0033 => hello.key_shares = key_shares(body),
        0xfe0d => hello.encrypted_inside = true,
        _ => {}
    }
}

/// The first host name (RFC 6066, 3).
fn server_name(body: &[u8]) -> Option<String> {
    let mut list = Reader::new(Reader::new(body).vec16()?);
    while !list.is_empty() {
        let kind = list.u8()?;
        let name = list.vec16()?;
        if kind == 0 && !name.is_empty() {
            return Some(printable(&name.to_ascii_lowercase(), 255));
        }
    }
    None
}

/// Names of application protocols (RFC 7301, 3.1).
pub(crate) fn protocols(body: &[u8]) -> Vec<Vec<u8>> {
    let mut list = Reader::new(Reader::new(body).vec16().unwrap_or_default());
    std::iter::from_fn(|| list.vec8().map(<[u8]>::to_vec)).collect()
}

fn key_shares(body: &[u8]) -> Vec<Group> {
    let mut list = Reader::new(Reader::new(body).vec16().unwrap_or_default());
    let shares = std::iter::from_fn(|| {
        let group = list.u16()?;
        list.vec16()?;
        Some(Group(group))
    });
    shares.filter(|group| !is_grease(group.0)).collect()
}
