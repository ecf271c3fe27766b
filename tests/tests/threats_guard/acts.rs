//! Ways to try something, each observed at its receiver.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use bulkhead_tests::harness::threat::{Threat, Try, heard};
use bulkhead_tests::harness::{Called, Dial, Kind, Peer, Serve};

/// How a program talks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum By {
    Tcp,
    /// A UDP socket that is connected.
    Udp,
    /// One that is not.
    Datagram,
}

impl By {
    pub(crate) const ALL: [By; 3] = [By::Tcp, By::Udp, By::Datagram];

    fn kind(self) -> Kind {
        if self == By::Tcp { Kind::Tcp } else { Kind::Udp }
    }
}

/// A threat on a node whose pods are behind guarded interfaces; `port2` leads to other machines.
pub(crate) fn guarded(policy: &str) -> Threat<'static> {
    Threat::new(policy).setup(|setup| setup.flag("--guard-interfaces=port*").flag("--guard-wire=port2"))
}

/// Sends a few bytes to `to`; whether the program `server` got them.
pub(crate) fn arrives(run: &Try<'_>, by: By, from: &Peer, server: &Peer, to: SocketAddr) -> Result<bool> {
    let listener = server.listen(by.kind(), any(to), Serve::Hold)?;
    let mut open = None;
    match by {
        By::Datagram => {
            let client = from.open(Kind::Udp, None, to.is_ipv6())?;
            heard(from.send(&client, b"hello", Some(to)))?;
            from.close(&client)?;
        }
        By::Tcp | By::Udp => {
            if let Some(client) = refusable(from.connect(&dial(run, by, to)))? {
                heard(from.send(&client, b"hello", None))?;
                open = Some(client);
            }
        }
    }
    let arrived = if by == By::Tcp {
        match server.accept(&listener, run.patience) {
            Ok(accepted) => {
                let arrived = heard(server.recv(&accepted, run.patience))?;
                let _ = server.reset(&accepted);
                arrived
            }
            Err(error) => heard::<()>(Err(error))?,
        }
    } else {
        heard(server.recv(&listener, run.patience))?
    };
    server.close(&listener)?;
    // What is left open loses its right when an agent starts, which counts.
    if let Some(client) = open {
        let _ = from.reset(&client);
    }
    Ok(arrived)
}

/// Asks an echo at `to` a few times; whether every answer came back.
pub(crate) fn answers(run: &Try<'_>, by: By, from: &Peer, server: &Peer, to: SocketAddr) -> Result<bool> {
    let listener = server.listen(by.kind(), any(to), Serve::Echo)?;
    let answered = match refusable(from.connect(&dial(run, by, to)))? {
        Some(client) => {
            let answered = heard(from.exchange(&client, 3, run.patience))?;
            from.close(&client)?;
            answered
        }
        None => false,
    };
    server.close(&listener)?;
    Ok(answered)
}

fn dial(run: &Try<'_>, by: By, to: SocketAddr) -> Dial {
    Dial::new(by.kind(), to).within(run.patience)
}

/// What a call answered, or nothing where the kernel refused it or was silent.
fn refusable<T>(called: Called<T>) -> Result<Option<T>> {
    match called {
        Ok(value) => Ok(Some(value)),
        Err(error) => heard::<()>(Err(error)).map(|_| None),
    }
}

/// Whatever address is translated to, of the same family.
fn any(to: SocketAddr) -> SocketAddr {
    let any = if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, to.port())
}
