//! The two programs whose connections are looked at: a client and a server that talk in many manners, check
//! each byte, and tell what became of each connection at their end.
//!
//! A connection begins with a header by which the server knows what the client is going to do. Whatever is
//! sent is announced there, so an end that comes too early is seen, also where it looks like an orderly one.

mod carry;
pub(crate) mod client;
pub(crate) mod server;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A connection that carries nothing for so long, where something should come, hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// An end whose peer hangs on purpose gives up after so long.
const GIVES_UP: Duration = Duration::from_secs(20);

/// How the two ends of a connection behave.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Manner {
    /// Both talk at once.
    Duplex,
    /// The client says all and ends its direction; then the server talks.
    ClientFirst,
    /// The other way round.
    ServerFirst,
    /// Both stop reading in the middle, for a while.
    Stalls,
    /// Both are silent in the middle, for a while.
    Idle,
    /// Both are silent in the middle, until the run ends.
    Held,
    /// The client resets in the middle.
    ClientResets,
    /// The server does.
    ServerResets,
    /// The client neither reads nor writes any more, until the server gives up.
    ClientHangs,
    /// The other way round.
    ServerHangs,
}

impl Manner {
    const ALL: [Manner; 10] = [
        Manner::Duplex,
        Manner::ClientFirst,
        Manner::ServerFirst,
        Manner::Stalls,
        Manner::Idle,
        Manner::Held,
        Manner::ClientResets,
        Manner::ServerResets,
        Manner::ClientHangs,
        Manner::ServerHangs,
    ];

    /// Whether its ends mean to cut it.
    pub(crate) fn is_cut(self) -> bool {
        use Manner::{ClientHangs, ClientResets, ServerHangs, ServerResets};
        matches!(self, ClientResets | ServerResets | ClientHangs | ServerHangs)
    }
}

/// What a connection is going to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Its number, which no other has.
    pub(crate) id: u64,
    pub(crate) manner: Manner,
    /// Bytes to the server, and to the client.
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// Of whatever takes a while, in milliseconds.
    pub(crate) pause: u64,
}

/// Length of a plan on the wire.
const HEADER: usize = 40;

impl Plan {
    fn header(&self) -> [u8; HEADER] {
        let manner = Manner::ALL.iter().position(|one| *one == self.manner).unwrap_or_default() as u64;
        let mut header = [0; HEADER];
        let words = [self.id, manner, self.up, self.down, self.pause];
        for (place, word) in header.chunks_mut(8).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        header
    }

    fn read(header: &[u8; HEADER]) -> Option<Plan> {
        let mut words = header.chunks(8).filter_map(|word| Some(u64::from_be_bytes(word.try_into().ok()?)));
        let (id, manner) = (words.next()?, usize::try_from(words.next()?).ok()?);
        let (up, down, pause) = (words.next()?, words.next()?, words.next()?);
        Some(Plan { id, manner: *Manner::ALL.get(manner)?, up, down, pause })
    }
}

/// What became of a connection at one end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Of its plan; 0 where the server never heard it.
    pub(crate) id: u64,
    pub(crate) manner: Manner,
    /// What was to be carried, to the server and to the client.
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// Whether the client tells.
    pub(crate) client: bool,
    /// Seconds since 1970.
    pub(crate) began: f64,
    pub(crate) ended: f64,
    /// Bytes that the kernel took, and that came; without the header.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// `clean`, or the word of what was not.
    pub(crate) how: String,
}

/// Where an end tells it: a line of JSON each, in a file.
struct Notes(Mutex<File>);

impl Notes {
    fn open(path: &Path) -> Result<Notes> {
        let file = File::options().create(true).append(true).open(path);
        Ok(Notes(Mutex::new(file.with_context(|| format!("cannot write {}", path.display()))?)))
    }

    fn write(&self, told: &Told) {
        if let Ok(mut line) = serde_json::to_vec(told) {
            line.push(b'\n');
            // Whole lines: whoever reads may read now.
            let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
        }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Manner, Plan};

    #[test]
    fn a_plan_arrives_as_it_was_sent() {
        for manner in Manner::ALL {
            let sent = Plan { id: 77, manner, up: 1 << 40, down: 3, pause: 9 };
            let read = Plan::read(&sent.header()).unwrap();
            assert_eq!((read.id, read.manner, read.up, read.down, read.pause), (77, manner, 1 << 40, 3, 9));
        }
    }
}
