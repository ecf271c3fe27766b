//! The daemon: brings the kernel half up, then keeps it true to the policy folder.
//!
//! Three threads: the reconciler, which alone writes policy to the kernel; the event loop, which works
//! on sockets; and the admin, which answers. Stopping the daemon stops none of the enforcement.

pub mod admin;
mod drift;
pub mod folder;
pub mod labels;
mod life;
pub mod reconcile;
pub mod snapshot;
mod socket_flows;
mod start;
pub mod state;
pub mod sweep;
mod views;
pub mod watch_events;

use std::io;

use crate::config::Config;
use crate::datapath::DatapathError;
use crate::instance::InstanceError;
use crate::privilege::PrivilegeError;

use state::StateError;

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// See [`PrivilegeError`].
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// See [`InstanceError`].
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// See [`bulkhead_sys::Error`].
    #[error(transparent)]
    System(#[from] bulkhead_sys::Error),
    /// See [`DatapathError`].
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// See [`StateError`].
    #[error(transparent)]
    State(#[from] StateError),
    /// A metric was defined wrongly.
    #[error("the metrics cannot be made: {0}; report this")]
    Metrics(#[from] prometheus::Error),
    /// The address for the metrics cannot be had.
    #[error("cannot serve metrics at {address}: {source}; choose another address with --metrics, or `off`")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The first policy is bad, and nothing was enforced before.
    #[error("{0}\nthe policy has errors, and nothing is enforced: correct it and start again")]
    Policy(String),
    /// A thread, a runtime or a watch cannot be made.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// Runs until it is told to stop; enforcement stays on.
pub fn run(config: Config) -> Result<(), RunError> {
    crate::privilege::check()?;
    crate::privilege::make_files_private();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::Io { what: "make a runtime", source })?;
    runtime.block_on(async {
        let daemon = start::start(config)?;
        daemon.live().await
    })
}
