//! The proxy without a kernel, a policy or an agent: a plain port at one end, HBONE at the other, and
//! certificates from files. For strangers as peers, and for measuring.
//!
//! ```text
//! hbone client LISTEN DESTINATION TUNNEL-PORT OWN EXPECTED FOLDER
//! hbone server LISTEN OWN FOLDER
//! ```
//!
//! `client` takes whatever connects to LISTEN (`127.0.0.1:9000`) to DESTINATION, by way of the tunnel at
//! TUNNEL-PORT of the same address. `server` takes tunnels at LISTEN, from anybody of the trust domain, to
//! whatever port they ask for. OWN and EXPECTED are names (`spiffe://example.org/ns/host/sa/web`). FOLDER
//! has `tls.crt`, `tls.key` and `ca.crt`, as `bulkhead ca issue` makes it. `ready` on standard output says
//! that it listens; each connection that has ended is a line on standard error, if HBONE_LOG is set.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_credentials::{Bundle, Credentials, Keeper, SpiffeId, certificates_from_pem, key_from_pem};
use bulkhead_proxy::{Denied, Edge, Inbound, Kind, Limits, Mark, Node, Outbound, Place, Proxy, Settings};
use rustix::net::{AddressFamily, SocketType};
use tokio::sync::{mpsc, watch};

type Failure = Box<dyn std::error::Error>;

const USAGE: &str = "usage: hbone client LISTEN DESTINATION TUNNEL-PORT OWN EXPECTED FOLDER\n       \
                     hbone server LISTEN OWN FOLDER";

/// One destination, or any; nothing is refused but by certificates.
struct Plain {
    own: SpiffeId,
    out: Option<(SocketAddr, SpiffeId)>,
    changes: watch::Sender<u64>,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (kind, listen, own, out, folder) = match arguments.as_slice() {
        ["client", listen, destination, port, own, expected, folder] => {
            let out = (destination.parse()?, expected.parse()?, port.parse()?);
            (Kind::Capture, listen, own, Some(out), folder)
        }
        ["server", listen, own, folder] => (Kind::Tunnel, listen, own, None, folder),
        _ => return Err(USAGE.into()),
    };
    let listen: SocketAddr = listen.parse()?;
    let own: SpiffeId = own.parse()?;
    let keeper = keeper(&own, Path::new(folder))?;
    let tunnel_port = out.as_ref().map_or(listen.port(), |(.., port)| *port);
    let out = out.map(|(destination, expected, _)| (destination, expected));
    let limits = Limits { handshakes_per_second: 1_000_000, ..Limits::default() };
    let settings = Settings { tunnel_port, limits, ..Settings::default() };
    bulkhead_proxy::runtime()?.block_on(async {
        let (ended, mut records) = mpsc::channel(1024);
        let node = Arc::new(Plain { own, out, changes: watch::Sender::new(0) });
        let proxy = Proxy::new(node, keeper, settings, ended);
        proxy.listen(Place(1), kind, listener(listen)?)?;
        println!("ready");
        let log = std::env::var_os("HBONE_LOG").is_some();
        let telling = tokio::spawn(async move {
            while let Some(record) = records.recv().await {
                if log {
                    eprintln!("{record:?}");
                }
            }
        });
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        term.recv().await;
        proxy.drain(Duration::from_secs(5)).await;
        telling.abort();
        Ok(())
    })
}

/// With a queue that holds all who come at once.
fn listener(at: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket =
        if at.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(4096)?.into_std()
}

fn keeper(own: &SpiffeId, folder: &Path) -> Result<Keeper, Failure> {
    let read = |file: &str| {
        let path = folder.join(file);
        std::fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let roots = certificates_from_pem(&read("ca.crt")?)?;
    let keeper = Keeper::new();
    keeper.believe(Bundle { domain: own.trust_domain().to_owned(), roots, lists: Vec::new() })?;
    let (chain, key) = (certificates_from_pem(&read("tls.crt")?)?, key_from_pem(&read("tls.key")?)?);
    keeper.install(&Credentials { name: own.clone(), chain, key })?;
    Ok(keeper)
}

fn socket(family: IpAddr) -> io::Result<OwnedFd> {
    let family = if family.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

fn edge() -> Edge {
    Edge { from: "client".into(), to: "server".into(), rule: "hbone".into() }
}

impl Node for Plain {
    async fn outbound(&self, _: Place, _: SocketAddr, _: Instant) -> Result<Outbound, Denied> {
        let (destination, expected) = self.out.clone().ok_or_else(|| Denied {
            reason: "no-destination",
            text: "this is the server's end".to_owned(),
            edge: None,
        })?;
        let (own, mark) = (self.own.clone(), Mark::default());
        Ok(Outbound { destination, own, expected: vec![expected], edge: edge(), max_age: None, mark })
    }

    async fn inbound(
        &self,
        _: Place,
        _: &SpiffeId,
        _: IpAddr,
        _: SocketAddr,
        _: Instant,
    ) -> Result<Inbound, Denied> {
        Ok(Inbound { edge: edge(), max_age: None, mark: Mark::default(), audited: None })
    }

    async fn name_of(&self, _: Place, _: IpAddr, _: Instant) -> Result<Option<SpiffeId>, Denied> {
        Ok(Some(self.own.clone()))
    }

    async fn tunnel_socket(&self, _: Place, from: IpAddr, _: Mark, _: Instant) -> io::Result<OwnedFd> {
        let socket = socket(from)?;
        rustix::net::bind(&socket, &SocketAddr::new(from, 0))?;
        Ok(socket)
    }

    async fn last_hop_socket(&self, _: Place, from: IpAddr, _: Mark, _: Instant) -> io::Result<OwnedFd> {
        socket(from)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
