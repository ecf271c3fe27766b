//! Waiting for a descriptor in tokio.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::unix::AsyncFd;

/// `inner` with a way to wait until it is readable. Must be called inside a tokio runtime.
///
/// tokio's safe constructor is deprecated because [`AsRawFd`] promises nothing about the descriptor's
/// life. What is given here (inotify, the event ring) owns its descriptor as long as it lives.
#[allow(deprecated)]
pub fn watch<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(inner)
}
