//! Zone files as they lie in a folder: found, read, and nothing more.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files larger than this are refused: no policy is, and a mistake should not fill the memory.
const MAX_BYTES: u64 = 64 << 20;

/// A file of a policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    path: PathBuf,
    text: String,
    /// Where the first byte stands that is not UTF-8.
    invalid: Option<usize>,
    /// Where lines begin.
    lines: Vec<usize>,
}

impl Source {
    /// A file with this content.
    pub fn new(path: impl Into<PathBuf>, bytes: Vec<u8>) -> Self {
        let (text, invalid) = match String::from_utf8(bytes) {
            Ok(text) => (text, None),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                (String::from_utf8_lossy(error.as_bytes()).into_owned(), Some(valid))
            }
        };
        let lines = [0].into_iter().chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { path: path.into(), text, invalid, lines }
    }

    /// Its path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its path as text.
    pub fn name(&self) -> Cow<'_, str> {
        self.path.to_string_lossy()
    }

    /// Its content; what is not UTF-8 stands as U+FFFD.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where the first byte stands that is not UTF-8, if one is not.
    pub fn invalid(&self) -> Option<usize> {
        self.invalid
    }

    /// Line and column of a byte, both from 1; columns count characters.
    pub fn position(&self, byte: usize) -> (u32, u32) {
        let line = self.lines.partition_point(|start| *start <= byte);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = self.text.get(start..byte).map_or(0, |before| before.chars().count()) + 1;
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }
}

/// The files of a policy, sorted by path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sources {
    files: Vec<Arc<Source>>,
}

impl Sources {
    /// These files.
    pub fn new(files: impl IntoIterator<Item = Source>) -> Self {
        let mut files: Vec<Arc<Source>> = files.into_iter().map(Arc::new).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Self { files }
    }

    /// Every zone file of a folder: `*.toml`, also behind symbolic links (Kubernetes mounts them so),
    /// but no hidden files, editors' temporary files or `*.test.toml`. Folders in it are not entered.
    pub fn read_dir(folder: &Path) -> Result<Self, SourceError> {
        let files = zone_files(folder)?;
        if files.is_empty() {
            return Err(SourceError::Empty { path: folder.into() });
        }
        Self::read(files)
    }

    /// The files of all these paths: a file is read whatever its name, a folder as by
    /// [`Sources::read_dir`].
    pub fn from_paths<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Self, SourceError> {
        let mut files = Vec::new();
        for path in paths {
            let path = path.as_ref();
            let kind = std::fs::metadata(path).map_err(|error| SourceError::read(path, error))?;
            if !kind.is_dir() {
                files.push(path.to_path_buf());
                continue;
            }
            let found = zone_files(path)?;
            if found.is_empty() {
                return Err(SourceError::Empty { path: path.into() });
            }
            files.extend(found);
        }
        Self::read(files)
    }

    /// The files, sorted by path.
    pub fn files(&self) -> &[Arc<Source>] {
        &self.files
    }

    fn read(paths: Vec<PathBuf>) -> Result<Self, SourceError> {
        let sources: Result<Vec<Source>, SourceError> = paths.into_iter().map(read).collect();
        Ok(Self::new(sources?))
    }
}

/// Why files could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The system said no.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Nothing to load, which must not be mistaken for a policy that allows everything.
    #[error("no zone file in {}: put at least one `*.toml` there, or run `bulkhead detach` to take enforcement off", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// A file too large to be meant.
    #[error("{} has {bytes} bytes, more than a zone file may have ({MAX_BYTES}): split it", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
}

impl SourceError {
    fn read(path: &Path, error: io::Error) -> Self {
        Self::Read { path: path.into(), error }
    }
}

fn zone_files(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let refuse = |error| SourceError::read(folder, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        if !is_zone_file_name(&entry.file_name().to_string_lossy()) {
            continue;
        }
        // Follows links. What vanished since the listing is an error: half a policy is none.
        let path = entry.path();
        let kind = std::fs::metadata(&path).map_err(|error| SourceError::read(&path, error))?;
        if kind.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Whether a file of this name in the policy folder is a zone file: so is what ends in `.toml`, but
/// hidden files (`..data`, `.#x.toml`, `.x.toml.swp`), editors' temporary ones (`#x.toml#`, `x.toml~`)
/// and tests (`x.test.toml`) are not.
pub fn is_zone_file_name(name: &str) -> bool {
    !name.starts_with(['.', '#', '~']) && name.ends_with(".toml") && !name.ends_with(".test.toml")
}

fn read(path: PathBuf) -> Result<Source, SourceError> {
    let refuse = |error| SourceError::read(&path, error);
    let bytes = std::fs::metadata(&path).map_err(refuse)?.len();
    if bytes > MAX_BYTES {
        return Err(SourceError::TooLarge { path, bytes });
    }
    let content = std::fs::read(&path).map_err(refuse)?;
    Ok(Source::new(path, content))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let source = Source::new("x", "ab\nç=1\n".as_bytes().to_vec());
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position(3), (2, 1));
        assert_eq!(source.position(5), (2, 2));
        assert_eq!(source.position(99).0, 3);
    }

    #[test]
    fn a_folder_gives_its_zone_files_only() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["b.toml", "..data.toml", ".#b.toml", ".b.toml.swp", "b.toml~", "x.test.toml", "README"] {
            std::fs::write(at(name), "").unwrap();
        }
        std::fs::create_dir_all(at("dir.toml")).unwrap();
        std::fs::create_dir(at("..2026")).unwrap();
        std::fs::write(at("..2026/a.toml"), "x").unwrap();
        std::os::unix::fs::symlink("..2026", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/a.toml", at("a.toml")).unwrap();
        let sources = Sources::read_dir(folder.path()).unwrap();
        let names: Vec<_> = sources.files().iter().map(|file| file.path().to_path_buf()).collect();
        assert_eq!(names, [at("a.toml"), at("b.toml")]);
        assert_eq!(sources.files()[0].text(), "x");
        assert_eq!(Sources::from_paths([at("README"), at("")]).unwrap().files().len(), 3);
    }

    #[test]
    fn nothing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Sources::read_dir(folder.path()), Err(SourceError::Empty { .. })));
        let missing = folder.path().join("none");
        assert!(matches!(Sources::read_dir(&missing), Err(SourceError::Read { .. })));
        std::os::unix::fs::symlink("nowhere", folder.path().join("a.toml")).unwrap();
        assert!(matches!(Sources::read_dir(folder.path()), Err(SourceError::Read { .. })));
    }

    #[test]
    fn bytes_that_are_no_text_are_noted() {
        let source = Source::new("x", b"a = \"\xff\"".to_vec());
        assert_eq!(source.invalid(), Some(5));
        assert_eq!(Source::new("x", Vec::new()).invalid(), None);
    }
}
