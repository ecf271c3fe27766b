//! What a test and its peers say to each other: one JSON value a line, requests on the peer's
//! standard input, responses on its standard output, in any order.
//!
//! A request is answered when its work is done; several may be under way. Times are microseconds
//! of the peer's own clock, so they do not hold what this protocol itself costs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One request.
#[derive(Serialize, Deserialize, Debug)]
pub struct Request {
    /// Comes back in the response.
    pub id: u64,
    /// What to do.
    pub call: Call,
}

/// What a request came to.
#[derive(Serialize, Deserialize, Debug)]
pub struct Response {
    /// Of the request.
    pub id: u64,
    /// The answer, or why there is none.
    pub result: Result<Answer, Failure>,
}

/// Kind of socket.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// TCP.
    Tcp,
    /// Multipath TCP.
    Mptcp,
    /// UDP.
    Udp,
    /// A raw socket of this protocol number; IPv4 packets are received with their header.
    Raw(u8),
    /// An ICMP datagram ("ping") socket.
    Ping,
    /// A packet socket, which only [`Call::Capture`] and [`Call::Wire`] make.
    Packet,
}

/// What a listening socket does by itself.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serve {
    /// Nothing: connections and datagrams wait to be asked for.
    Hold,
    /// Sends everything back.
    Echo,
    /// Reads everything and counts it.
    Sink,
}

/// A request. Sockets are named by the number that made them known.
#[expect(missing_docs, reason = "the variant says it; the fields are named after what they are")]
#[derive(Serialize, Deserialize, Debug)]
pub enum Call {
    /// Binds (and listens, where the kind does that) at an address; port 0 chooses a free one.
    Listen { kind: Kind, at: SocketAddr, serve: Serve },
    /// A socket that is not connected.
    Open { kind: Kind, bind: Option<SocketAddr>, v6: bool },
    /// A socket that is connected to an address.
    Connect {
        kind: Kind,
        to: SocketAddr,
        bind: Option<SocketAddr>,
        v6: bool,
        fast_open: Option<Vec<u8>>,
        timeout_ms: u64,
    },
    /// Connects a socket that is there already.
    Dial { socket: u64, to: SocketAddr, timeout_ms: u64 },
    /// The next connection of a listener that holds.
    Accept { socket: u64, timeout_ms: u64 },
    /// Sends once, to an address on unconnected sockets.
    Send { socket: u64, data: Vec<u8>, to: Option<SocketAddr> },
    /// Receives once: what is there, at most `max` bytes; nothing at the end of a stream.
    Recv { socket: u64, max: usize, timeout_ms: u64 },
    /// Sends `size` bytes to an echo and waits for them, `count` times; the limit is for each.
    Exchange { socket: u64, count: u64, size: usize, to: Option<SocketAddr>, timeout_ms: u64 },
    /// Sends to an echo without pause for a while, checks every byte of what comes back, then ends
    /// the stream and waits for its end.
    Stream { socket: u64, duration_ms: u64, timeout_ms: u64 },
    /// Waits until the socket has an error or its stream ends.
    Ended { socket: u64, timeout_ms: u64 },
    /// ICMP echo requests of `size` bytes, one after the other; the limit is for each.
    Ping { to: SocketAddr, bind: Option<SocketAddr>, raw: bool, count: u64, size: usize, timeout_ms: u64 },
    /// Connects as fast as it can, to each target in turn, for a while.
    ConnectLoop {
        kind: Kind,
        targets: Vec<SocketAddr>,
        v6: bool,
        exchange: bool,
        duration_ms: u64,
        timeout_ms: u64,
    },
    /// Begins to keep every frame that comes in by any interface of the namespace.
    Capture,
    /// The next of these frames that holds `marker`.
    Captured { socket: u64, marker: Vec<u8>, timeout_ms: u64 },
    /// A socket whose every send is a frame by this interface; `bypass` skips the queueing layer.
    Wire { interface: String, bypass: bool },
    /// Takes a socket's connection away from it (`connect` to `AF_UNSPEC`); it can be connected again.
    Disconnect { socket: u64 },
    /// Sends one datagram from an address of the sender's choice (`IP_PKTINFO`).
    SendFrom { socket: u64, data: Vec<u8>, to: Option<SocketAddr>, source: IpAddr },
    /// Hands a socket to the peer that [`Call::Take`]s at this path.
    Hand { socket: u64, path: PathBuf, timeout_ms: u64 },
    /// Waits at a path for a socket that another peer hands over.
    Take { path: PathBuf, kind: Kind, timeout_ms: u64 },
    /// Starts another program in a cgroup, which answers on this listening socket as an echo; the socket
    /// is inherited, as by socket activation. It ends with the peer.
    Activate { socket: u64, cgroup: PathBuf },
    /// Sends to an address by io_uring alone; by TCP it connects first.
    Ring { kind: Kind, to: SocketAddr, data: Vec<u8>, timeout_ms: u64 },
    /// Plays one end of a conversation by TCP; the connection ends with it.
    Play { opening: Opening, script: Vec<Step>, timeout_ms: u64 },
    /// What a listening socket has seen so far.
    Served { socket: u64 },
    /// Closes a socket; with `reset` a TCP connection is not ended in order but reset.
    Close { socket: u64, reset: bool },
    /// Moves the peer into another cgroup; its sockets stay in the one they were made in.
    JoinCgroup { path: PathBuf },
}

/// What a call came to.
#[expect(missing_docs, reason = "the variant says it")]
#[derive(Serialize, Deserialize, Debug)]
pub enum Answer {
    /// A new socket.
    Socket(SocketInfo),
    /// Sent this much.
    Sent(u64),
    /// Received this.
    Data { data: Vec<u8>, from: Option<SocketAddr> },
    /// For exchanges and pings.
    Exchanged(Exchanged),
    /// For streams.
    Streamed(Streamed),
    /// How a socket ended.
    Ended(Ended),
    /// For connect loops, a count for each target.
    Loop(Vec<LoopCount>),
    /// For listening sockets.
    Served(Served),
    /// For played conversations.
    Played(Played),
    /// Done.
    Done,
}

/// A socket of a peer.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketInfo {
    /// Its name in calls.
    pub socket: u64,
    /// Its own address.
    pub local: SocketAddr,
    /// The other end's, when it is connected.
    pub peer: Option<SocketAddr>,
    /// The kernel's cookie for it.
    pub cookie: u64,
    /// How long making it took.
    pub elapsed_us: u64,
}

/// Questions and answers, all of them right.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exchanged {
    /// How many.
    pub count: u64,
    /// All together.
    pub elapsed_us: u64,
    /// The slowest one.
    pub slowest_us: u64,
}

/// A transfer whose every byte came back right.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Streamed {
    /// Bytes in one direction.
    pub bytes: u64,
    /// All together.
    pub elapsed_us: u64,
    /// The longest time in which nothing came back.
    pub longest_gap_us: u64,
}

/// How a socket ended.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// The error's number; `None`: the other end closed in order.
    pub errno: Option<i32>,
    /// How long it took from the call.
    pub elapsed_us: u64,
}

/// What became of the connects to one target.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct LoopCount {
    /// The target.
    pub to: SocketAddr,
    /// Those that worked, with their exchange when one was asked for.
    pub ok: u64,
    /// Those that failed, by error number.
    pub errors: BTreeMap<i32, u64>,
    /// Those that were given up.
    pub timeouts: u64,
    /// The slowest that worked.
    pub slowest_us: u64,
    /// The first of those that failed.
    pub failed: Vec<Failed>,
}

/// A connect, or its question, that came to nothing.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failed {
    /// The socket's own port; 0 where it had none.
    pub port: u16,
    /// When it began, in nanoseconds of `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// The error's number; `None` where nobody answered.
    pub errno: Option<i32>,
}

/// What a listening socket has seen: proof that something did, or did not, arrive.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Served {
    /// Connections.
    pub accepted: u64,
    /// Reads that brought something: datagrams, or pieces of streams.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
    /// Answers that the kernel did not take.
    pub refused: u64,
}

/// How a played conversation begins.
#[expect(missing_docs, reason = "the variant says it; the fields are named after what they are")]
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Opening {
    /// It opens, with these bytes in the SYN where there are some.
    Connect { to: SocketAddr, fast_open: Option<Vec<u8>> },
    /// It is opened to.
    Accept { listener: u64 },
}

/// A step of a played conversation.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Sends, as one segment if it fits one.
    Send(Vec<u8>),
    /// Waits until so many more bytes have come.
    Receive(usize),
}

/// What became of a played conversation.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Default, Debug)]
pub struct Played {
    /// There was a connection.
    pub connected: bool,
    /// Every step was done.
    pub complete: bool,
    /// The error that ended it; none when it is complete, or when the other end closed in order.
    pub errno: Option<i32>,
    /// All that came.
    pub received: Vec<u8>,
}

/// Why a call has no answer.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Failure {
    /// The cause.
    pub cause: Cause,
    /// When, after the work began.
    pub elapsed_us: u64,
    /// Exchanges, pings or bytes that had been right until then.
    pub done: u64,
}

/// Cause of a failure.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The kernel's error number.
    Os(i32),
    /// The call's own time limit.
    Timeout,
    /// The other end closed in order where more was due.
    Closed,
    /// What came back is not what was sent, or the call makes no sense for the socket.
    Wrong(String),
}
