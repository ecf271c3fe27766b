//! How other commands talk to the running agent: a UNIX socket that only root may open, one JSON
//! request a connection, JSON lines in answer, the last of which says that it is the last.

pub mod client;
pub mod protocol;
pub mod server;

pub use client::{Client, ClientError};
pub use protocol::{Reply, Request};
