//! Cipher suites: their names, and what is to be thought of them.
//!
//! Judgement is read off the name, which says every part of a suite. A number without a name is shown as
//! such and never judged.

use std::fmt;

use super::cipher_names::NAMES;

/// A cipher suite, as IANA numbers it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Suite(pub u16);

/// How well a suite protects: a closed set, it is a metric label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Strength {
    /// Authenticated encryption, and a recorded session stays closed when the server's key is stolen.
    Strong,
    /// Not broken, and not to be chosen today: the session falls with the server's key, or the cipher is
    /// in CBC mode with a checksum inside (BCP 195, RFC 9325, 4.2).
    Dated,
    /// Broken, or no protection at all: no encryption, nobody authenticated, RC4, DES, 3DES, RC2, IDEA,
    /// MD5, or cut down for export (RFC 9325, 4.1; RFC 7465).
    Weak,
    /// A number that is not known here.
    Unknown,
}

impl Strength {
    /// The word in metrics and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strong => "strong",
            Self::Dated => "dated",
            Self::Weak => "weak",
            Self::Unknown => "unknown",
        }
    }
}

/// How the key is agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KeyExchange {
    /// By the handshake of TLS 1.3, outside of the suite.
    Negotiated,
    /// Ephemeral, on a curve.
    Ecdhe,
    /// Ephemeral, in a finite field.
    Dhe,
    /// By the server's own key, a shared one, or a password.
    Static,
    /// Not known.
    Unknown,
}

impl Suite {
    /// IANA's name.
    pub fn name(self) -> Option<&'static str> {
        let at = NAMES.binary_search_by_key(&self.0, |(number, _)| *number).ok()?;
        NAMES.get(at).map(|(_, name)| *name)
    }

    /// What is to be thought of it.
    pub fn strength(self) -> Strength {
        const BROKEN: [&str; 10] =
            ["_NULL", "_anon_", "_RC4_", "_3DES_", "_DES_", "_DES40_", "_RC2_", "_IDEA_", "_MD5", "EXPORT"];
        let Some(name) = self.name() else { return Strength::Unknown };
        // The two suites of RFC 9150 have a checksum and no cipher.
        if matches!(self.0, 0xc0b4 | 0xc0b5) || BROKEN.iter().any(|part| name.contains(part)) {
            return Strength::Weak;
        }
        if name.contains("_CBC") || !self.is_forward_secret() {
            return Strength::Dated;
        }
        Strength::Strong
    }

    /// Whether a recorded session stays closed when the server's key is stolen.
    pub fn is_forward_secret(self) -> bool {
        matches!(self.key_exchange(), KeyExchange::Negotiated | KeyExchange::Ecdhe | KeyExchange::Dhe)
    }

    pub(crate) fn key_exchange(self) -> KeyExchange {
        let Some(name) = self.name() else { return KeyExchange::Unknown };
        if !name.contains("_WITH_") {
            return match self.0 {
                0x1301..=0x13ff | 0x00c6 | 0x00c7 | 0xc0b4 | 0xc0b5 => KeyExchange::Negotiated,
                _ => KeyExchange::Unknown,
            };
        }
        if name.starts_with("TLS_ECDHE_")
            || name.starts_with("TLS_ECDH_anon_")
            || name.starts_with("TLS_ECCPWD_")
        {
            KeyExchange::Ecdhe
        } else if ["TLS_DHE_", "TLS_DH_anon_", "TLS_PSK_DHE_"].iter().any(|head| name.starts_with(head)) {
            KeyExchange::Dhe
        } else {
            KeyExchange::Static
        }
    }

    /// Whether a shared key takes part.
    pub(crate) fn has_shared_key(self) -> bool {
        self.name().is_some_and(|name| name.contains("PSK_"))
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => out.write_str(name),
            None => write!(out, "0x{:04x}", self.0),
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_for_the_search() {
        assert!(NAMES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(Suite(0x1301).to_string(), "TLS_AES_128_GCM_SHA256");
        assert_eq!(Suite(0xfffe).to_string(), "0xfffe");
    }

    #[test]
    fn each_suite_gets_what_it_deserves() {
        let cases = [
            (0x1301, Strength::Strong),
            (0x1303, Strength::Strong),
            (0xc02f, Strength::Strong),
            (0xcca8, Strength::Strong),
            (0x009e, Strength::Strong),
            // Static RSA, with an authenticated cipher and without.
            (0x009c, Strength::Dated),
            (0x002f, Strength::Dated),
            (0xc013, Strength::Dated),
            (0xc027, Strength::Dated),
            (0x0004, Strength::Weak),
            (0x0005, Strength::Weak),
            (0x000a, Strength::Weak),
            (0xc012, Strength::Weak),
            (0x0009, Strength::Weak),
            (0x0003, Strength::Weak),
            (0x0034, Strength::Weak),
            (0x003b, Strength::Weak),
            (0xc010, Strength::Weak),
            (0xc0b4, Strength::Weak),
            (0x0000, Strength::Weak),
            (0xfffe, Strength::Unknown),
        ];
        for (number, strength) in cases {
            assert_eq!(Suite(number).strength(), strength, "{}", Suite(number));
        }
    }
}
