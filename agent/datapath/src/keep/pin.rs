//! Pins, and the file system that they are in.

use std::{
    fs,
    io::ErrorKind,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use super::{Condition, Harm, How, Object, Watched, map_id};
use crate::DatapathError;

/// A place in a BPF file system where one object must be pinned.
///
/// A file there leads to the same object for as long as it exists, so that a look at the file's number
/// says enough, until that changes.
#[derive(Debug)]
pub struct Pin {
    path: PathBuf,
    /// Device and number of the file that was last found to be right.
    known: Option<(u64, u64)>,
}

impl Pin {
    /// The pin at `path`, which was not looked at yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, known: None }
    }

    /// Whether the object with the number `id` is pinned there; `id_of` tells an object's number.
    pub fn check(
        &mut self,
        id: u32,
        id_of: impl FnOnce(BorrowedFd<'_>) -> Result<u32, DatapathError>,
    ) -> Result<Option<How>, DatapathError> {
        let file = match fs::symlink_metadata(&self.path) {
            Ok(metadata) => (metadata.dev(), metadata.ino()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(How::Missing)),
            Err(error) => return Err(DatapathError::io("look at", &self.path)(error)),
        };
        if self.known == Some(file) {
            return Ok(None);
        }
        let found = bulkhead_sys::pin::open(&self.path).map_err(DatapathError::from);
        match found.and_then(|object| id_of(object.as_fd())) {
            Ok(found) if found == id => {
                self.known = Some(file);
                Ok(None)
            }
            _ => Ok(Some(How::Replaced)),
        }
    }

    /// Pins `object` there, in the place of whatever stands there.
    pub fn put(&mut self, object: BorrowedFd<'_>) -> Result<(), DatapathError> {
        self.known = None;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(DatapathError::io("remove", &self.path)(error));
            }
            _ => {}
        }
        if let Some(folder) = self.path.parent() {
            make_folder(folder)?;
        }
        Ok(bulkhead_sys::pin::make(object, &self.path)?)
    }
}

/// Makes a folder for pins, for its owner alone; one that is there stays as it is.
pub(crate) fn make_folder(folder: &Path) -> Result<(), DatapathError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).map_err(DatapathError::io("create", folder))
}

/// A map, where it is pinned.
pub(super) struct MapPin {
    name: &'static str,
    map: OwnedFd,
    id: u32,
    pin: Pin,
}

impl MapPin {
    pub(super) fn open(name: &'static str, maps: &Path) -> Result<Self, DatapathError> {
        let path = maps.join(name);
        let map = bulkhead_sys::pin::open(&path)?;
        Ok(Self { name, id: map_id(map.as_fd())?, map, pin: Pin::new(path) })
    }
}

impl Watched for MapPin {
    fn name(&self) -> &str {
        self.name
    }

    fn check(&mut self) -> Result<Condition, DatapathError> {
        let how = self.pin.check(self.id, map_id)?;
        Ok(how.map_or(Condition::Intact, |how| Condition::Harmed(Harm { object: Object::MapPin, how })))
    }

    fn restore(&mut self, _harm: Harm) -> Result<(), DatapathError> {
        self.pin.put(self.map.as_fd())
    }
}

/// The BPF file system.
pub(super) struct BpfFs {
    target: PathBuf,
    name: String,
}

impl BpfFs {
    /// The one that `pins` is on.
    pub(super) fn of(pins: &Path) -> Result<Option<Self>, DatapathError> {
        let target = bulkhead_sys::mount::bpffs_of(pins)?;
        Ok(target.map(|target| Self { name: target.display().to_string(), target }))
    }
}

impl Watched for BpfFs {
    fn name(&self) -> &str {
        &self.name
    }

    fn check(&mut self) -> Result<Condition, DatapathError> {
        if bulkhead_sys::mount::is_bpffs(&self.target)? {
            return Ok(Condition::Intact);
        }
        // Of what stands in its place, only another mount is in the way.
        Ok(Condition::Harmed(Harm { object: Object::BpfFs, how: How::Missing }))
    }

    fn restore(&mut self, _harm: Harm) -> Result<(), DatapathError> {
        bulkhead_sys::mount::ensure("bpf", &self.target)?;
        Ok(())
    }
}
