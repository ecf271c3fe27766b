//! What can go wrong between the agent and the kernel.

use std::{io, path::PathBuf};

/// A failure of the datapath. What was enforced before goes on being enforced.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// This binary carries no kernel programs.
    #[error(
        "this binary was built without kernel programs: build with `cargo xtask build`, or name an object with --object"
    )]
    NoObject,
    /// The object could not be read.
    #[error("cannot read the kernel object {}: {error}", path.display())]
    Object {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The kernel refused the object.
    #[error("the kernel refused the programs: {0}")]
    Load(#[from] aya::EbpfError),
    /// The kernel refused one program.
    #[error("the kernel refused the program {name}: {error}")]
    Program {
        /// Its name.
        name: &'static str,
        /// The verifier's or the hook's words.
        error: aya::programs::ProgramError,
    },
    /// A program or map that must be in the object is not.
    #[error("the kernel object has no {0}: it belongs to another version, build both together")]
    Missing(&'static str),
    /// A link could not be made or read.
    #[error("cannot handle the link of {name}: {error}")]
    Link {
        /// The program.
        name: &'static str,
        /// Why.
        error: aya::programs::links::LinkError,
    },
    /// A pin could not be made.
    #[error("cannot pin {name}: {error}; is a BPF file system mounted there?")]
    Pin {
        /// What.
        name: &'static str,
        /// Why.
        error: aya::pin::PinError,
    },
    /// A map is not what this version expects.
    #[error(
        "the pinned map {name} has keys of {key} and values of {value} bytes, where this version needs {wanted_key} and {wanted_value}: run `bulkhead detach` and start again"
    )]
    Shape {
        /// Which.
        name: &'static str,
        /// As found.
        key: usize,
        /// As found.
        value: usize,
        /// As needed.
        wanted_key: usize,
        /// As needed.
        wanted_value: usize,
    },
    /// A change does not fit; nothing of it was made live.
    #[error(
        "the policy needs {needed} entries of {name}, and there is room for {capacity}: use fewer or broader prefixes, zones or rules"
    )]
    Full {
        /// Which table.
        name: &'static str,
        /// As needed, with the old policy's entries that must stay until the new one is live.
        needed: usize,
        /// As there is.
        capacity: usize,
    },
    /// A system call failed.
    #[error(transparent)]
    Sys(#[from] bulkhead_sys::Error),
    /// A file operation failed.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// The event ring could not be opened.
    #[error("cannot read the event ring: {0}")]
    Ring(#[from] aya::maps::MapError),
}

impl DatapathError {
    /// For `map_err`, naming the action and the path.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { action, path, error }
    }
}
