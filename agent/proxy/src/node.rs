//! What the proxy asks of the node that it runs on: who connected, who may, and sockets that it could not
//! make itself.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use bulkhead_credentials::SpiffeId;
use tokio::sync::watch;

/// A network namespace that the proxy listens in, by its cookie (`SO_NETNS_COOKIE`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place(pub u64);

/// The zones at both ends, and the rule that joins them: for metrics, records and messages.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Edge {
    /// The client's zones, joined by `+`; `world` where it is in none.
    pub from: String,
    /// The server's.
    pub to: String,
    /// Name and place of the rule, such as `policies/shop.toml:31`.
    pub rule: String,
}

/// What the node counts a flow as; opaque to the proxy, which hands it back with requests for sockets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Mark(pub [u32; 3]);

/// A connection of a program on this node that may go out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outbound {
    /// Where the program wanted to go.
    pub destination: SocketAddr,
    /// The name that the proxy shows for it.
    pub own: SpiffeId,
    /// Names of which the other side must show one; empty: nobody may answer, so refuse.
    pub expected: Vec<SpiffeId>,
    /// For the books.
    pub edge: Edge,
    /// How long a connection may outlive the certificates that it was made with; `None`: as it likes.
    pub max_age: Option<Duration>,
    /// For the tunnel's socket.
    pub mark: Mark,
}

/// A connection from elsewhere that may come in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inbound {
    /// For the books.
    pub edge: Edge,
    /// See [`Outbound::max_age`].
    pub max_age: Option<Duration>,
    /// For the last hop's socket.
    pub mark: Mark,
    /// Why it would be refused, were this not a dry run.
    pub audited: Option<Denied>,
}

/// Why something may not be. The text names the cause and the next step, such as `peer presented
/// spiffe://… which is in no zone that may reach db:5432; rule policies/shop.toml:31 allows api only`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Denied {
    /// A word of a closed set: a metric label.
    pub reason: &'static str,
    /// The whole story, for one line of a log.
    pub text: String,
    /// As far as it is known.
    pub edge: Option<Edge>,
}

/// What the proxy asks. Answers may take a round trip to another process; they should be remembered by
/// whoever implements this, until [`Node::changes`] moves.
///
/// `since` is when the connection began for whose sake is asked, at the client's node where that is known.
/// Whoever has to wait for an answer counts from there: what one connection waits for in turn has one end.
pub trait Node: Send + Sync + 'static {
    /// Who `client` is, which came to the capture listener of `place`, where it wanted to go, and whether
    /// it may. A client that the kernel did not turn in is refused.
    fn outbound(
        &self,
        place: Place,
        client: SocketAddr,
        since: Instant,
    ) -> impl Future<Output = Result<Outbound, Denied>> + Send;

    /// Whether `peer`, speaking for a client at address `from`, may reach `destination` in `place`.
    fn inbound(
        &self,
        place: Place,
        peer: &SpiffeId,
        from: IpAddr,
        destination: SocketAddr,
        since: Instant,
    ) -> impl Future<Output = Result<Inbound, Denied>> + Send;

    /// The name that whoever owns `address` in `place` shows to those who dial it; `None`: nobody's.
    fn name_of(
        &self,
        place: Place,
        address: IpAddr,
        since: Instant,
    ) -> impl Future<Output = Result<Option<SpiffeId>, Denied>> + Send;

    /// A TCP socket in `place` of the client's family, bound to `from`, not yet connected, that the kernel
    /// lets connect to port 15008 and nowhere else.
    fn tunnel_socket(
        &self,
        place: Place,
        from: IpAddr,
        mark: Mark,
        since: Instant,
    ) -> impl Future<Output = io::Result<OwnedFd>> + Send;

    /// A transparent TCP socket in `place`, for `from`'s family, unbound and not yet connected: the caller
    /// binds it to the client's address. The kernel lets it connect to the namespace's own addresses only.
    fn last_hop_socket(
        &self,
        place: Place,
        from: IpAddr,
        mark: Mark,
        since: Instant,
    ) -> impl Future<Output = io::Result<OwnedFd>> + Send;

    /// Bytes of memory that this process has resident; 0 where that cannot be told.
    fn resident(&self) -> u64 {
        0
    }

    /// Moves when rights or memberships may have changed: then every live connection is asked about again.
    fn changes(&self) -> watch::Receiver<u64>;
}
