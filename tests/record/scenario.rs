//! Scenarios: who talks to whom, and what it truly is.

use std::path::Path;

use anyhow::{Context, Result};
use bulkhead_tests::corpus::{Segment, Truth, Vector};
use serde::Deserialize;

/// The most that is kept of each direction: the opening of an encrypted flow whole, of others enough.
const KEPT_ENCRYPTED: usize = 4096;
const KEPT_CLEAR: usize = 600;

/// One scenario, as in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// The program that it is about.
    pub(crate) program: String,
    pub(crate) truth: Truth,
    #[serde(default = "tcp")]
    pub(crate) transport: String,
    #[serde(default)]
    pub(crate) port: u16,
    /// Shell lines, with `$T` a folder of the run's own, `$CERT`, `$KEY` and `$CA`, `$PORT`.
    #[serde(default)]
    pub(crate) prepare: String,
    #[serde(default)]
    pub(crate) server: String,
    #[serde(default)]
    pub(crate) client: String,
    /// Flows that are kept, the first ones.
    #[serde(default = "one")]
    pub(crate) flows: usize,
    /// Flows before those, which are left out.
    #[serde(default)]
    pub(crate) skip: usize,
    /// Instead of programs: the bytes, written after the protocol's own text; `c:` and `s:` say who sends,
    /// the rest is hex or text in quotes.
    #[serde(default)]
    pub(crate) bytes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scenario: Vec<Scenario>,
}

fn tcp() -> String {
    "tcp".to_owned()
}

fn one() -> usize {
    1
}

/// All scenarios.
pub(crate) fn load(path: &Path) -> Result<Vec<Scenario>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: File = toml::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(file.scenario)
}

impl Scenario {
    /// The vectors of what was recorded.
    pub(crate) fn vectors(&self, flows: Vec<Vec<Segment>>) -> Vec<Vector> {
        let several = flows.len() > 1;
        let numbered = flows.into_iter().enumerate();
        numbered
            .map(|(at, segments)| {
                let name = if several { format!("{}-{}", self.name, at + 1) } else { self.name.clone() };
                self.vector(name, self.cut(segments))
            })
            .collect()
    }

    /// The vector of bytes that are written down.
    pub(crate) fn written(&self) -> Result<Vector> {
        let segments = self.bytes.iter().map(|line| written(line)).collect::<Result<Vec<Segment>>>();
        Ok(self.vector(self.name.clone(), segments.with_context(|| self.name.clone())?))
    }

    fn vector(&self, name: String, segments: Vec<Segment>) -> Vector {
        Vector {
            name,
            scenario: self.name.clone(),
            program: self.program.clone(),
            transport: self.transport.clone(),
            truth: self.truth.clone(),
            segments,
        }
    }

    /// The beginning of both directions.
    fn cut(&self, segments: Vec<Segment>) -> Vec<Segment> {
        let encrypted = matches!(self.truth.class.as_str(), "tls" | "dtls" | "starttls" | "quic");
        let most = if encrypted { KEPT_ENCRYPTED } else { KEPT_CLEAR };
        let mut had = [0usize; 2];
        let mut kept = Vec::new();
        for mut segment in segments {
            let [opener, receiver] = &mut had;
            let had = if segment.sender == 0 { opener } else { receiver };
            let room = most.saturating_sub(*had);
            if room == 0 {
                continue;
            }
            if self.transport == "tcp" {
                segment.bytes.truncate(room);
            }
            *had += segment.bytes.len();
            kept.push(segment);
        }
        kept
    }
}

/// `c: 16 03 01 "text\r\n" 00*8` and the like.
fn written(line: &str) -> Result<Segment> {
    let (sender, rest) = line.split_once(':').context("a line begins with c: or s:")?;
    let sender = match sender {
        "c" => 0,
        "s" => 1,
        other => anyhow::bail!("{other:?} is neither c nor s"),
    };
    let mut bytes = Vec::new();
    let mut rest = rest.trim();
    while !rest.is_empty() {
        if let Some(text) = rest.strip_prefix('"') {
            let (text, behind) = text.split_once('"').context("a quote does not end")?;
            bytes.extend(unescaped(text)?);
            rest = behind.trim_start();
            continue;
        }
        let (word, behind) = rest.split_once(' ').unwrap_or((rest, ""));
        let (digits, times) = match word.split_once('*') {
            Some((digits, times)) => (digits, times.parse().context("not a count")?),
            None => (word, 1),
        };
        for _ in 0..times {
            bytes.extend(bulkhead_tests::corpus::from_hex(digits)?);
        }
        rest = behind.trim_start();
    }
    Ok(Segment { sender, bytes })
}

fn unescaped(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            bytes.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        bytes.push(match characters.next() {
            Some('r') => b'\r',
            Some('n') => b'\n',
            Some('t') => b'\t',
            Some('0') => 0,
            other => anyhow::bail!("\\{other:?} is not known"),
        });
    }
    Ok(bytes)
}
