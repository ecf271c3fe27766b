//! One folder of files, read again when it has changed.
//!
//! Looked at and not subscribed to: what replaces such a folder is a rename, a symbolic link that is
//! swapped (`..data`), a new mount, a copy file by file, and of half of them no subscription tells. A look
//! is four `stat`s. A folder that is changing is left alone until two looks find the same.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::files::{CHAIN, KEY, LISTS, ROOTS};
use crate::material::{Der, Key, PemError, certificates_from_pem, key_from_pem, lists_from_pem};

/// What files look like from outside, without reading them.
pub(super) type Shape = [Option<(u64, u64, u64, i64, i64)>; 4];

/// So many looks at a folder that goes on changing, and it is read nevertheless.
const PATIENCE: u8 = 5;

/// A folder that is watched.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) dir: PathBuf,
    /// As it was read last.
    read: Option<Shape>,
    /// As it was seen last, and how often it has changed since it was read.
    seen: Option<(Shape, u8)>,
}

/// What a folder holds.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) chain: Vec<Der>,
    pub(super) key: Key,
    pub(super) roots: Vec<Der>,
    pub(super) lists: Vec<Der>,
}

impl Folder {
    pub(super) const fn new(dir: PathBuf) -> Self {
        Self { dir, read: None, seen: None }
    }

    /// Whether it has changed since it was read last, and is quiet. After a yes it counts as read.
    pub(super) fn is_due(&mut self) -> bool {
        let now = shape(&self.dir);
        if self.read == Some(now) {
            self.seen = None;
            return false;
        }
        // What is read for the first time has not been changing under our eyes.
        let (quiet, changes) = match self.seen {
            _ if self.read.is_none() => (true, 0),
            Some((seen, changes)) => (seen == now, changes.saturating_add(1)),
            None => (false, 0),
        };
        if quiet || changes >= PATIENCE {
            self.read = Some(now);
            self.seen = None;
            return true;
        }
        self.seen = Some((now, changes));
        false
    }
}

impl Files {
    /// Reads `dir`; all of it must be there, but for the revocation lists.
    pub(super) fn read(dir: &Path) -> Result<Self, String> {
        let said = |name: &str| {
            let path = dir.join(name);
            move |error: &dyn std::fmt::Display| format!("{}: {error}", path.display())
        };
        let load =
            |name: &str| fs::read(dir.join(name)).map(Zeroizing::new).map_err(|error| said(name)(&error));
        let pem = |name: &'static str| move |error: PemError| said(name)(&error);
        let chain = certificates_from_pem(&load(CHAIN)?).map_err(pem(CHAIN))?;
        let key = key_from_pem(&load(KEY)?).map_err(pem(KEY))?;
        let roots = certificates_from_pem(&load(ROOTS)?).map_err(pem(ROOTS))?;
        let lists = match fs::read(dir.join(LISTS)) {
            Ok(text) => lists_from_pem(&text).map_err(pem(LISTS))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(said(LISTS)(&error)),
        };
        Ok(Self { chain, key, roots, lists })
    }
}

fn shape(dir: &Path) -> Shape {
    [CHAIN, KEY, ROOTS, LISTS].map(|name| {
        let meta = fs::metadata(dir.join(name)).ok()?;
        // The time of the last change of the inode moves with every write, and cannot be set back.
        Some((meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
    })
}
