//! One connection at one end: sends and receives what its plan says, and counts.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

use super::{GIVES_UP, Manner, PATIENCE, Plan};
use crate::proxy::pattern::{Pattern, Way};

/// Bytes at once.
const CHUNK: usize = 1 << 16;

/// Which end this is.
#[derive(Clone, Copy)]
pub(super) enum End<'a> {
    /// The run ends when this file is there.
    Client(&'a Path),
    Server,
}

/// What became of it.
pub(super) struct Came {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// `clean`, or a word for what was not.
    pub(super) how: String,
}

/// Carries one connection to its end.
pub(super) fn carry(stream: &TcpStream, plan: &Plan, end: End<'_>) -> Came {
    let is_client = matches!(end, End::Client(_));
    let (writes, reads) = if is_client { (Way::Up, Way::Down) } else { (Way::Down, Way::Up) };
    let (out, into) = if is_client { (plan.up, plan.down) } else { (plan.down, plan.up) };
    let patience = match plan.manner {
        Manner::Held => None,
        Manner::ClientHangs | Manner::ServerHangs => Some(GIVES_UP),
        _ => Some(PATIENCE),
    };
    let _ = stream.set_read_timeout(patience).and_then(|()| stream.set_write_timeout(patience));
    let _ = stream.set_nodelay(true);

    let fault = Fault::default();
    let mut outgoing = Half { stream, pattern: Pattern::new(plan.id, writes), bytes: 0, fault: &fault };
    let mut incoming = Half { stream, pattern: Pattern::new(plan.id, reads), bytes: 0, fault: &fault };
    let ours = |client: Manner, server: Manner| plan.manner == if is_client { client } else { server };
    if ours(Manner::ClientFirst, Manner::ServerFirst) {
        outgoing.send(out).finish();
        incoming.receive(into).expect_end();
    } else if ours(Manner::ServerFirst, Manner::ClientFirst) {
        incoming.receive(into).expect_end();
        outgoing.send(out).finish();
    } else {
        std::thread::scope(|scope| {
            scope.spawn(|| outgoing.send(out / 2));
            if plan.manner == Manner::Stalls {
                // Nobody reads, while the other one writes.
                std::thread::sleep(Duration::from_millis(plan.pause));
            }
            incoming.receive(into / 2);
        });
        if ours(Manner::ClientResets, Manner::ServerResets) {
            fault.set("resets".to_owned());
        } else if ours(Manner::ClientHangs, Manner::ServerHangs) {
            fault.set(hang(stream));
        } else {
            pause(plan, end);
        }
        std::thread::scope(|scope| {
            scope.spawn(|| outgoing.send(out - out / 2).finish());
            incoming.receive(into - into / 2).expect_end();
        });
    }
    let (sent, received) = (outgoing.bytes, incoming.bytes);
    let how = fault.first.into_inner().unwrap_or_else(|| "clean".to_owned());
    if how != "clean" {
        // Whoever gives up says so.
        let _ = set_socket_linger(stream, Some(Duration::ZERO));
    }
    Came { sent, received, how }
}

/// The first thing that was not as it should be; what comes of it is not told.
#[derive(Default)]
struct Fault {
    first: OnceLock<String>,
}

impl Fault {
    fn set(&self, word: String) {
        let _ = self.first.set(word);
    }

    fn is_set(&self) -> bool {
        self.first.get().is_some()
    }
}

/// One direction.
struct Half<'a> {
    stream: &'a TcpStream,
    pattern: Pattern,
    bytes: u64,
    fault: &'a Fault,
}

impl Half<'_> {
    /// Sends the next bytes.
    fn send(&mut self, count: u64) -> &mut Self {
        let mut chunk = vec![0; CHUNK];
        let mut left = count;
        while left > 0 && !self.fault.is_set() {
            let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let Some(part) = chunk.get_mut(..size) else { return self };
            self.pattern.fill(part);
            self.write(part);
            left -= size as u64;
        }
        self
    }

    fn write(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() {
            match (&mut &*self.stream).write(rest) {
                Ok(wrote) => {
                    self.bytes += wrote as u64;
                    rest = rest.get(wrote..).unwrap_or_default();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.fail(word(&error)),
            }
        }
    }

    /// Ends the direction.
    fn finish(&mut self) {
        if !self.fault.is_set()
            && let Err(error) = self.stream.shutdown(Shutdown::Write)
        {
            self.fail(word(&error));
        }
    }

    /// Receives the next bytes, which are known.
    fn receive(&mut self, count: u64) -> &mut Self {
        let mut chunk = vec![0; CHUNK];
        let mut left = count;
        while left > 0 && !self.fault.is_set() {
            let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let Some(part) = chunk.get_mut(..size) else { return self };
            match (&mut &*self.stream).read(part) {
                Ok(0) => {
                    // A reset is told once: whoever writes at this moment may have heard of it instead.
                    std::thread::sleep(Duration::from_millis(50));
                    self.fail("early".to_owned());
                }
                Ok(got) => {
                    let right = self.pattern.agrees(part.get(..got).unwrap_or_default());
                    self.bytes += right as u64;
                    left -= right as u64;
                    if right < got {
                        self.fail("wrong".to_owned());
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.fail(word(&error)),
            }
        }
        self
    }

    /// After everything nothing comes but the end.
    fn expect_end(&mut self) {
        while !self.fault.is_set() {
            match (&mut &*self.stream).read(&mut [0; 1]) {
                Ok(0) => return,
                Ok(_) => self.fail("wrong".to_owned()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.fail(word(&error)),
            }
        }
    }

    /// The other direction ends then, too: by the same cause, or where it next looks. Nothing is shut down,
    /// which would look like an orderly end to the other side.
    fn fail(&self, word: String) {
        self.fault.set(word);
    }
}

/// In the middle.
fn pause(plan: &Plan, end: End<'_>) {
    match (plan.manner, end) {
        (Manner::Idle, _) => std::thread::sleep(Duration::from_millis(plan.pause)),
        (Manner::Held, End::Client(stop)) => {
            while !stop.exists() {
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        _ => {}
    }
}

/// Does nothing until the other end must have given up; how that was seen. What it had said before, and that it
/// had no more to say, still comes; then a reset must.
fn hang(mut stream: &TcpStream) -> String {
    std::thread::sleep(GIVES_UP + Duration::from_secs(5));
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let (until, mut rest) = (Instant::now() + PATIENCE, vec![0; CHUNK]);
    while Instant::now() < until {
        match stream.read(&mut rest) {
            Ok(0) if matches!(stream.take_error(), Ok(None)) => {
                std::thread::sleep(Duration::from_millis(100))
            }
            Ok(got) if got > 0 => {}
            Err(error) if is_timeout(&error) => {}
            Ok(_) | Err(_) => return "hangs".to_owned(),
        }
    }
    "nobody-told".to_owned()
}

/// An error as a word.
pub(super) fn word(error: &io::Error) -> String {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, PermissionDenied};
    match error.kind() {
        _ if is_timeout(error) => "hung".to_owned(),
        ConnectionReset | BrokenPipe | ConnectionAborted => "reset".to_owned(),
        ConnectionRefused => "refused".to_owned(),
        PermissionDenied => "not-permitted".to_owned(),
        other => other.to_string().replace(' ', "-"),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
