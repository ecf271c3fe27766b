//! Names and certificates of workloads: SPIFFE names, the built-in authority, and the sources that
//! certificates come from. It knows neither policy files nor the kernel.
#![forbid(unsafe_code)]

mod name;

pub use name::{NameError, SpiffeId};
