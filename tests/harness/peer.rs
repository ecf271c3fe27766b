//! Processes that open sockets where a test wants them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;

use super::protocol::{
    Answer, Call, Cause, Ended, Exchanged, Failure, Kind, LoopCount, Request, Response, Serve, Served,
    SocketInfo, Streamed,
};
use super::{Cgroup, Ns};

/// The limit of calls that are not told another.
const LIMIT: Duration = Duration::from_secs(3);

/// Time that a peer has beyond the limit of the call itself, before it counts as gone.
const GRACE: Duration = Duration::from_secs(20);

/// A process in a cgroup and a network namespace, with sockets. Killed on drop.
///
/// Calls may be made from several threads, and `begin_…` starts one without waiting for it.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    input: Mutex<ChildStdin>,
    waiting: Arc<Waiting>,
    next: AtomicU64,
}

/// A socket of one peer, to be handed back to that peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Socket {
    id: u64,
    /// Its own address.
    pub local: SocketAddr,
    /// The other end's, when it is connected.
    pub peer: Option<SocketAddr>,
    /// The kernel's cookie for it.
    pub cookie: u64,
    /// How long making it took.
    pub elapsed: Duration,
}

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

/// Result of a call.
pub type Called<T> = std::result::Result<T, CallError>;

/// Why a call failed.
#[derive(thiserror::Error, Clone, Debug)]
pub enum CallError {
    /// The kernel said no.
    #[error("{errno} after {elapsed:?}, {done} done")]
    Os {
        /// What it said.
        errno: Errno,
        /// When.
        elapsed: Duration,
        /// Exchanges, pings or bytes that had been right until then.
        done: u64,
    },
    /// Nothing happened in the time given.
    #[error("nothing for {elapsed:?}, {done} done")]
    Timeout {
        /// How long it was waited for.
        elapsed: Duration,
        /// As above.
        done: u64,
    },
    /// The other end closed in order where more was due.
    #[error("closed after {elapsed:?}, {done} done")]
    Closed {
        /// When.
        elapsed: Duration,
        /// As above.
        done: u64,
    },
    /// Wrong bytes came back, or the test asked for what cannot be.
    #[error("{0}")]
    Wrong(String),
    /// The peer is no more, or does not answer.
    #[error("the peer is gone")]
    Gone,
}

impl CallError {
    /// The kernel's error, if that is what it was.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            CallError::Os { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether nothing came in the time given.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, CallError::Timeout { .. })
    }

    /// When it failed, after the work began.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        match self {
            CallError::Os { elapsed, .. }
            | CallError::Timeout { elapsed, .. }
            | CallError::Closed { elapsed, .. } => Some(*elapsed),
            CallError::Wrong(_) | CallError::Gone => None,
        }
    }
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

    /// Gives up after this long, instead of 3 s.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Dial {
        Dial { timeout, ..self }
    }
}

impl Peer {
    /// Starts a peer, in a namespace and a cgroup where they are given.
    pub fn spawn(ns: Option<&Ns>, cgroup: Option<&Cgroup>) -> Result<Peer> {
        let program = program()?;
        let mut command = Command::new(&program);
        if let Some(cgroup) = cgroup {
            command.arg("--cgroup").arg(cgroup.path());
        }
        if let Some(ns) = ns {
            command.arg("--netns").arg(ns.path());
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a peer without pipes");
        };
        let mut output = BufReader::new(output);
        let mut hello = String::new();
        output.read_line(&mut hello)?;
        if hello.trim() != "ready" {
            let status = child.wait()?;
            bail!("a peer did not start: {status}");
        }
        let waiting = Arc::new(Waiting::new());
        let hear = Arc::clone(&waiting);
        std::thread::spawn(move || hear.listen(output));
        Ok(Peer { child, input: Mutex::new(input), waiting, next: AtomicU64::new(0) })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Listens; see [`Serve`] for what it does with what comes. Port 0 chooses a free one.
    pub fn listen(&self, kind: Kind, at: SocketAddr, serve: Serve) -> Called<Socket> {
        self.call(Call::Listen { kind, at, serve }, LIMIT)
    }

    /// A TCP server that sends everything back.
    pub fn tcp_echo(&self, at: SocketAddr) -> Called<Socket> {
        self.listen(Kind::Tcp, at, Serve::Echo)
    }

    /// A UDP server that sends everything back.
    pub fn udp_echo(&self, at: SocketAddr) -> Called<Socket> {
        self.listen(Kind::Udp, at, Serve::Echo)
    }

    /// An unconnected socket; `v6` makes it AF_INET6 whatever the addresses are.
    pub fn open(&self, kind: Kind, bind: Option<SocketAddr>, v6: bool) -> Called<Socket> {
        self.call(Call::Open { kind, bind, v6 }, LIMIT)
    }

    /// Connects.
    pub fn connect(&self, dial: &Dial) -> Called<Socket> {
        self.begin_connect(dial).wait()
    }

    /// Begins to connect.
    pub fn begin_connect(&self, dial: &Dial) -> Pending<Socket> {
        let Dial { kind, to, bind, v6, fast_open, timeout } = dial.clone();
        self.begin(Call::Connect { kind, to, bind, v6, fast_open, timeout_ms: millis(timeout) }, timeout)
    }

    /// Takes the next connection of a listener that holds.
    pub fn accept(&self, listener: &Socket, timeout: Duration) -> Called<Socket> {
        self.call(Call::Accept { socket: listener.id, timeout_ms: millis(timeout) }, timeout)
    }

    /// Sends once; `to` on unconnected sockets. Answers how many bytes.
    pub fn send(&self, socket: &Socket, data: &[u8], to: Option<SocketAddr>) -> Called<u64> {
        self.call(Call::Send { socket: socket.id, data: data.to_vec(), to }, LIMIT)
    }

    /// Receives once: the bytes (none at the end of a stream), and from whom on unconnected sockets.
    pub fn recv(&self, socket: &Socket, timeout: Duration) -> Called<(Vec<u8>, Option<SocketAddr>)> {
        self.call(Call::Recv { socket: socket.id, max: 65536, timeout_ms: millis(timeout) }, timeout)
    }

    /// `count` questions of 32 bytes to an echo, each answered within `timeout`.
    pub fn exchange(&self, socket: &Socket, count: u64, timeout: Duration) -> Called<Exchanged> {
        self.begin_exchange(socket, None, count, 32, timeout).wait()
    }

    /// As [`exchange`](Peer::exchange), by an unconnected socket.
    pub fn exchange_with(
        &self,
        socket: &Socket,
        to: SocketAddr,
        count: u64,
        timeout: Duration,
    ) -> Called<Exchanged> {
        self.begin_exchange(socket, Some(to), count, 32, timeout).wait()
    }

    /// Begins questions and answers of `size` bytes.
    pub fn begin_exchange(
        &self,
        socket: &Socket,
        to: Option<SocketAddr>,
        count: u64,
        size: usize,
        timeout: Duration,
    ) -> Pending<Exchanged> {
        let all = timeout.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        let call = Call::Exchange { socket: socket.id, count, size, to, timeout_ms: millis(timeout) };
        self.begin(call, all)
    }

    /// Begins a transfer to an echo whose every byte is checked; fails when nothing comes back for
    /// `timeout`. The stream is ended by it.
    pub fn begin_stream(&self, socket: &Socket, duration: Duration, timeout: Duration) -> Pending<Streamed> {
        let call =
            Call::Stream { socket: socket.id, duration_ms: millis(duration), timeout_ms: millis(timeout) };
        self.begin(call, duration + timeout)
    }

    /// Waits until a socket has an error or its stream ends.
    pub fn ended(&self, socket: &Socket, timeout: Duration) -> Called<Ended> {
        self.begin_ended(socket, timeout).wait()
    }

    /// Begins to wait for a socket's end.
    pub fn begin_ended(&self, socket: &Socket, timeout: Duration) -> Pending<Ended> {
        self.begin(Call::Ended { socket: socket.id, timeout_ms: millis(timeout) }, timeout)
    }

    /// ICMP echo, once, by a ping socket.
    pub fn ping(&self, to: std::net::IpAddr, timeout: Duration) -> Called<Exchanged> {
        self.begin_ping(to, None, false, 1, timeout).wait()
    }

    /// Begins ICMP echo requests, by a ping socket or (`raw`) by a raw one.
    pub fn begin_ping(
        &self,
        to: std::net::IpAddr,
        from: Option<std::net::IpAddr>,
        raw: bool,
        count: u64,
        timeout: Duration,
    ) -> Pending<Exchanged> {
        let all = timeout.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        let bind = from.map(|address| SocketAddr::new(address, 0));
        let to = SocketAddr::new(to, 0);
        self.begin(Call::Ping { to, bind, raw, count, timeout_ms: millis(timeout) }, all)
    }

    /// Begins to connect as fast as it can for a while, to each target in turn; with `exchange` each
    /// connection also asks one question. Connections are reset at their end, so that no port waits.
    pub fn begin_connect_loop(
        &self,
        targets: &[SocketAddr],
        exchange: bool,
        duration: Duration,
        timeout: Duration,
    ) -> Pending<Vec<LoopCount>> {
        let call = Call::ConnectLoop {
            targets: targets.to_vec(),
            v6: false,
            exchange,
            duration_ms: millis(duration),
            timeout_ms: millis(timeout),
        };
        self.begin(call, duration + timeout)
    }

    /// What a listening socket has seen so far.
    pub fn served(&self, listener: &Socket) -> Called<Served> {
        self.call(Call::Served { socket: listener.id }, LIMIT)
    }

    /// Closes a socket in order.
    pub fn close(&self, socket: &Socket) -> Called<()> {
        self.call(Call::Close { socket: socket.id, reset: false }, LIMIT)
    }

    /// Closes a TCP socket with a reset.
    pub fn reset(&self, socket: &Socket) -> Called<()> {
        self.call(Call::Close { socket: socket.id, reset: true }, LIMIT)
    }

    /// Moves the peer into another cgroup; its sockets stay in the one they were made in.
    pub fn join_cgroup(&self, cgroup: &Cgroup) -> Called<()> {
        self.call(Call::JoinCgroup { path: cgroup.path().to_path_buf() }, LIMIT)
    }

    fn call<T: FromAnswer>(&self, call: Call, limit: Duration) -> Called<T> {
        self.begin(call, limit).wait()
    }

    fn begin<T: FromAnswer>(&self, call: Call, limit: Duration) -> Pending<T> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let response = self.waiting.expect(id);
        if let Ok(mut line) = serde_json::to_vec(&Request { id, call }) {
            line.push(b'\n');
            // A peer that is gone shows when the response is waited for.
            let _ = self.input.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
        }
        Pending { response, limit: limit + GRACE, answer: PhantomData }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A call under way. Dropping it leaves the peer to it.
#[derive(Debug)]
pub struct Pending<T> {
    response: Receiver<Response>,
    limit: Duration,
    answer: PhantomData<fn() -> T>,
}

impl<T: FromAnswer> Pending<T> {
    /// Waits for the answer.
    pub fn wait(self) -> Called<T> {
        let response = self.response.recv_timeout(self.limit).map_err(|_| CallError::Gone)?;
        let answer = response.result?;
        T::from_answer(answer).ok_or_else(|| CallError::Wrong("the peer answered another question".into()))
    }
}

/// Responses that are waited for, by request; nothing once the peer has ended.
#[derive(Debug)]
struct Waiting(Mutex<Option<HashMap<u64, Sender<Response>>>>);

impl Waiting {
    fn new() -> Waiting {
        Waiting(Mutex::new(Some(HashMap::new())))
    }

    /// Where the response will come; at once the news that none will, when the peer has ended.
    fn expect(&self, id: u64) -> Receiver<Response> {
        let (sender, receiver) = mpsc::channel();
        if let Some(senders) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            senders.insert(id, sender);
        }
        receiver
    }

    /// Hands out responses until the peer ends.
    fn listen(&self, output: BufReader<ChildStdout>) {
        for line in output.lines().map_while(std::io::Result::ok) {
            let Ok(response) = serde_json::from_str::<Response>(&line) else {
                eprintln!("a peer said what nobody understands: {line}");
                continue;
            };
            let mut senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(sender) = senders.as_mut().and_then(|senders| senders.remove(&response.id)) {
                let _ = sender.send(response);
            }
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> CallError {
        let Failure { cause, elapsed_us, done } = failure;
        let elapsed = Duration::from_micros(elapsed_us);
        match cause {
            Cause::Os(number) => CallError::Os { errno: Errno::from_raw_os_error(number), elapsed, done },
            Cause::Timeout => CallError::Timeout { elapsed, done },
            Cause::Closed => CallError::Closed { elapsed, done },
            Cause::Wrong(why) => CallError::Wrong(why),
        }
    }
}

/// What a call can answer.
pub trait FromAnswer: Sized {
    /// `None` when it is the answer to another kind of call.
    fn from_answer(answer: Answer) -> Option<Self>;
}

macro_rules! answers {
    ($($type:ty: $pattern:pat => $value:expr;)*) => {
        $(impl FromAnswer for $type {
            fn from_answer(answer: Answer) -> Option<Self> {
                match answer {
                    $pattern => Some($value),
                    _ => None,
                }
            }
        })*
    };
}

answers! {
    Socket: Answer::Socket(info) => Socket::from(info);
    u64: Answer::Sent(count) => count;
    (Vec<u8>, Option<SocketAddr>): Answer::Data { data, from } => (data, from);
    Exchanged: Answer::Exchanged(counts) => counts;
    Streamed: Answer::Streamed(counts) => counts;
    Ended: Answer::Ended(how) => how;
    Vec<LoopCount>: Answer::Loop(counts) => counts;
    Served: Answer::Served(counts) => counts;
    (): Answer::Done => ();
}

impl From<SocketInfo> for Socket {
    fn from(info: SocketInfo) -> Socket {
        let SocketInfo { socket, local, peer, cookie, elapsed_us } = info;
        Socket { id: socket, local, peer, cookie, elapsed: Duration::from_micros(elapsed_us) }
    }
}

impl Ended {
    /// The error, `None` when the other end closed in order.
    #[must_use]
    pub fn error(&self) -> Option<Errno> {
        self.errno.map(Errno::from_raw_os_error)
    }

    /// How long it took from the call.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(self.elapsed_us)
    }
}

/// The peer's program: cargo puts it beside, or one folder above, whoever runs.
fn program() -> Result<PathBuf> {
    if let Some(told) = std::env::var_os("BULKHEAD_PEER") {
        return Ok(told.into());
    }
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder: &Path| folder.join("bulkhead-peer"))
        .find(|file| file.is_file())
        .context("bulkhead-peer is not built: cargo build -p bulkhead-tests --bin bulkhead-peer")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
