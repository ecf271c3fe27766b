//! The policy folder as a source of models.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_policy::source::is_zone_file_name;
use bulkhead_policy::{Capabilities, Diagnostics, Loader, Sources};
use bulkhead_sys::lease::{Asked, ReadLease};

use super::reconcile::{Loaded, Policies, Refusal};

/// How often a folder that is being swapped or written is read again.
const ATTEMPTS: usize = 5;
/// How long a file that somebody writes to is given to be closed.
const WRITING: Duration = Duration::from_millis(5);

/// Reads a folder of zone files, and knows what it read last.
#[derive(Debug)]
pub struct PolicyFolder {
    path: PathBuf,
    loader: Loader,
    /// Files of the last successful load.
    good: Option<Sources>,
    /// What was last refused.
    bad: Option<Refusal>,
}

impl PolicyFolder {
    /// The folder at `path`, not read yet.
    pub fn new(path: &Path) -> Self {
        let loader = Loader::new(Capabilities::this_build());
        Self { path: path.to_owned(), loader, good: None, bad: None }
    }

    /// Reads all files as of one moment: Kubernetes swaps the folder's files together by a link, and who
    /// saves in place truncates first and writes then. Half a file is never taken for a policy, nor is
    /// an empty one for a policy without zones.
    fn read(&self) -> Result<Sources, Refusal> {
        let data = self.path.join("..data");
        let mut attempt = 0;
        loop {
            attempt += 1;
            let before = std::fs::read_link(&data).ok();
            let (leases, written) = self.hold_writers_back();
            let sources = Sources::read_dir(&self.path);
            drop(leases);
            let moved = std::fs::read_link(&data).ok() != before;
            let empty = sources.as_ref().ok().and_then(empty_file);
            let half = written.as_ref().or(empty.as_ref());
            if attempt < ATTEMPTS && (moved || half.is_some()) {
                if half.is_some() {
                    std::thread::sleep(WRITING);
                }
                continue;
            }
            if let Some(path) = written {
                let path = path.display();
                return Err(Refusal::because(format!(
                    "{path} is being written: it is read when it is closed"
                )));
            }
            if let Some(path) = empty {
                let path = path.display();
                return Err(Refusal::because(format!(
                    "{path} is empty, which is no policy: write its zones, or remove it"
                )));
            }
            return sources.map_err(Refusal::because);
        }
    }

    /// Until what is returned is dropped, nobody opens a zone file to write to it; and the first file
    /// that somebody has open so already. Where there are no leases, a file is read as it is.
    fn hold_writers_back(&self) -> (Vec<ReadLease>, Option<PathBuf>) {
        let mut leases = Vec::new();
        // A folder that cannot be read is an error in a moment.
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| is_zone_file_name(&entry.file_name().to_string_lossy())) {
            match ReadLease::ask(&entry.path()) {
                Ok(Asked::Held(lease)) => leases.push(lease),
                Ok(Asked::BeingWritten) => return (leases, Some(entry.path())),
                Ok(Asked::Unsupported) | Err(_) => {}
            }
        }
        (leases, None)
    }

    fn read_and_load(&mut self) -> Result<Loaded, Refusal> {
        let sources = self.read()?;
        if self.good.as_ref() == Some(&sources) {
            return Ok(Loaded::Same);
        }
        let loaded = self.loader.load(&sources).map_err(|diagnostics| Refusal::from(&diagnostics))?;
        for warning in &loaded.warnings {
            tracing::warn!(diagnostic = %warning, "policy warning");
        }
        self.good = Some(sources);
        Ok(Loaded::New(Arc::new(loaded.model)))
    }
}

impl Policies for PolicyFolder {
    fn load(&mut self) -> Result<Loaded, Refusal> {
        let mut result = self.read_and_load();
        if let Err(refusal) = &mut result {
            refusal.known = self.bad.as_ref().is_some_and(|bad| bad.text == refusal.text);
        }
        self.bad = result.as_ref().err().cloned();
        result
    }
}

fn empty_file(sources: &Sources) -> Option<PathBuf> {
    let empty = sources.files().iter().find(|file| file.text().is_empty());
    empty.map(|file| file.path().to_owned())
}

impl From<&Diagnostics> for Refusal {
    fn from(diagnostics: &Diagnostics) -> Self {
        let lines = diagnostics.iter().map(ToString::to_string).collect();
        Self { text: diagnostics.render(false), lines, known: false }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const GOOD: &str = "[zone.web]\ncidrs = [\"10.0.0.0/8\"]\n";
    const BAD: &str = "[zone.web]\ncidrs = [\"10.0.0.0/8\"]\n[[allow]]\nfrom = \"wbe\"\nto = \"web\"\n";

    #[test]
    fn the_same_files_are_loaded_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("web.toml");
        let mut folder = PolicyFolder::new(dir.path());
        fs::write(&file, GOOD).unwrap();
        assert!(matches!(folder.load(), Ok(Loaded::New(_))));
        assert!(matches!(folder.load(), Ok(Loaded::Same)));
        fs::write(&file, GOOD.replace("web", "api")).unwrap();
        assert!(matches!(folder.load(), Ok(Loaded::New(_))));
    }

    #[test]
    fn a_bad_file_is_told_once_and_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("web.toml");
        let mut folder = PolicyFolder::new(dir.path());
        fs::write(&file, GOOD).unwrap();
        folder.load().unwrap();
        fs::write(&file, BAD).unwrap();
        let first = folder.load().unwrap_err();
        assert!(!first.known);
        assert!(first.text.contains("did you mean"), "{}", first.text);
        assert!(first.lines.iter().any(|line| line.contains("web.toml:4:")), "{:?}", first.lines);
        assert!(folder.load().unwrap_err().known);
        fs::write(&file, GOOD).unwrap();
        assert!(matches!(folder.load(), Ok(Loaded::Same)), "put back as it was");
        fs::write(&file, BAD).unwrap();
        assert!(!folder.load().unwrap_err().known, "it was good in between");
    }

    #[test]
    fn a_folder_that_is_gone_or_empty_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(PolicyFolder::new(dir.path()).load().is_err());
        assert!(PolicyFolder::new(&dir.path().join("none")).load().is_err());
    }

    #[test]
    fn an_empty_file_is_no_policy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("web.toml");
        let mut folder = PolicyFolder::new(dir.path());
        fs::write(&file, GOOD).unwrap();
        folder.load().unwrap();
        fs::write(&file, "").unwrap();
        let refusal = folder.load().unwrap_err();
        assert!(refusal.text.contains("web.toml is empty"), "{}", refusal.text);
        fs::write(&file, GOOD.replace("web", "api")).unwrap();
        assert!(matches!(folder.load(), Ok(Loaded::New(_))));
    }

    #[test]
    fn a_swapped_folder_is_another_policy() {
        let dir = tempfile::tempdir().unwrap();
        for (version, text) in [("..1", GOOD.to_owned()), ("..2", GOOD.replace("10.", "11."))] {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("web.toml"), text).unwrap();
        }
        symlink("..1", dir.path().join("..data")).unwrap();
        symlink("..data/web.toml", dir.path().join("web.toml")).unwrap();
        let mut folder = PolicyFolder::new(dir.path());
        assert!(matches!(folder.load(), Ok(Loaded::New(_))));
        symlink("..2", dir.path().join("..tmp")).unwrap();
        fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
        assert!(matches!(folder.load(), Ok(Loaded::New(_))));
    }
}
