//! Servers: threads that answer on a listening socket, and count what they see.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bulkhead_tests::harness::protocol::{Serve, Served};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, recvfrom, send, sendto};

use crate::sockets::{Socket, address, is_stream, wait};

/// How often a server, or who waits for a connection, looks whether it was closed.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// What one server has seen.
#[derive(Default, Debug)]
pub(crate) struct Counting {
    accepted: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
    refused: AtomicU64,
    stopped: AtomicBool,
}

impl Counting {
    pub(crate) fn counts(&self) -> Served {
        Served {
            accepted: self.accepted.load(Ordering::SeqCst),
            messages: self.messages.load(Ordering::SeqCst),
            bytes: self.bytes.load(Ordering::SeqCst),
            refused: self.refused.load(Ordering::SeqCst),
        }
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn saw(&self, bytes: usize) {
        self.messages.fetch_add(1, Ordering::SeqCst);
        self.bytes.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

/// Starts the server of a listening socket; it ends when the socket is closed.
pub(crate) fn start(socket: Arc<Socket>, serve: Serve) {
    std::thread::spawn(move || {
        if is_stream(socket.kind) { streams(&socket, serve) } else { datagrams(&socket, serve) }
    });
}

fn streams(listener: &Socket, serve: Serve) {
    while !listener.served.is_stopped() {
        match accept_with(&listener.fd, SocketFlags::CLOEXEC) {
            Ok(connection) => {
                listener.served.accepted.fetch_add(1, Ordering::SeqCst);
                let counting = Arc::clone(&listener.served);
                std::thread::spawn(move || one_stream(&connection, serve, &counting));
            }
            Err(Errno::AGAIN) => {
                let _ = wait(&listener.fd, PollFlags::IN, Instant::now() + TICK);
            }
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(_) => return,
        }
    }
}

/// A connection is blocking, and lives until either end is done with it.
fn one_stream(connection: &OwnedFd, serve: Serve, counting: &Counting) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let got = match recv(connection, buffer.as_mut_slice(), RecvFlags::empty()) {
            Ok((0, _)) => return,
            Ok((got, _)) => got,
            Err(Errno::INTR) => continue,
            Err(_) => return,
        };
        counting.saw(got);
        let mut rest = buffer.get(..got).unwrap_or_default();
        while serve == Serve::Echo && !rest.is_empty() {
            match send(connection, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

fn datagrams(socket: &Socket, serve: Serve) {
    let mut buffer = vec![0; 1 << 16];
    while !socket.served.is_stopped() {
        let (got, from) = match recvfrom(&socket.fd, buffer.as_mut_slice(), RecvFlags::empty()) {
            Ok((got, _, from)) => (got, from),
            Err(Errno::AGAIN) => {
                let _ = wait(&socket.fd, PollFlags::IN, Instant::now() + TICK);
                continue;
            }
            // Errors of what was sent before come here too, and say nothing about what comes next.
            Err(_) => continue,
        };
        socket.served.saw(got);
        let from: Option<SocketAddr> = from.and_then(|from| address(from).ok());
        if let (Serve::Echo, Some(from)) = (serve, from) {
            let answer = buffer.get(..got).unwrap_or_default();
            if sendto(&socket.fd, answer, SendFlags::NOSIGNAL, &from).is_err() {
                socket.served.refused.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}
