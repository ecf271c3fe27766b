//! One agent per node: an advisory lock on a file that also says who holds it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A held lock. It is given up when this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock (flock(2), any kernel) on `path`, which is made with mode 0600 when missing, and
    /// writes this process's number and `message`, one line, into it for whoever comes second.
    ///
    /// Errors: [`Error::Locked`] with the holder's own words; any of open, flock, write. The file is
    /// never removed, since a lock on a removed file excludes nobody.
    pub fn acquire(path: &Path, message: &str) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(Error::path("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(holder(path, &mut file)),
            Err(TryLockError::Error(source)) => return Err(Error::path("flock", path)(source)),
        }
        let line = format!("{} {}\n", std::process::id(), message.lines().next().unwrap_or_default());
        file.set_len(0).map_err(Error::path("ftruncate", path))?;
        file.write_all(line.as_bytes()).map_err(Error::path("write", path))?;
        Ok(Self { path: path.to_owned(), _file: file })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The error for one who came second. A holder that has not yet written leaves both fields empty.
fn holder(path: &Path, file: &mut File) -> Error {
    let mut text = String::new();
    let mut bounded = file.take(1024);
    if bounded.read_to_string(&mut text).is_err() {
        text.clear();
    }
    let (pid, message) = text.trim_end().split_once(' ').unwrap_or((text.trim_end(), ""));
    Error::Locked { path: path.to_owned(), pid: pid.parse().ok(), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_second_comer_learns_who_came_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::fs::write(&path, "1 an older and much longer line that must not shine through\n").unwrap();
        let first = Lock::acquire(&path, "serving /a").unwrap();
        let Err(Error::Locked { pid, message, .. }) = Lock::acquire(&path, "late") else {
            panic!("taken twice");
        };
        assert_eq!((pid, message.as_str()), (Some(std::process::id()), "serving /a"));
        assert_eq!(first.path(), path);
        drop(first);
        Lock::acquire(&path, "late").unwrap();
    }

    #[test]
    fn a_link_in_the_place_of_the_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert_eq!(Lock::acquire(&path, "").unwrap_err().errno(), Some(libc::ELOOP));
        assert!(!dir.path().join("elsewhere").exists());
    }
}
