//! What the programs wrote of their connections, read as it comes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::ends::Told;

/// A file to which whole lines are appended.
pub(crate) struct Reader {
    path: PathBuf,
    at: u64,
}

impl Reader {
    pub(crate) fn new(path: PathBuf) -> Reader {
        Reader { path, at: 0 }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What has come since.
    pub(crate) fn next(&mut self) -> Result<Vec<Told>> {
        let Ok(mut file) = File::open(&self.path) else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(self.at))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        self.at += whole as u64;
        let lines = bytes.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n');
        lines.filter(|line| !line.is_empty()).map(|line| Ok(serde_json::from_slice(line)?)).collect()
    }
}
