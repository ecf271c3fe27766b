//! SPIFFE names of the one shape that ambient meshes take: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of a workload (SPIFFE-ID, section 2): `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, five
/// path parts and no other shape. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    text: Arc<str>,
    domain: usize,
}

/// Why a text is no name that can be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{text}` is not of the shape spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT: {why}")]
pub struct NameError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

const SCHEME: &str = "spiffe://";
/// What a SPIFFE name may be long (SPIFFE-ID, section 2.3), in bytes.
const LONGEST: usize = 2048;

impl SpiffeId {
    /// The name of `account` in `namespace` under `domain`.
    pub fn new(domain: &str, namespace: &str, account: &str) -> Result<Self, NameError> {
        format!("{SCHEME}{domain}/ns/{namespace}/sa/{account}").parse()
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.domain).unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = |why| NameError { text: text.to_owned(), why };
        if text.len() > LONGEST {
            return Err(wrong("it is longer than 2048 bytes"));
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong("it does not begin with spiffe://"))?;
        let mut parts = rest.split('/');
        let domain = parts.next().unwrap_or_default();
        let is_domain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
        if domain.is_empty() || domain.len() > 255 || !domain.bytes().all(is_domain) {
            return Err(wrong(
                "the trust domain has 1 to 255 letters a-z, digits, dots, dashes, underscores",
            ));
        }
        let is_part = |part: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            !part.is_empty() && part != "." && part != ".." && part.bytes().all(allowed)
        };
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None)
                if is_part(namespace) && is_part(account) =>
            {
                Ok(Self { text: text.into(), domain: SCHEME.len() + domain.len() })
            }
            (Some("ns"), Some(_), Some("sa"), Some(_), None) => {
                Err(wrong("its parts have letters, digits, dots, dashes and underscores, and at least one"))
            }
            _ => Err(wrong("its path is not /ns/NAMESPACE/sa/ACCOUNT")),
        }
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(name: SpiffeId) -> Self {
        name.text.as_ref().to_owned()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shape_of_ambient_meshes_is_a_name() {
        let name: SpiffeId = "spiffe://example.org/ns/host/sa/web".parse().unwrap();
        assert_eq!(name.trust_domain(), "example.org");
        assert_eq!(SpiffeId::new("example.org", "host", "web").unwrap(), name);
        for wrong in [
            "",
            "spiffe://",
            "http://example.org/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://Example.org/ns/a/sa/b",
            "spiffe://example.org:443/ns/a/sa/b",
            "spiffe://user@example.org/ns/a/sa/b",
            "spiffe://example.org/ns/a/sa",
            "spiffe://example.org/ns/a/sa/b/",
            "spiffe://example.org/ns/a/sa/b/c",
            "spiffe://example.org/ns//sa/b",
            "spiffe://example.org/ns/../sa/b",
            "spiffe://example.org/ns/a/sa/b?x",
            "spiffe://example.org/ns/a/sa/b#x",
            "spiffe://example.org/ns/a/sa/%62",
            "spiffe://example.org/sa/b/ns/a",
        ] {
            assert!(wrong.parse::<SpiffeId>().is_err(), "{wrong}");
        }
        assert!(SpiffeId::new("example.org", "a/sa/b", "c").is_err());
    }
}
