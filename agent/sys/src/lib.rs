//! What the agent needs of Linux and no library offers, behind safe functions.
//!
//! Apart from the kernel programs this is the one crate that may say `unsafe`. Every function is
//! synchronous and may block; none keeps a thread, a descriptor or a namespace beyond its return, save
//! the handles it hands out. A failure carries the name of the system call. Nothing here decides
//! anything: a caller that cannot see (a dump that failed, a lock that is held) gets an error, never an
//! empty answer.
//!
//! Linux 5.14 or newer is expected throughout; where one part needs more or can do with less, it says
//! so. Only 64-bit targets: there an inode number holds a whole cgroup id.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("an inode number must hold a whole cgroup id: build for a 64-bit target");

mod bpf;
pub mod cgroup;
pub mod clock;
mod error;
pub mod lease;
pub mod link;
pub mod lock;
pub mod map;
pub mod memory;
pub mod mount;
mod netlink;
pub mod netns;
#[cfg(any(test, feature = "testing"))]
pub mod packet;
pub mod pin;
pub mod program;
pub mod rcu;
pub mod seccomp;
pub mod sock_diag;
pub mod stream;
pub mod tc;
#[cfg(test)]
mod testing;
#[cfg(any(test, feature = "testing"))]
pub mod tun;
pub mod turned;
pub mod unix;

pub use error::{Error, Result};
