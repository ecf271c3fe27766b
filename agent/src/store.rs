//! What must outlive the agent and is no policy: a file of JSON each in the state directory, for the
//! findings' history and for the inventory.
//!
//! Written whole, synced and renamed into place, so that it is either the old one or the new one. A file
//! that cannot be read is put aside as `….json.damaged` and told of: what it held begins anew, the agent
//! runs. Its size is bounded by what its owner keeps, a few MiB.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Form of the file.
const VERSION: u32 = 1;
/// A file that is larger is none of ours.
const SIZE: u64 = 64 << 20;

/// A file that holds an `M`.
#[derive(Debug)]
pub struct Store<M> {
    path: PathBuf,
    /// What it holds, for whoever reads the log.
    what: &'static str,
    complained: bool,
    _holds: PhantomData<fn() -> M>,
}

#[derive(Serialize, Deserialize)]
struct Contents<M> {
    version: u32,
    #[serde(flatten)]
    memory: M,
}

impl<M: Default + Serialize + DeserializeOwned> Store<M> {
    /// Reads the file called `name` in `folder`, which is made if it is not there; `what` says in one word
    /// what it holds.
    pub fn open(folder: &Path, name: &str, what: &'static str) -> (Self, M) {
        let mut store = Self { path: folder.join(name), what, complained: false, _holds: PhantomData };
        if let Err(error) = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder) {
            store.complain(&error);
            return (store, M::default());
        }
        let memory = store.read().unwrap_or_else(|reason| {
            let aside = store.path.with_extension("json.damaged");
            let moved = fs::rename(&store.path, &aside);
            tracing::warn!(
                reason,
                path = %store.path.display(),
                aside = %aside.display(),
                moved = moved.is_ok(),
                what,
                "what an earlier agent wrote down cannot be read; it is put aside, and begins anew"
            );
            M::default()
        });
        (store, memory)
    }

    /// Writes it down. What goes wrong is told once, until it works again.
    pub fn save(&mut self, memory: &M) {
        match self.write(memory) {
            Ok(()) => self.complained = false,
            Err(error) => self.complain(&error),
        }
    }

    fn read(&self) -> Result<M, String> {
        let file = match fs::File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(M::default()),
            Err(error) => return Err(error.to_string()),
        };
        let mut text = String::new();
        file.take(SIZE).read_to_string(&mut text).map_err(|error| error.to_string())?;
        let contents: Contents<M> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if contents.version != VERSION {
            return Err(format!("version {} is not {VERSION}", contents.version));
        }
        Ok(contents.memory)
    }

    fn write(&self, memory: &M) -> io::Result<()> {
        let text = serde_json::to_vec(&Contents { version: VERSION, memory })?;
        let temporary = self.path.with_extension("json.new");
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)
    }

    fn complain(&mut self, error: &io::Error) {
        if !self.complained {
            self.complained = true;
            tracing::warn!(
                %error,
                path = %self.path.display(),
                what = self.what,
                "it cannot be written, and would not outlive the agent; check state_dir"
            );
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use bulkhead_detect::findings::{Findings, Memory, Observation, Settings, Time};

    use super::*;

    fn memory() -> Memory {
        let mut findings = Findings::new(&Settings::default(), Memory::default(), Time::default());
        findings.observe(Time::default(), &Observation::Lost { what: "events", count: 1 });
        findings.memory()
    }

    #[test]
    fn what_was_saved_comes_back_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        let (mut store, empty) = Store::<Memory>::open(&folder, "findings.json", "findings");
        assert_eq!(empty, Memory::default());
        store.save(&memory());
        assert_eq!(Store::<Memory>::open(&folder, "findings.json", "findings").1, memory());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&store.path)), (0o700, 0o600));
    }

    #[test]
    fn a_damaged_file_is_put_aside() {
        for text in ["", "{", "{\"version\":9}", "[1]"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("findings.json"), text).unwrap();
            let (mut store, memory) = Store::<Memory>::open(dir.path(), "findings.json", "findings");
            assert_eq!(memory, Memory::default());
            assert_eq!(fs::read_to_string(dir.path().join("findings.json.damaged")).unwrap(), text);
            store.save(&memory);
            assert!(dir.path().join("findings.json").exists());
        }
    }

    #[test]
    fn a_folder_that_cannot_be_had_is_no_reason_to_stop() {
        let (mut store, _) = Store::<Memory>::open(Path::new("/proc/nowhere"), "findings.json", "findings");
        store.save(&memory());
        assert!(store.complained);
    }
}
