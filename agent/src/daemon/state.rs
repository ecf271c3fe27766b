//! What must outlive the agent as long as the pinned maps do: which number stands for what.
//!
//! Written whole and renamed into place before the kernel hears of a new number, so that a number in
//! the maps is always in the file. Maps without a file cannot be changed safely: a new count would give
//! live numbers a second meaning. Then the agent refuses to go on, and the kernel stays as it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bulkhead_policy::Numbers;
use serde::{Deserialize, Serialize};

use super::labels::Labels;

/// Form of the file.
const VERSION: u32 = 1;

/// Why the numbers are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The maps live and the file is gone.
    #[error(
        "{} is missing while the kernel still holds a policy; enforcement goes on, but cannot be changed \
         safely: run `bulkhead detach` and start again", path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is there and says nothing that can be used.
    #[error(
        "{} cannot be used: {reason}; enforcement goes on, but cannot be changed safely: run \
         `bulkhead detach` and start again", path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It cannot be written.
    #[error("cannot write {}: {source}; the policy is not changed. Make room, or check the folder's rights", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// The file, and what was last written to it.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    written: Option<Numbers>,
}

#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    numbers: Numbers,
    labels: Labels,
}

#[derive(Serialize)]
struct StateRef<'a> {
    version: u32,
    numbers: &'a Numbers,
    labels: &'a Labels,
}

impl StateFile {
    /// Reads the file at `path`. Without live maps it begins anew.
    pub fn open(path: &Path, maps_live: bool) -> Result<(Self, Numbers, Labels), StateError> {
        let path = path.to_owned();
        if !maps_live {
            return Ok((Self { path, written: None }, Numbers::default(), Labels::default()));
        }
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StateError::Missing { path });
            }
            Err(error) => return Err(StateError::Unusable { path, reason: error.to_string() }),
        };
        match serde_json::from_slice::<State>(&text) {
            Ok(State { version: VERSION, numbers, labels }) => {
                Ok((Self { path, written: Some(numbers.clone()) }, numbers, labels))
            }
            Ok(State { version, .. }) => {
                Err(StateError::Unusable { path, reason: format!("it has the unknown form {version}") })
            }
            Err(error) => Err(StateError::Unusable { path, reason: error.to_string() }),
        }
    }

    /// Writes the file if there is anything new to say.
    pub fn save(&mut self, numbers: &Numbers, labels: &Labels) -> Result<(), StateError> {
        if self.written.as_ref() == Some(numbers) {
            return Ok(());
        }
        let fault = |source| StateError::Write { path: self.path.clone(), source };
        let text = serde_json::to_vec(&StateRef { version: VERSION, numbers, labels })
            .map_err(|error| fault(error.into()))?;
        // The process may die at any moment, the machine takes the maps along: no fsync is needed.
        let temporary = self.path.with_extension("new");
        fs::write(&temporary, text).map_err(fault)?;
        fs::rename(&temporary, &self.path).map_err(fault)?;
        self.written = Some(numbers.clone());
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bulkhead_policy::{Compiler, Facts, Model, Prefix, Zone};

    use super::*;

    fn numbers() -> Numbers {
        let mut zone = Zone::new("web");
        zone.cidrs = vec![Prefix::new(bulkhead_abi::Addr::v4([10, 0, 0, 0]), 104)];
        let mut compiler = Compiler::default();
        compiler.compile(&Model::new(vec![zone.into()], vec![]), &Facts::default()).unwrap();
        compiler.into_numbers()
    }

    #[test]
    fn numbers_come_back_while_the_maps_live() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers.json");
        let (mut file, fresh, labels) = StateFile::open(&path, false).unwrap();
        assert!(fresh.is_empty());
        file.save(&numbers(), &labels).unwrap();
        let (_, read, _) = StateFile::open(&path, true).unwrap();
        assert_eq!(read, numbers());
        let (_, anew, _) = StateFile::open(&path, false).unwrap();
        assert!(anew.is_empty(), "new maps begin a new count");
    }

    #[test]
    fn live_maps_without_usable_numbers_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers.json");
        assert!(matches!(StateFile::open(&path, true), Err(StateError::Missing { .. })));
        fs::write(&path, "{\"version\":1").unwrap();
        assert!(matches!(StateFile::open(&path, true), Err(StateError::Unusable { .. })));
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        let (mut file, _, labels) = StateFile::open(Path::new("/proc/nowhere/numbers.json"), false).unwrap();
        assert!(matches!(file.save(&numbers(), &labels), Err(StateError::Write { .. })));
    }
}
