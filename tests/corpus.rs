//! Openings of real programs, with the truth beside them: `corpus/vectors.jsonl`, one vector a line.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// How one flow began.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vector {
    /// Its own name.
    pub name: String,
    /// The scenario that it is of.
    pub scenario: String,
    /// Who talked.
    pub program: String,
    /// `tcp` or `udp`.
    pub transport: String,
    /// What it truly is.
    pub truth: Truth,
    /// What was sent, in order.
    pub segments: Vec<Segment>,
}

/// What a flow truly is, by the words of the metrics.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Truth {
    /// How it is encrypted at the end of what is kept.
    pub class: String,
    /// What it speaks.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// It turned to TLS.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub upgraded: bool,
    /// The version that is spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The cipher suite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// The group of the key exchange.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The server's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The application protocol that was chosen, or offered first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
}

/// What one end sent at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// 0 the opener, 1 the receiver.
    pub sender: u8,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Serialize for Segment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = if self.sender == 0 { "c:" } else { "s:" }.to_owned();
        for byte in &self.bytes {
            // Writing into a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Segment {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = match text.split_once(':') {
            Some(("c", digits)) => from_hex(digits).map(|bytes| Self { sender: 0, bytes }),
            Some(("s", digits)) => from_hex(digits).map(|bytes| Self { sender: 1, bytes }),
            _ => Err(anyhow::anyhow!("a segment begins with c: or s:")),
        };
        parsed.map_err(serde::de::Error::custom)
    }
}

/// Bytes out of their hex digits.
pub fn from_hex(digits: &str) -> Result<Vec<u8>> {
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        bail!("{digits:?} is not hex");
    }
    let pairs = digits.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair)?;
        u8::from_str_radix(pair, 16).with_context(|| format!("{pair:?} is not hex"))
    });
    pairs.collect()
}

/// All vectors of a file.
pub fn load(path: &Path) -> Result<Vec<Vector>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().enumerate();
    lines
        .map(|(at, line)| {
            serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), at + 1))
        })
        .collect()
}

/// Writes vectors to a file, one a line.
pub fn store(path: &Path, vectors: impl IntoIterator<Item = Vector>) -> Result<()> {
    let mut text = String::new();
    for vector in vectors {
        text.push_str(&serde_json::to_string(&vector)?);
        text.push('\n');
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
