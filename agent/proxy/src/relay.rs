//! Bytes between a program's connection and a stream of a tunnel, both ways at once, until both ends have
//! said all or one breaks off. Half-closes are carried through; nothing is read ahead of what the other
//! side takes.

use std::io;

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::books::{Direction, Entry};
use crate::end::{self, End, Outcome};

/// A stream of a tunnel, both ways.
pub(crate) struct Stream {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) receive: RecvStream,
}

/// Why one way ended before its time.
enum Broken {
    /// The program's connection.
    Program(io::Error),
    /// The tunnel.
    Tunnel(h2::Error),
}

/// Copies until the end. The program's connection is left to the caller, who knows whether to reset it.
pub(crate) async fn run(program: &mut TcpStream, stream: &mut Stream, entry: &Entry, chunk: usize) -> End {
    let direction = entry.direction();
    let (read, write) = program.split();
    let outgoing = to_tunnel(read, &mut stream.send, chunk, |bytes| match direction {
        Direction::Outbound => entry.sent(bytes),
        Direction::Inbound => entry.received(bytes),
    });
    let incoming = to_program(write, &mut stream.receive, |bytes| match direction {
        Direction::Outbound => entry.received(bytes),
        Direction::Inbound => entry.sent(bytes),
    });
    match tokio::try_join!(outgoing, incoming) {
        Ok(_) => End::CLOSED,
        Err(Broken::Program(error)) if end::is_reset(&error) => {
            End::new(Outcome::Reset, format!("the program broke its connection off: {error}"))
        }
        Err(Broken::Program(error)) => {
            End::new(Outcome::Reset, format!("the program's connection was lost: {error}"))
        }
        Err(Broken::Tunnel(error)) if error.is_reset() => {
            let whose = match direction {
                Direction::Outbound => "server",
                Direction::Inbound => "client",
            };
            End::new(Outcome::Reset, format!("the {whose}'s side broke the connection off: {error}"))
        }
        Err(Broken::Tunnel(error)) => {
            End::new(Outcome::TunnelLost, format!("the tunnel was lost: {}", end::http2(&error).text))
        }
    }
}

/// Tells the other proxy how it ended, where that has not been told by the bytes themselves.
pub(crate) fn tell(stream: &mut Stream, end: &End) {
    if end.resets() {
        // What the program's reset becomes on the other side (RFC 9113, section 8.5).
        stream.send.send_reset(Reason::CONNECT_ERROR);
    }
}

async fn to_tunnel(
    program: ReadHalf<'_>,
    send: &mut SendStream<Bytes>,
    chunk: usize,
    count: impl Fn(usize),
) -> Result<(), Broken> {
    let mut buffer = BytesMut::new();
    loop {
        // No buffer is held while nothing is said.
        program.readable().await.map_err(Broken::Program)?;
        buffer.reserve(chunk);
        match program.try_read_buf(&mut buffer) {
            Ok(0) => return send.send_data(Bytes::new(), true).map_err(Broken::Tunnel),
            Ok(read) => {
                let bytes = buffer.split_to(read).freeze();
                if read < chunk / 4 {
                    // Little is said: a large buffer is not kept for it.
                    buffer = BytesMut::new();
                }
                push(send, bytes).await?;
                count(read);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => buffer = BytesMut::new(),
            Err(error) => return Err(Broken::Program(error)),
        }
    }
}

/// Sends all of it, as the peer's window lets us.
async fn push(send: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), Broken> {
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|context| send.poll_capacity(context)).await;
        match room {
            Some(Ok(0)) => {}
            Some(Ok(room)) => {
                let part = bytes.split_to(room.min(bytes.len()));
                send.send_data(part, false).map_err(Broken::Tunnel)?;
            }
            Some(Err(error)) => return Err(Broken::Tunnel(error)),
            None => return Err(Broken::Tunnel(Reason::STREAM_CLOSED.into())),
        }
    }
    Ok(())
}

async fn to_program(
    mut program: WriteHalf<'_>,
    receive: &mut RecvStream,
    count: impl Fn(usize),
) -> Result<(), Broken> {
    while let Some(bytes) = receive.data().await {
        let bytes = bytes.map_err(Broken::Tunnel)?;
        program.write_all(&bytes).await.map_err(Broken::Program)?;
        count(bytes.len());
        // Only what the program took makes room for more.
        receive.flow_control().release_capacity(bytes.len()).map_err(Broken::Tunnel)?;
    }
    // Trailers mean nothing to a program's bytes, and are let go by.
    receive.trailers().await.map_err(Broken::Tunnel)?;
    match program.shutdown().await {
        Ok(()) => Ok(()),
        // It has gone already, and has heard all.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        Err(error) => Err(Broken::Program(error)),
    }
}
