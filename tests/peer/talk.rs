//! Sending, receiving, asking and waiting on one socket.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bulkhead_tests::harness::protocol::{Ended, Exchanged};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, recvfrom, sendto, sockopt};

use crate::micros;
use crate::sockets::{Fault, Socket, address, in_family, is_stream, wait};

/// How long a full send buffer is waited for.
const SEND_LIMIT: Duration = Duration::from_secs(20);

/// Sends all of `data`, once.
pub(crate) fn send(socket: &Socket, data: &[u8], to: Option<SocketAddr>) -> Result<u64, Fault> {
    let deadline = Instant::now() + SEND_LIMIT;
    let mut rest = data;
    loop {
        let sent = match to {
            Some(to) => {
                let v6 = sockopt::socket_domain(&socket.fd)? == AddressFamily::INET6;
                sendto(&socket.fd, rest, SendFlags::NOSIGNAL, &in_family(to, v6))
            }
            None => rustix::net::send(&socket.fd, rest, SendFlags::NOSIGNAL),
        };
        match sent {
            Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
            Err(Errno::AGAIN) => wait(&socket.fd, PollFlags::OUT, deadline)?,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        if rest.is_empty() {
            return Ok(data.len() as u64);
        }
    }
}

/// Receives once; nothing at the end of a stream.
pub(crate) fn recv(
    socket: &Socket,
    max: usize,
    deadline: Instant,
) -> Result<(Vec<u8>, Option<SocketAddr>), Fault> {
    let mut buffer = vec![0; max];
    loop {
        match recvfrom(&socket.fd, buffer.as_mut_slice(), RecvFlags::empty()) {
            Ok((got, _, from)) => {
                buffer.truncate(got);
                return Ok((buffer, from.and_then(|from| address(from).ok())));
            }
            Err(Errno::AGAIN) => wait(&socket.fd, PollFlags::IN, deadline)?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The next frame that holds `marker`.
pub(crate) fn captured(socket: &Socket, marker: &[u8], deadline: Instant) -> Result<Vec<u8>, Fault> {
    loop {
        let (frame, _) = recv(socket, 1 << 16, deadline)?;
        if frame.windows(marker.len()).any(|part| part == marker) {
            return Ok(frame);
        }
    }
}

/// Questions to an echo, one after the other; each answer must be its question.
pub(crate) fn exchange(
    socket: &Socket,
    count: u64,
    size: usize,
    to: Option<SocketAddr>,
    limit: Duration,
) -> Result<Exchanged, Fault> {
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    for number in 0..count {
        let asked = Instant::now();
        let question = pattern(number, size);
        send(socket, &question, to).map_err(|fault| fault.after(number))?;
        let mut answer = Vec::with_capacity(size);
        while answer.len() < size {
            let (part, _) =
                recv(socket, size - answer.len(), asked + limit).map_err(|fault| fault.after(number))?;
            if part.is_empty() {
                return Err(Fault::closed().after(number));
            }
            answer.extend_from_slice(&part);
            if !is_stream(socket.kind) {
                break;
            }
        }
        if answer != question {
            return Err(Fault::wrong(format!("exchange {number}: the answer is not what was sent")));
        }
        slowest = slowest.max(asked.elapsed());
    }
    Ok(Exchanged { count, elapsed_us: micros(started.elapsed()), slowest_us: micros(slowest) })
}

/// Waits for a socket's error or its stream's end; data that waits to be read is neither.
pub(crate) fn ended(socket: &Socket, deadline: Instant, started: Instant) -> Result<Ended, Fault> {
    wait(&socket.fd, PollFlags::RDHUP, deadline)?;
    let error = sockopt::socket_error(&socket.fd)?.err();
    Ok(Ended { errno: error.map(Errno::raw_os_error), elapsed_us: micros(started.elapsed()) })
}

/// Bytes that differ from those of any other number.
fn pattern(number: u64, size: usize) -> Vec<u8> {
    number.to_be_bytes().into_iter().cycle().zip(0_u8..=255).map(|(a, b)| a ^ b).cycle().take(size).collect()
}
