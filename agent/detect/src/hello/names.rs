//! Names for versions and groups, and what is to be thought of them.
//!
//! Numbers without a name stay numbers: they are shown as such and never judged.

use std::fmt;

/// Whether a number is one of those that mean nothing, so that nobody relies on knowing all (RFC 8701).
pub const fn is_grease(number: u16) -> bool {
    let [high, low] = number.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

/// A protocol version as on the wire, of TLS or of DTLS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version(pub u16);

impl Version {
    /// SSL 3.0 (RFC 6101).
    pub const SSL3: Self = Self(0x0300);
    /// TLS 1.0 (RFC 2246).
    pub const TLS1_0: Self = Self(0x0301);
    /// TLS 1.1 (RFC 4346).
    pub const TLS1_1: Self = Self(0x0302);
    /// TLS 1.2 (RFC 5246).
    pub const TLS1_2: Self = Self(0x0303);
    /// TLS 1.3 (RFC 8446).
    pub const TLS1_3: Self = Self(0x0304);
    /// DTLS 1.0 (RFC 4347).
    pub const DTLS1_0: Self = Self(0xfeff);
    /// DTLS 1.2 (RFC 6347).
    pub const DTLS1_2: Self = Self(0xfefd);
    /// DTLS 1.3 (RFC 9147).
    pub const DTLS1_3: Self = Self(0xfefc);

    /// The version's number as zone files and metrics write it: a closed set.
    pub const fn as_str(self) -> &'static str {
        match self.0 {
            0x0002 => "ssl2",
            0x0300 => "ssl3",
            0x0301 | 0xfeff => "1.0",
            0x0302 => "1.1",
            0x0303 | 0xfefd => "1.2",
            0x0304 | 0xfefc => "1.3",
            _ => "unknown",
        }
    }

    /// Where it stands among the versions of TLS, as the minor number on TLS's wire: 4 is 1.3. DTLS 1.0
    /// was made of TLS 1.1. `None` where the version is none of ours.
    pub const fn minor(self) -> Option<u8> {
        match self.0 {
            0x0002 | 0x0300 => Some(0),
            0x0301 => Some(1),
            0x0302 | 0xfeff => Some(2),
            0x0303 | 0xfefd => Some(3),
            0x0304 | 0xfefc => Some(4),
            _ => None,
        }
    }

    /// Whether it should be spoken no more (RFC 8996, RFC 7568, RFC 6176).
    pub const fn is_old(self) -> bool {
        matches!(self.minor(), Some(0..=2))
    }

    const fn is_dtls(self) -> bool {
        self.0 >> 8 == 0xfe
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.as_str(), self.is_dtls()) {
            ("unknown", _) => write!(out, "0x{:04x}", self.0),
            ("ssl2", _) => out.write_str("SSL 2.0"),
            ("ssl3", _) => out.write_str("SSL 3.0"),
            (number, true) => write!(out, "DTLS {number}"),
            (number, false) => write!(out, "TLS {number}"),
        }
    }
}

/// A group of the key exchange, as IANA numbers it ("TLS Supported Groups").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Group(pub u16);

/// What protects the key exchange.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum GroupKind {
    /// Discrete logarithms: recorded today, read when a quantum computer comes.
    Classic,
    /// A classic group together with one that withstands a quantum computer.
    Hybrid,
    /// Post-quantum alone.
    PostQuantum,
    /// A number that is not known here.
    Unknown,
}

impl GroupKind {
    /// The word in metrics and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Hybrid => "hybrid",
            Self::PostQuantum => "post-quantum",
            Self::Unknown => "unknown",
        }
    }
}

impl Group {
    /// X25519 with ML-KEM-768, the hybrid that is deployed most.
    pub const X25519MLKEM768: Self = Self(0x11ec);

    /// IANA's name.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0x0001 => "sect163k1",
            0x0003 => "sect163r2",
            0x0006 => "sect233k1",
            0x0007 => "sect233r1",
            0x0009 => "sect283k1",
            0x000a => "sect283r1",
            0x000b => "sect409k1",
            0x000c => "sect409r1",
            0x000d => "sect571k1",
            0x000e => "sect571r1",
            0x0010 => "secp160r1",
            0x0013 => "secp192r1",
            0x0014 => "secp224k1",
            0x0015 => "secp224r1",
            0x0016 => "secp256k1",
            0x0017 => "secp256r1",
            0x0018 => "secp384r1",
            0x0019 => "secp521r1",
            0x001a => "brainpoolP256r1",
            0x001b => "brainpoolP384r1",
            0x001c => "brainpoolP512r1",
            0x001d => "x25519",
            0x001e => "x448",
            0x001f => "brainpoolP256r1tls13",
            0x0020 => "brainpoolP384r1tls13",
            0x0021 => "brainpoolP512r1tls13",
            0x0029 => "curveSM2",
            0x0100 => "ffdhe2048",
            0x0101 => "ffdhe3072",
            0x0102 => "ffdhe4096",
            0x0103 => "ffdhe6144",
            0x0104 => "ffdhe8192",
            0x0200 => "MLKEM512",
            0x0201 => "MLKEM768",
            0x0202 => "MLKEM1024",
            0x11eb => "SecP256r1MLKEM768",
            0x11ec => "X25519MLKEM768",
            0x11ed => "SecP384r1MLKEM1024",
            0x11ee => "curveSM2MLKEM768",
            0x6399 => "X25519Kyber768Draft00",
            0x639a => "SecP256r1Kyber768Draft00",
            _ => return None,
        })
    }

    /// What it is worth.
    pub const fn kind(self) -> GroupKind {
        match self.0 {
            0x11eb..=0x11ee | 0x6399 | 0x639a => GroupKind::Hybrid,
            0x0200..=0x0202 => GroupKind::PostQuantum,
            _ if self.name().is_some() => GroupKind::Classic,
            _ => GroupKind::Unknown,
        }
    }

    /// Whether what is recorded today stays closed to a quantum computer.
    pub const fn is_post_quantum(self) -> bool {
        matches!(self.kind(), GroupKind::Hybrid | GroupKind::PostQuantum)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => out.write_str(name),
            None => write!(out, "0x{:04x}", self.0),
        }
    }
}

/// Text that strangers sent, fit for a terminal, a log and a table: printable, and not too long.
pub(crate) fn printable(bytes: &[u8], longest: usize) -> String {
    let mut text = String::new();
    let lossy = String::from_utf8_lossy(bytes);
    for character in lossy.chars() {
        if text.len() >= longest {
            text.push('…');
            break;
        }
        if character.is_control() || is_invisible(character) {
            text.extend(character.escape_unicode());
        } else {
            text.push(character);
        }
    }
    text
}

/// Characters that change how a line reads without being seen.
const fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grease_is_sixteen_numbers() {
        assert_eq!((0..=u16::MAX).filter(|number| is_grease(*number)).count(), 16);
        assert!(is_grease(0x0a0a) && is_grease(0xfafa) && !is_grease(0x0a1a) && !is_grease(0x1301));
    }

    #[test]
    fn versions_stand_in_order() {
        assert!(Version::TLS1_1.is_old() && Version::DTLS1_0.is_old() && !Version::DTLS1_2.is_old());
        assert_eq!(Version::DTLS1_3.minor(), Version::TLS1_3.minor());
        assert_eq!(Version(0x7f17).to_string(), "0x7f17");
        assert_eq!(Version::DTLS1_2.to_string(), "DTLS 1.2");
        assert!(!Version(0x7f17).is_old(), "what is not known is not judged");
    }

    #[test]
    fn hybrids_are_told_from_classic_groups() {
        assert_eq!(Group::X25519MLKEM768.kind(), GroupKind::Hybrid);
        assert_eq!(Group(0x1d).kind(), GroupKind::Classic);
        assert_eq!(Group(0x201).kind(), GroupKind::PostQuantum);
        assert_eq!(Group(0x7777).kind(), GroupKind::Unknown);
        assert!(!Group(0x7777).is_post_quantum());
    }

    #[test]
    fn strangers_text_cannot_steer_a_terminal() {
        assert_eq!(printable(b"a\x1b[31mb", 99), "a\\u{1b}[31mb");
        assert_eq!(printable("a\u{202e}b".as_bytes(), 99), "a\\u{202e}b");
        assert_eq!(printable(b"abcdef", 3), "abc…");
    }
}
