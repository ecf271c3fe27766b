//! Names and certificates of workloads: SPIFFE names, the built-in authority, and the sources that
//! certificates come from. It knows neither policy files nor the kernel.
//!
//! Begin with [`Keeper`]: what is shown and what is believed. Sources feed it [`Credentials`] and a
//! [`Bundle`]; the proxy takes TLS configurations from it and asks it about peers.
#![forbid(unsafe_code)]

pub mod authority;
mod certificate;
mod files;
mod keeper;
mod material;
mod name;
mod reason;
mod revocation;
pub mod source;
mod tls;
mod trust;
mod verified;

pub use certificate::{Facts, Moment, Serial, SerialError};
pub use keeper::{CredentialsError, Keeper, Peer, Unavailable, Unfit};
pub use material::{
    Bundle, Credentials, Der, Key, PemError, certificates_from_pem, key_from_pem, lists_from_pem,
};
pub use name::{NameError, SpiffeId};
pub use reason::{HandshakeError, PeerError, Presented, Problem, Reason};
pub use trust::{BundleError, Trust, Usage};
