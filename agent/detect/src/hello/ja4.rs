//! JA4, a fingerprint of who opened a TLS connection, by the algorithm that FoxIO published
//! (`technical_details/JA4.md` of FoxIO-LLC/ja4, BSD 3-Clause).
//!
//! Only a ClientHello that was read to its end has one: a part of it would look like another program.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::client::ClientHello;
use super::names::{Version, is_grease};

/// What carried the ClientHello.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Transport {
    /// TLS over TCP.
    #[default]
    Tcp,
    /// DTLS.
    Dtls,
    /// QUIC.
    Quic,
}

/// The server's name.
const SERVER_NAME: u16 = 0x0000;
/// Application protocols.
const ALPN: u16 = 0x0010;

/// The fingerprint, as `t13d1516h2_8daaf6152771_e5627efa2ab1`.
pub(crate) fn fingerprint(hello: &ClientHello, transport: Transport) -> String {
    let ciphers = sorted(&hello.ciphers, |_| true);
    let shown = sorted(&hello.extensions, |kind| kind != SERVER_NAME && kind != ALPN);
    let mut extended = hex_list(&shown);
    let signatures = hex_list(&hello.signature_algorithms);
    if !shown.is_empty() && !signatures.is_empty() {
        extended.push('_');
        extended.push_str(&signatures);
    }
    format!(
        "{}{}{}{:02}{:02}{}_{}_{}",
        match transport {
            Transport::Tcp => 't',
            Transport::Dtls => 'd',
            Transport::Quic => 'q',
        },
        version(hello),
        if hello.extensions.contains(&SERVER_NAME) { 'd' } else { 'i' },
        ciphers.len().min(99),
        hello.extensions.iter().filter(|kind| !is_grease(**kind)).count().min(99),
        alpn(hello.alpn.first().map(Vec::as_slice)),
        hash(&hex_list(&ciphers)),
        hash(&extended),
    )
}

/// The highest version that was offered.
fn version(hello: &ClientHello) -> &'static str {
    let offered = hello.versions.iter().copied().filter(|version| !is_grease(version.0));
    // DTLS counts downwards.
    let highest = offered.max_by_key(|version| (version.minor(), version.0));
    match highest.unwrap_or(hello.legacy_version) {
        Version(0x0304) => "13",
        Version(0x0303) => "12",
        Version(0x0302) => "11",
        Version(0x0301) => "10",
        Version(0x0300) => "s3",
        Version(0x0002) => "s2",
        Version(0xfeff) => "d1",
        Version(0xfefd) => "d2",
        Version(0xfefc) => "d3",
        _ => "00",
    }
}

/// The first and the last character of the first protocol; of its hex form, where one is no letter or
/// digit.
fn alpn(first: Option<&[u8]>) -> String {
    let Some((&head, &tail)) = first.and_then(|name| Some((name.first()?, name.last()?))) else {
        return "00".to_owned();
    };
    if head.is_ascii_alphanumeric() && tail.is_ascii_alphanumeric() {
        return [char::from(head), char::from(tail)].iter().collect();
    }
    format!("{:x}{:x}", head >> 4, tail & 0x0f)
}

fn sorted(numbers: &[u16], wanted: impl Fn(u16) -> bool) -> Vec<u16> {
    let mut numbers: Vec<u16> =
        numbers.iter().copied().filter(|number| !is_grease(*number) && wanted(*number)).collect();
    numbers.sort_unstable();
    numbers
}

fn hex_list(numbers: &[u16]) -> String {
    let mut text = String::with_capacity(numbers.len() * 5);
    for number in numbers.iter().filter(|number| !is_grease(**number)) {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing into a String cannot fail.
        let _ = write!(text, "{comma}{number:04x}");
    }
    text
}

/// The first twelve digits of SHA-256; zeros for nothing at all.
fn hash(text: &str) -> String {
    if text.is_empty() {
        return "0".repeat(12);
    }
    let mut digits = String::with_capacity(12);
    for byte in Sha256::digest(text).iter().take(6) {
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the published text.
    fn published() -> ClientHello {
        ClientHello {
            legacy_version: Version::TLS1_2,
            versions: vec![Version(0x2a2a), Version::TLS1_2, Version::TLS1_3],
            ciphers: vec![
                0x1a1a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013,
                0xc014, 0x009c, 0x009d, 0x002f, 0x0035,
            ],
            extensions: vec![
                0x3a3a, 0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023,
                0x0012, 0x002b, 0xff01, 0x000b, 0x000a, 0x0015,
            ],
            signature_algorithms: vec![0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601],
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            complete: true,
            ..ClientHello::default()
        }
    }

    #[test]
    fn the_published_example() {
        assert_eq!(fingerprint(&published(), Transport::Tcp), "t13d1516h2_8daaf6152771_e5627efa2ab1");
    }

    #[test]
    fn without_signature_algorithms_there_is_no_underscore() {
        let hello = ClientHello { signature_algorithms: Vec::new(), ..published() };
        assert_eq!(fingerprint(&hello, Transport::Quic), "q13d1516h2_8daaf6152771_6d807ffa2a79");
    }

    #[test]
    fn nothing_hashes_to_zeros_and_counts_stop_at_99() {
        let hello = ClientHello { legacy_version: Version::DTLS1_2, ..ClientHello::default() };
        assert_eq!(fingerprint(&hello, Transport::Dtls), "dd2i000000_000000000000_000000000000");
        let hello = ClientHello { ciphers: (1..=120).collect(), ..hello };
        assert!(fingerprint(&hello, Transport::Dtls).starts_with("dd2i990000_"));
    }

    #[test]
    fn odd_protocol_names_are_told_by_their_hex_form() {
        let cases: [(&[u8], &str); 7] = [
            (&[0xab], "ab"),
            (&[0xab, 0xcd], "ad"),
            (&[0x30, 0xab], "3b"),
            (&[0x30, 0x31, 0xab, 0xcd], "3d"),
            (&[0x30, 0xab, 0xcd, 0x31], "01"),
            (b"h", "hh"),
            (b"http/1.1", "h1"),
        ];
        for (name, expected) in cases {
            assert_eq!(alpn(Some(name)), expected, "{name:x?}");
        }
        assert_eq!(alpn(Some(b"")), "00");
        assert_eq!(alpn(None), "00");
    }

    #[test]
    fn of_datagram_versions_the_lower_number_is_the_newer() {
        let hello =
            ClientHello { versions: vec![Version::DTLS1_2, Version::DTLS1_3], ..ClientHello::default() };
        assert_eq!(version(&hello), "d3");
    }
}
