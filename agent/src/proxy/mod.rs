//! The node's proxy, in three processes. The agent ([`parent`]) knows the policy and the namespaces, and
//! makes sockets; the proxy ([`child`]) reads strangers' bytes without any privilege; between them a
//! [`keeper`] starts the proxy again when it dies. [`wire`] is what agent and proxy say to one another.
//!
//! Which way it fails: without a proxy the kernel refuses what a rule with `tls = "mutual"` would turn to
//! it; nothing ever goes out in clear instead. Without an agent the proxy goes on with what it knows.

pub mod channel;
pub mod child;
pub mod keeper;
pub mod metrics;
pub mod parent;
pub mod places;
pub mod start;
pub mod view;
pub mod wire;
