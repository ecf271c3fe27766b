//! Limits and times.

use std::time::Duration;

use crate::gate::Limits;

/// Most connections in a tunnel that we dial; of those that we are dialled by, twice as many.
const STREAMS: u32 = 100;
/// At 50 ms from end to end, this lets one connection carry 320 Mbit/s. Between neighbours half of it costs
/// some 5 % more CPU per byte, since both ends wait for one another more often.
const STREAM_WINDOW: u32 = 2 << 20;
/// Bytes of a TLS record's content (RFC 8446, section 5.1).
const RECORD: usize = 16 << 10;
/// Bytes of an HTTP/2 frame's head (RFC 9113, section 4.1).
const FRAME_HEAD: usize = 9;
const CHUNK: usize = 8 * RECORD - FRAME_HEAD;

/// How the proxy works. The defaults are right for a node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is refused beyond them.
    pub limits: Limits,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How long dialling may take: a tunnel's TCP connection, and a last hop's.
    pub dial: Duration,
    /// How long the other proxy may take to answer a CONNECT.
    pub answer: Duration,
    /// Most connections in one tunnel.
    pub streams: usize,
    /// A tunnel that carries nothing is closed after so long.
    pub idle: Duration,
    /// Time between two PINGs.
    pub ping: Duration,
    /// How long a PING's answer may take before the tunnel is given up.
    pub pong: Duration,
    /// Bytes that one connection may be ahead of its reader (HTTP/2 stream window): what a reader that
    /// stalls makes us hold.
    pub stream_window: u32,
    /// Bytes that one tunnel may be ahead of its readers (HTTP/2 connection window). Smaller than all its
    /// streams' windows together, readers that stall would stall their neighbours too.
    pub tunnel_window: u32,
    /// Largest HTTP/2 frame that is taken, in bytes.
    pub frame: u32,
    /// Most bytes that are read from a program at once. With the head of the frame that they become, they
    /// fill whole TLS records.
    pub chunk: usize,
    /// Bytes that may wait in HTTP/2 for their turn, of one connection. More than two chunks only grow cold
    /// in the processor's cache until they are encrypted.
    pub unsent: usize,
    /// A tunnel's port.
    pub tunnel_port: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            handshake: Duration::from_secs(10),
            dial: Duration::from_secs(5),
            answer: Duration::from_secs(15),
            streams: STREAMS as usize,
            idle: Duration::from_secs(300),
            ping: Duration::from_secs(10),
            pong: Duration::from_secs(20),
            stream_window: STREAM_WINDOW,
            tunnel_window: STREAM_WINDOW * STREAMS,
            frame: 1 << 20,
            chunk: CHUNK,
            unsent: 2 * (CHUNK + FRAME_HEAD),
            tunnel_port: crate::TUNNEL_PORT,
        }
    }
}
