//! The proxy: turned-in connections go out as HBONE (HTTP/2 CONNECT over mutual TLS), and HBONE that comes
//! in goes to the program that it is for. It asks its [`Node`] who is who and who may, and knows neither
//! the kernel's maps nor policy files.
//!
//! Read [`outbound`](outbound) and [`inbound`](inbound) first: each is one connection's way. Both ask before
//! they do anything, and go on asking while the connection lives ([`watch`](watch)).
//!
//! Which way it fails: whatever cannot be dialled, verified or allowed ends in a reset of the program's
//! connection and a [`Record`] that says why; nothing is ever sent in clear instead.
#![forbid(unsafe_code)]

mod books;
mod end;
mod gate;
mod inbound;
mod keepalive;
mod node;
mod outbound;
mod pool;
mod proxy;
mod relay;
mod settings;
mod socket;
mod tunnel;
mod waited;
mod watch;
mod wire;

pub use books::{Books, Direction, EdgeStats, Record, Stats};
pub use end::Outcome;
pub use gate::Limits;
pub use node::{Denied, Edge, Inbound, Mark, Node, Outbound, Place};
pub use proxy::{Kind, Proxy, runtime};
pub use settings::Settings;

/// Port of tunnels (HBONE).
pub const TUNNEL_PORT: u16 = 15008;
/// Ports that are the proxies' own: nobody is taken there.
const FORBIDDEN: [u16; 3] = [15001, 15006, TUNNEL_PORT];
