//! Ways to try something, each observed at its receiver.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use bulkhead_tests::harness::threat::{DB, Lab, OUTSIDE, Try, heard};
use bulkhead_tests::harness::{CallError, Dial, Kind, Peer, Serve, Socket};

/// Longer than anything takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A second address of the namespace `web`, on its interface.
pub(crate) const WEB_SECOND: &str = "10.99.1.2";
/// A third.
pub(crate) const WEB_THIRD: &str = "10.99.8.1";

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Gives the namespace `web` its other addresses. With more than one the calls cannot foresee which will
/// be used, so the packet layer decides alone.
pub(crate) fn more_addresses(lab: &Lab) {
    lab.ns("web")
        .unwrap()
        .ip(&format!("addr add {WEB_SECOND}/32 dev eth0\naddr add {WEB_THIRD}/32 dev eth0"))
        .unwrap();
    lab.node()
        .unwrap()
        .ip(&format!("route add {WEB_SECOND} dev port0\nroute add {WEB_THIRD} dev port0"))
        .unwrap();
}

/// The program that is at an address of the lab.
pub(crate) fn host<'a>(lab: &'a Lab, address: &str) -> &'a Peer {
    match address {
        DB => &lab.db,
        OUTSIDE => &lab.outside,
        _ => panic!("nobody serves at {address}"),
    }
}

/// Listens while `send` does what it does, and answers whether something came: a connection and its
/// first bytes, or a datagram.
pub(crate) fn hears(
    run: &Try<'_>,
    kind: Kind,
    to: SocketAddr,
    send: impl FnOnce() -> Result<()>,
) -> Result<bool> {
    let server = host(run.lab, &to.ip().to_string());
    let listener = server.listen(kind, to, Serve::Hold)?;
    send()?;
    let arrived = match kind {
        Kind::Tcp | Kind::Mptcp => match server.accept(&listener, run.patience) {
            Ok(accepted) => {
                let arrived = heard(server.recv(&accepted, run.patience))?;
                let _ = server.reset(&accepted);
                arrived
            }
            Err(error) => heard::<()>(Err(error))?,
        },
        _ => heard(server.recv(&listener, run.patience))?,
    };
    server.close(&listener)?;
    Ok(arrived)
}

/// An ordinary connection with a few bytes.
pub(crate) fn connects(run: &Try<'_>, from: &Peer, to: SocketAddr) -> Result<bool> {
    hears(run, Kind::Tcp, to, || {
        let Some(socket) = refusable(from.connect(&Dial::tcp(to).within(run.patience)))? else {
            return Ok(());
        };
        refusable(from.send(&socket, b"hello", None)).map(drop)
    })
}

/// What a call answered, or nothing where the kernel refused it or was silent.
pub(crate) fn refusable<T>(called: Result<T, CallError>) -> Result<Option<T>> {
    match called {
        Ok(answer) => Ok(Some(answer)),
        Err(error @ (CallError::Wrong(_) | CallError::Gone)) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// A connection to an echo, with an answer.
pub(crate) fn talks(from: &Peer, to: SocketAddr) -> Result<Socket> {
    let socket = from.connect(&Dial::tcp(to).within(LONG))?;
    if from.exchange(&socket, 1, LONG)?.count != 1 {
        bail!("{to} did not answer");
    }
    Ok(socket)
}
