//! The agent: keeps the kernel true to the zone files, and tells what the kernel does.
//!
//! Composition, privilege, life cycle and command line. The arrows run one way: [`watch`] and
//! [`cgroups`] wake [`daemon`], which has the policy compiled and gives the image to the kernel
//! half; what the kernel tells goes to `events`, [`findings`] and [`metrics`]. [`tamper`] keeps in place what the
//! kernel holds. [`control`] answers other commands.
#![forbid(unsafe_code)]

pub mod cgroups;
pub mod classify;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod events;
pub mod explain;
pub mod findings;
pub mod guard;
pub mod instance;
pub mod inventory;
pub mod log;
pub mod metrics;
pub mod privilege;
pub mod proxy;
pub mod readiness;
pub mod sockets;
pub mod store;
pub mod systemd;
pub mod tamper;
pub mod watch;

pub use bulkhead_datapath as datapath;
