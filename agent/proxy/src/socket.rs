//! Sockets that were handed over, on their way to a connection.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpSocket, TcpStream};

use crate::proxy::Kind;

/// Connects a socket of the node's, from `bound` if that is said.
pub(crate) async fn connect(
    socket: OwnedFd,
    bound: Option<IpAddr>,
    to: SocketAddr,
    patience: Duration,
) -> io::Result<TcpStream> {
    // `TcpSocket` takes descriptors in this guise; it is not connected yet.
    let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    if let Some(address) = bound {
        socket.bind(SocketAddr::new(address, 0))?;
    }
    let stream = tokio::time::timeout(patience, socket.connect(to))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {patience:?}")))??;
    prepare(&stream);
    Ok(stream)
}

/// What comes in here is as [`connect`] makes it: Linux hands a listener's options down to what it accepts. A
/// program's connection is [held](hold) from its first moment.
pub(crate) fn prepare_listener(listener: &TcpListener, kind: Kind) -> io::Result<()> {
    sockopt::set_tcp_nodelay(listener, true)?;
    if kind == Kind::Capture {
        sockopt::set_socket_linger(listener, Some(Duration::ZERO))?;
    }
    Ok(())
}

/// Small messages must not wait for others.
pub(crate) fn prepare(stream: &TcpStream) {
    // Fails only for a connection that has ended, which whoever reads next will find.
    let _ = stream.set_nodelay(true);
}

/// From now on a program's connection ends with a reset, however it ends, unless [`finish`] is called: if this
/// process dies, the kernel must not give the program an orderly end to half an answer.
pub(crate) fn hold(stream: &TcpStream) {
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

/// Closes with a reset.
pub(crate) fn reset(stream: TcpStream) {
    hold(&stream);
}

/// Closes in order what has come to its end in order; what waits to be sent still is.
pub(crate) fn finish(stream: TcpStream) {
    let _ = sockopt::set_socket_linger(&stream, None);
}

/// IPv4 as IPv4, also where a listener of both families shows it in an IPv6 guise.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
