//! Waiting for a descriptor in tokio.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::unix::AsyncFd;

/// `inner` with a way to wait until it is readable. Must be called inside a tokio runtime.
///
/// tokio's own safe constructor is deprecated because `AsRawFd` alone promises nothing about the
/// descriptor's life; [`AsFd`], which is asked for here, does.
#[allow(deprecated)]
pub fn watch<T: AsFd + AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(inner)
}
