//! Tells when the policy folder may have changed.
//!
//! Only a hint, never the truth: whoever is woken reads the folder again and compares, and the daemon
//! also reads it once a minute without being woken. So it may wake too often, and it fails towards
//! that.
//!
//! A save is seen when it is complete (the writer closed the file, or a rename put it in place), so
//! that a file in the making is not read; what makes no such event is read a second later. The folder
//! itself may be renamed, deleted, swapped behind a symbolic link and made again.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bulkhead_policy::source::is_zone_file_name;
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use tokio::io::unix::AsyncFd;
use tokio::time::{Duration, Instant, sleep_until};

/// Quiet that ends a burst of changes.
const QUIET: Duration = Duration::from_millis(5);
/// Longest time that a burst can put off the wake-up.
const LIMIT: Duration = Duration::from_millis(50);
/// How long a new file may be written to before it is read without having been closed.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is checked that the watched folder still is the one at the path.
const REARM: Duration = Duration::from_millis(250);

/// Watches one folder.
#[derive(Debug)]
pub struct FolderWatch {
    inotify: AsyncFd<Inotify>,
    folder: Watched,
    parent: Option<Watched>,
    pending: Option<Pending>,
    next_rearm: Instant,
    buffer: Vec<u8>,
}

/// A directory that should be watched, and what is watched at present.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    mask: WatchMask,
    now: Option<(Identity, WatchDescriptor)>,
}

type Identity = (u64, u64);

/// A burst of changes that nobody was woken for yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Pending {
    first: Instant,
    due: Instant,
    /// Only files in the making so far.
    patient: bool,
}

impl Pending {
    /// What is pending after one more change, a complete one or that of a file in the making.
    fn after(pending: Option<Self>, now: Instant, complete: bool) -> Self {
        match pending {
            Some(pending) if !complete => pending,
            Some(Self { first, patient: false, .. }) => {
                Self { first, due: (now + QUIET).min(first + LIMIT), patient: false }
            }
            _ if complete => Self { first: now, due: now + QUIET, patient: false },
            _ => Self { first: now, due: now + PATIENCE, patient: true },
        }
    }
}

impl FolderWatch {
    /// Watches `folder`, which need not exist. Must be called inside a tokio runtime.
    pub fn new(folder: &Path) -> io::Result<Self> {
        let names = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::ONLYDIR;
        let files = names | WatchMask::CLOSE_WRITE | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF;
        let folder = std::path::absolute(folder)?;
        let parent = folder.parent().map(|path| Watched { path: path.to_owned(), mask: names, now: None });
        let mut watch = Self {
            inotify: crate::readiness::watch(Inotify::init()?)?,
            folder: Watched { path: folder, mask: files, now: None },
            parent,
            pending: None,
            next_rearm: Instant::now() + REARM,
            buffer: vec![0; 16 * 1024],
        };
        watch.rearm();
        watch.pending = None;
        Ok(watch)
    }

    /// Waits until the folder may have changed and is quiet again. Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        loop {
            let due = self.pending.map(|pending| pending.due);
            tokio::select! {
                biased;
                () = sleep_until(due.unwrap_or(self.next_rearm)), if due.is_some() => {
                    self.pending = None;
                    return;
                }
                () = sleep_until(self.next_rearm) => {
                    self.rearm();
                    self.next_rearm = Instant::now() + REARM;
                }
                ready = self.inotify.readable_mut() => match ready {
                    Ok(mut guard) => {
                        let mut seen = Vec::new();
                        let read = guard.try_io(|inotify| {
                            for event in inotify.get_mut().read_events(&mut self.buffer)? {
                                seen.push((event.wd.clone(), event.mask, event.name.map(OsStr::to_owned)));
                            }
                            Ok(())
                        });
                        drop(guard);
                        if let Ok(Err(error)) = read {
                            tracing::debug!(%error, "reading the folder's changes failed");
                            self.note(true);
                        }
                        for (descriptor, mask, name) in seen {
                            self.judge(&descriptor, mask, name.as_deref());
                        }
                    }
                    // Cannot be told apart from "nothing happened": the rescan remains.
                    Err(_) => tokio::time::sleep(REARM).await,
                }
            }
        }
    }

    fn judge(&mut self, descriptor: &WatchDescriptor, mask: EventMask, name: Option<&OsStr>) {
        if mask.contains(EventMask::Q_OVERFLOW) {
            return self.note(true);
        }
        if self.parent.as_ref().is_some_and(|parent| parent.is(descriptor)) {
            if name == self.folder.path.file_name() {
                self.rearm();
            }
            return;
        }
        if !self.folder.is(descriptor) {
            return;
        }
        if mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED) {
            self.rearm();
            return;
        }
        let Some(name) = name.filter(|name| may_matter(name)) else { return };
        let fresh = mask.contains(EventMask::CREATE)
            && self
                .folder
                .path
                .join(name)
                .symlink_metadata()
                .is_ok_and(|file| file.is_file() && file.nlink() == 1);
        self.note(!fresh);
    }

    fn note(&mut self, complete: bool) {
        self.pending = Some(Pending::after(self.pending, Instant::now(), complete));
    }

    /// Watches what is at the paths now, and notes whether that is something else than before.
    fn rearm(&mut self) {
        let watches = self.inotify.get_ref().watches();
        if let Some(parent) = &mut self.parent {
            parent.follow(watches.clone());
        }
        if self.folder.follow(watches) {
            self.note(true);
        }
    }
}

impl Watched {
    fn is(&self, descriptor: &WatchDescriptor) -> bool {
        self.now.as_ref().is_some_and(|(_, current)| current == descriptor)
    }

    /// Whether the directory is another than before.
    fn follow(&mut self, mut watches: inotify::Watches) -> bool {
        let there = std::fs::metadata(&self.path).ok().map(|meta| (meta.dev(), meta.ino()));
        if there == self.now.as_ref().map(|(identity, _)| *identity) {
            return false;
        }
        if let Some((_, old)) = self.now.take() {
            // The kernel has removed it already if the directory is gone.
            let _ = watches.remove(old);
        }
        if let Some(identity) = there
            && let Ok(descriptor) = watches.add(&self.path, self.mask)
        {
            self.now = Some((identity, descriptor));
        }
        true
    }
}

/// Zone files, and the `..data` link through which Kubernetes swaps a whole folder at once.
fn may_matter(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    is_zone_file_name(&name) || name.starts_with("..")
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
