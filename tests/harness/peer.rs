//! Processes that open sockets where a test wants them.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::call::{Called, FromAnswer, Pending, Waiting};
use super::dial::Dial;
use super::protocol::{
    Call, Ended, Exchanged, Kind, LoopCount, Opening, Played, Request, Serve, Served, SocketInfo, Step,
    Streamed,
};
use super::{Cgroup, Ns};

/// The limit of calls that are not told another: for what must happen, however busy the machine is.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

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
        let (call, limit) = dial.call();
        self.begin(call, limit)
    }

    /// Connects a socket that was [`open`](Peer::open)ed before, as it is.
    pub fn connect_socket(&self, socket: &Socket, to: SocketAddr, timeout: Duration) -> Called<Socket> {
        self.call(Call::Dial { socket: socket.id, to, timeout_ms: millis(timeout) }, timeout)
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

    /// The same with so many bytes of payload.
    pub fn ping_of(&self, to: std::net::IpAddr, size: usize, timeout: Duration) -> Called<Exchanged> {
        let (to, timeout_ms) = (SocketAddr::new(to, 0), millis(timeout));
        self.call(Call::Ping { to, bind: None, raw: false, count: 1, size, timeout_ms }, timeout)
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
        self.begin(Call::Ping { to, bind, raw, count, size: 8, timeout_ms: millis(timeout) }, all)
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
        self.begin_loop(Kind::Tcp, targets, exchange, duration, timeout)
    }

    /// The same with any kind of socket: by UDP, too, each question has a socket of its own.
    pub fn begin_loop(
        &self,
        kind: Kind,
        targets: &[SocketAddr],
        exchange: bool,
        duration: Duration,
        timeout: Duration,
    ) -> Pending<Vec<LoopCount>> {
        let call = Call::ConnectLoop {
            kind,
            targets: targets.to_vec(),
            v6: false,
            exchange,
            duration_ms: millis(duration),
            timeout_ms: millis(timeout),
        };
        self.begin(call, duration + timeout)
    }

    /// Begins to keep every frame that comes in by any interface of the peer's namespace; they are asked
    /// for by [`captured`](Peer::captured). What a firewall at the socket layer denies is seen all the
    /// same: this is the wire, not the program.
    pub fn capture(&self) -> Called<Socket> {
        self.call(Call::Capture, LIMIT)
    }

    /// The next captured frame that holds `marker` somewhere.
    pub fn captured(&self, capture: &Socket, marker: &[u8], timeout: Duration) -> Called<Vec<u8>> {
        let call =
            Call::Captured { socket: capture.id, marker: marker.to_vec(), timeout_ms: millis(timeout) };
        self.call(call, timeout).map(|(frame, _): (Vec<u8>, Option<SocketAddr>)| frame)
    }

    /// A packet socket whose every [`send`](Peer::send) is a frame that leaves by this interface; `bypass`
    /// skips the queueing layer (PACKET_QDISC_BYPASS).
    pub fn wire(&self, interface: &str, bypass: bool) -> Called<Socket> {
        self.call(Call::Wire { interface: interface.to_owned(), bypass }, LIMIT)
    }

    /// A raw socket that sends whole IP packets of one's own making (see [`Ip`](super::packet::Ip)), and
    /// receives nothing. The kernel fills in an IPv4 header's length, checksum, and an identification of 0.
    pub fn raw(&self, v6: bool) -> Called<Socket> {
        self.open(Kind::Raw(255), None, v6)
    }

    /// Takes a socket's connection away from it; it can be [connected](Peer::connect_socket) again.
    pub fn disconnect(&self, socket: &Socket) -> Called<()> {
        self.call(Call::Disconnect { socket: socket.id }, LIMIT)
    }

    /// Sends one datagram from an address of the sender's choice; `to` on unconnected sockets.
    pub fn send_from(
        &self,
        socket: &Socket,
        source: std::net::IpAddr,
        data: &[u8],
        to: Option<SocketAddr>,
    ) -> Called<u64> {
        self.call(Call::SendFrom { socket: socket.id, data: data.to_vec(), to, source }, LIMIT)
    }

    /// Hands a socket to another peer, which has it from then on, too; what it is there.
    pub fn hand(&self, socket: &Socket, kind: Kind, to: &Peer) -> Called<Socket> {
        let path = std::env::temp_dir().join(super::names::unique("hand"));
        let take = Call::Take { path: path.clone(), kind, timeout_ms: millis(LIMIT) };
        let taken = to.begin(take, LIMIT);
        let hand = Call::Hand { socket: socket.id, path: path.clone(), timeout_ms: millis(LIMIT) };
        let handed = self.call::<()>(hand, LIMIT);
        let taken = taken.wait();
        let _ = std::fs::remove_file(&path);
        handed?;
        taken
    }

    /// Lets another program, in a cgroup, answer on a listening socket that it inherits.
    pub fn activate(&self, listener: &Socket, cgroup: &Path) -> Called<()> {
        self.call(Call::Activate { socket: listener.id, cgroup: cgroup.to_path_buf() }, LIMIT)
    }

    /// Sends by io_uring; by TCP it connects first.
    pub fn ring(&self, kind: Kind, to: SocketAddr, data: &[u8], timeout: Duration) -> Called<()> {
        self.call(Call::Ring { kind, to, data: data.to_vec(), timeout_ms: millis(timeout) }, timeout)
    }

    /// Begins to open a connection and to play its part of a conversation; with `fast_open` these bytes are
    /// in the SYN.
    pub fn begin_play(
        &self,
        to: SocketAddr,
        fast_open: Option<Vec<u8>>,
        script: Vec<Step>,
        timeout: Duration,
    ) -> Pending<Played> {
        let opening = Opening::Connect { to, fast_open };
        self.begin(Call::Play { opening, script, timeout_ms: millis(timeout) }, timeout)
    }

    /// Begins to wait for a connection to a listener that holds, and to play the other part. Closing the
    /// listener ends the wait.
    pub fn begin_play_accepted(
        &self,
        listener: &Socket,
        script: Vec<Step>,
        timeout: Duration,
    ) -> Pending<Played> {
        let opening = Opening::Accept { listener: listener.id };
        self.begin(Call::Play { opening, script, timeout_ms: millis(timeout) }, timeout)
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

    /// As [`join_cgroup`](Peer::join_cgroup), by its path.
    pub fn join_cgroup_at(&self, path: &Path) -> Called<()> {
        self.call(Call::JoinCgroup { path: path.to_path_buf() }, LIMIT)
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
        Pending::new(response, limit + GRACE)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl From<SocketInfo> for Socket {
    fn from(info: SocketInfo) -> Socket {
        let SocketInfo { socket, local, peer, cookie, elapsed_us } = info;
        Socket { id: socket, local, peer, cookie, elapsed: Duration::from_micros(elapsed_us) }
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

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
