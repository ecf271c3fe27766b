//! How a peer is to connect.

use std::net::SocketAddr;
use std::time::Duration;

use super::peer::LIMIT;
use super::protocol::{Call, Kind};

/// How to connect.
#[derive(Clone, Debug)]
pub struct Dial {
    kind: Kind,
    to: SocketAddr,
    bind: Option<SocketAddr>,
    v6: bool,
    fast_open: Option<Vec<u8>>,
    timeout: Duration,
}

impl Dial {
    /// By TCP.
    #[must_use]
    pub fn tcp(to: SocketAddr) -> Dial {
        Dial::new(Kind::Tcp, to)
    }

    /// By UDP.
    #[must_use]
    pub fn udp(to: SocketAddr) -> Dial {
        Dial::new(Kind::Udp, to)
    }

    /// By any kind of socket.
    #[must_use]
    pub fn new(kind: Kind, to: SocketAddr) -> Dial {
        Dial { kind, to, bind: None, v6: false, fast_open: None, timeout: LIMIT }
    }

    /// Where to.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        self.to
    }

    /// From this address and port.
    #[must_use]
    pub fn from(self, bind: SocketAddr) -> Dial {
        Dial { bind: Some(bind), ..self }
    }

    /// By an AF_INET6 socket; an IPv4 address is then the mapped one (`::ffff:a.b.c.d`).
    #[must_use]
    pub fn v6_socket(self) -> Dial {
        Dial { v6: true, ..self }
    }

    /// With these bytes in the SYN (TCP Fast Open), where the kernel has a cookie for it.
    #[must_use]
    pub fn fast_open(self, data: &[u8]) -> Dial {
        Dial { fast_open: Some(data.to_vec()), ..self }
    }

    /// Gives up after this long, instead of 20 s.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Dial {
        Dial { timeout, ..self }
    }

    /// The call for it, and its limit.
    pub(super) fn call(&self) -> (Call, Duration) {
        let Dial { kind, to, bind, v6, ref fast_open, timeout } = *self;
        let timeout_ms = super::peer::millis(timeout);
        (Call::Connect { kind, to, bind, v6, fast_open: fast_open.clone(), timeout_ms }, timeout)
    }
}
