//! Files that nobody writes to while they are read: read leases (fcntl(2), F_SETLEASE).
//!
//! The kernel refuses a read lease on a file that somebody has open for writing, and holds back who
//! would open it so until the lease is given up. Whoever breaks a lease makes the kernel signal its
//! holder: by SIGURG here, which does nothing unless somebody asked for it, for the usual SIGIO ends
//! the process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::{Error, Result};

/// Number of the command, which is not in every libc.
const F_SETSIG: libc::c_int = 10;

/// A file that nobody writes to until this is dropped. Keep it for as long as a read takes: writers
/// wait, at most for `/proc/sys/fs/lease-break-time` seconds.
#[derive(Debug)]
pub struct ReadLease(File);

/// What came of the wish for a lease.
#[derive(Debug)]
pub enum Asked {
    /// It is held.
    Held(ReadLease),
    /// Somebody has the file open for writing.
    BeingWritten,
    /// This file, or its file system, has no leases.
    Unsupported,
}

impl ReadLease {
    /// Asks for a lease on the file at `path`, symbolic links followed. Needs to own the file, or
    /// CAP_LEASE.
    ///
    /// Errors: any of open.
    pub fn ask(path: &Path) -> Result<Asked> {
        let file = File::open(path).map_err(Error::path("open", path))?;
        if fcntl(&file, F_SETSIG, libc::SIGURG).is_err() {
            return Ok(Asked::Unsupported);
        }
        Ok(match fcntl(&file, libc::F_SETLEASE, libc::F_RDLCK) {
            Ok(()) => Asked::Held(Self(file)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Asked::BeingWritten,
            Err(_) => Asked::Unsupported,
        })
    }
}

impl Drop for ReadLease {
    fn drop(&mut self) {
        // Closing the file gives it up, too.
        let _ = fcntl(&self.0, libc::F_SETLEASE, libc::F_UNLCK);
    }
}

fn fcntl(file: &File, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open, and both commands take an integer.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_file_that_is_being_written_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let writer = File::create(&path).unwrap();
        if !matches!(ReadLease::ask(&path).unwrap(), Asked::BeingWritten) {
            eprintln!("SKIPPED: this file system has no leases");
            return;
        }
        drop(writer);
        assert!(matches!(ReadLease::ask(&path).unwrap(), Asked::Held(_)));
        let reader = File::open(&path).unwrap();
        assert!(matches!(ReadLease::ask(&path).unwrap(), Asked::Held(_)));
        drop(reader);
        assert!(ReadLease::ask(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_writer_waits_and_the_holder_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "old").unwrap();
        let Asked::Held(lease) = ReadLease::ask(&path).unwrap() else {
            eprintln!("SKIPPED: this file system has no leases");
            return;
        };
        let started = Instant::now();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| fs::write(&path, "new"));
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(fs::read(&path).unwrap(), b"old");
            drop(lease);
            writer.join().unwrap().unwrap();
        });
        assert!(started.elapsed() < Duration::from_secs(10));
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
