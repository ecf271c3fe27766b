//! What can go wrong: one variant per cause that a caller can act on.

use std::io;
use std::path::{Path, PathBuf};

use bulkhead_abi::Protocol;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{call} failed: {source}")]
    Call {
        /// The system call, with its command where it has many.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A system call on a file failed.
    #[error("{call} {} failed: {source}", path.display())]
    Path {
        /// The system call.
        call: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No cgroup2 hierarchy is mounted.
    #[error("no cgroup2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup")]
    NoCgroup2,
    /// Another file system stands where one was to be mounted.
    #[error("{} carries a file system of type {found}; unmount it, or mount {wanted} there", path.display())]
    Occupied {
        /// The mount point.
        path: PathBuf,
        /// The type that stands there.
        found: String,
        /// The type that was asked for.
        wanted: String,
    },
    /// The kernel's answer does not have the form that its interface promises.
    #[error("{what} from the kernel is cut short or malformed; report it with the kernel's version")]
    Malformed {
        /// What was being read.
        what: &'static str,
    },
    /// A dump was disturbed by changes, again and again.
    #[error("{call} was disturbed by changes {times} times in a row; try again when less is going on")]
    Disturbed {
        /// The dump.
        call: &'static str,
        /// How often it was tried.
        times: u32,
    },
    /// The kernel cannot list or end sockets of this protocol.
    #[error("the kernel has no sock_diag for protocol {}; load its module (tcp_diag, udp_diag)", protocol.0)]
    NoDiagnostics {
        /// The protocol.
        protocol: Protocol,
    },
    /// A buffer does not have the length that the map's shape asks for.
    #[error("{what} of map {map} is {found} bytes long and should be {wanted}; rebuild with matching types")]
    Length {
        /// Key, value, keys or values.
        what: &'static str,
        /// The map's id.
        map: u32,
        /// The length that was given.
        found: usize,
        /// The length that the map asks for.
        wanted: usize,
    },
    /// A map cannot be mapped into memory as 64-bit words.
    #[error("map {map} cannot be mapped into memory; create it as an array with BPF_F_MMAPABLE")]
    NotMappable {
        /// The map's id.
        map: u32,
    },
    /// The map has as many entries as it can hold.
    #[error("map {map} is full at {capacity} entries; raise its capacity or make the policy smaller")]
    Full {
        /// The map's id.
        map: u32,
        /// Its capacity.
        capacity: u32,
    },
    /// Somebody else holds the lock.
    #[error("{} is held by process {} ({message}); stop that one first", path.display(), Pid(*pid))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, where it said so.
        pid: Option<u32>,
        /// What it says about itself.
        message: String,
    },
    /// Something that is no socket, or a socket that somebody listens on, stands at the path.
    #[error("{} is in use; stop whoever listens there, or name another path", path.display())]
    PathInUse {
        /// The path.
        path: PathBuf,
    },
    /// The other end of a UNIX socket runs as a user that may not use it.
    #[error(
        "process {pid} runs as user {uid}, and only user {wanted} may use this socket; run it as that user"
    )]
    Stranger {
        /// The other end's process.
        pid: i32,
        /// Its user.
        uid: u32,
        /// The user that may.
        wanted: u32,
    },
}

impl Error {
    /// The error number of the failed system call, if one failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Call { source, .. } | Self::Path { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    pub(crate) fn last(call: &'static str) -> Self {
        Self::Call { call, source: io::Error::last_os_error() }
    }

    pub(crate) fn call(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Call { call, source }
    }

    pub(crate) fn from_errno(call: &'static str, errno: i32) -> Self {
        Self::Call { call, source: io::Error::from_raw_os_error(errno) }
    }

    pub(crate) fn path(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Path { call, path: path.to_owned(), source }
    }
}

/// The number of a process that may be unknown.
struct Pid(Option<u32>);

impl std::fmt::Display for Pid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "{pid}"),
            None => f.write_str("unknown"),
        }
    }
}
