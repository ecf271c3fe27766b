//! The daemon.

pub mod labels;
pub mod reconcile;
pub mod snapshot;
pub mod state;
pub mod sweep;
