//! Load: transfers whose every byte is checked, and connects as fast as they go.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_sys::clock;
use bulkhead_tests::harness::protocol::{Cause, Failed, Kind, LoopCount, Streamed};
use rustix::net::{Shutdown, getsockname, shutdown, sockopt};

use crate::micros;
use crate::sockets::{Fault, Socket, address, connect};
use crate::talk;

/// How many connects that failed are told of one by one.
const FAILED: usize = 8;

/// What is sent at once.
const CHUNK: usize = 1 << 14;

/// Sends to an echo until `until`, then ends the stream; reads and checks beside it.
pub(crate) fn stream(socket: &Arc<Socket>, until: Instant, limit: Duration) -> Result<Streamed, Fault> {
    let started = Instant::now();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_until(socket, until, &stop));
        let read = read_all(socket, limit);
        stop.store(true, Ordering::SeqCst);
        let written = writer.join().map_err(|_| Fault::wrong("the writer panicked"))?;
        let (bytes, longest_gap) = read?;
        let written = written.map_err(|fault| fault.after(bytes))?;
        if bytes != written {
            return Err(Fault::wrong(format!("{written} bytes were sent and {bytes} came back")));
        }
        Ok(Streamed { bytes, elapsed_us: micros(started.elapsed()), longest_gap_us: micros(longest_gap) })
    })
}

fn write_until(socket: &Socket, until: Instant, stop: &AtomicBool) -> Result<u64, Fault> {
    let mut written = 0;
    while Instant::now() < until && !stop.load(Ordering::SeqCst) {
        let chunk: Vec<u8> = (written..).take(CHUNK).map(byte_at).collect();
        written += talk::send(socket, &chunk, None)?;
    }
    shutdown(&socket.fd, Shutdown::Write)?;
    Ok(written)
}

fn read_all(socket: &Socket, limit: Duration) -> Result<(u64, Duration), Fault> {
    let mut position = 0;
    let mut longest_gap = Duration::ZERO;
    loop {
        let asked = Instant::now();
        let (data, _) = talk::recv(socket, CHUNK, asked + limit).map_err(|fault| fault.after(position))?;
        longest_gap = longest_gap.max(asked.elapsed());
        if data.is_empty() {
            return Ok((position, longest_gap));
        }
        for byte in data {
            if byte != byte_at(position) {
                return Err(Fault::wrong(format!("byte {position} is not what was sent")).after(position));
            }
            position += 1;
        }
    }
}

/// The byte at a place of the stream: its period is no power of two, so that a lost or doubled
/// segment shows.
fn byte_at(position: u64) -> u8 {
    u8::try_from(position % 251).unwrap_or_default()
}

/// Connects to each target in turn until `until`.
pub(crate) fn connect_loop(
    kind: Kind,
    targets: &[SocketAddr],
    v6: bool,
    exchange: bool,
    until: Instant,
    limit: Duration,
) -> Result<Vec<LoopCount>, Fault> {
    let count = |to: &SocketAddr| LoopCount {
        to: *to,
        ok: 0,
        errors: BTreeMap::new(),
        timeouts: 0,
        slowest_us: 0,
        failed: Vec::new(),
    };
    let mut counts: Vec<LoopCount> = targets.iter().map(count).collect();
    while Instant::now() < until {
        for target in &mut counts {
            let (started, began_ns, mut port) = (Instant::now(), clock::monotonic_ns(), 0);
            let errno = match one(kind, target.to, v6, exchange, limit, &mut port) {
                Ok(()) => {
                    target.ok += 1;
                    target.slowest_us = target.slowest_us.max(micros(started.elapsed()));
                    continue;
                }
                Err(Fault { cause: Cause::Os(errno), .. }) => Some(errno),
                Err(Fault { cause: Cause::Timeout, .. }) => None,
                Err(other) => return Err(other),
            };
            match errno {
                Some(errno) => *target.errors.entry(errno).or_default() += 1,
                None => target.timeouts += 1,
            }
            if target.failed.len() < FAILED {
                target.failed.push(Failed { port, began_ns, errno });
            }
        }
    }
    Ok(counts)
}

/// One connect; `port` becomes the socket's own.
fn one(
    kind: Kind,
    to: SocketAddr,
    v6: bool,
    exchange: bool,
    limit: Duration,
    port: &mut u16,
) -> Result<(), Fault> {
    let fd = connect(kind, to, None, v6, None, Instant::now() + limit)?;
    *port = address(getsockname(&fd)?)?.port();
    if kind == Kind::Tcp {
        // Reset at the end: thousands of connections in TIME_WAIT would use up the ports.
        sockopt::set_socket_linger(&fd, Some(Duration::ZERO))?;
    }
    if exchange {
        let socket = Socket { fd, kind, served: Arc::default() };
        talk::exchange(&socket, 1, 32, None, limit)?;
    }
    Ok(())
}
