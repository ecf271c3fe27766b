//! Bytes between a program's connection and a stream of a tunnel, both ways at once, until both ends have
//! said all or one breaks off. Half-closes are carried through; nothing is read ahead of what the other
//! side takes.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::books::{Direction, Entry};
use crate::end::{self, End, Outcome};
use crate::socket;

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
    /// The other side, after it had said all.
    Peer(Reason),
}

/// Copies until the end. The program's connection is left to the caller, who knows whether to reset it.
pub(crate) async fn run(program: &mut TcpStream, stream: &mut Stream, entry: &Entry, chunk: usize) -> End {
    let direction = entry.direction();
    let (read, write) = program.split();
    // Whether the program has said all, and the other side.
    let (program_done, peer_done) = (AtomicBool::new(false), AtomicBool::new(false));
    // Both are pinned where they are made: a future that is handed on by value has its room twice.
    let outgoing = pin!(to_tunnel(read, &mut stream.send, &peer_done, chunk, |bytes| match direction {
        Direction::Outbound => entry.sent(bytes),
        Direction::Inbound => entry.received(bytes),
    }));
    let incoming = pin!(to_program(write, &mut stream.receive, &program_done, |bytes| match direction {
        Direction::Outbound => entry.received(bytes),
        Direction::Inbound => entry.sent(bytes),
    }));
    match both((outgoing, &program_done), (incoming, &peer_done)).await {
        Ok(()) => End::CLOSED,
        Err(Broken::Peer(reason)) => {
            End::new(Outcome::Reset, format!("the other side broke the connection off: {reason}"))
        }
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

/// Both ways to their ends. Whoever is still at work then looks also at what the other one no longer reads: a
/// half-closed connection may still be broken off, and nobody else would notice.
async fn both(
    (mut outgoing, program_done): (Pin<&mut impl Future<Output = Result<(), Broken>>>, &AtomicBool),
    (mut incoming, peer_done): (Pin<&mut impl Future<Output = Result<(), Broken>>>, &AtomicBool),
) -> Result<(), Broken> {
    tokio::select! {
        done = &mut outgoing => {
            done?;
            program_done.store(true, Ordering::Relaxed);
            incoming.await
        }
        done = &mut incoming => {
            done?;
            peer_done.store(true, Ordering::Relaxed);
            outgoing.await
        }
    }
}

/// Waits for what `make` makes, but only once `done`; whoever sets that polls again. Few come to it, and those
/// who do not hold no room for it.
async fn once<F: Future>(done: &AtomicBool, make: impl Fn() -> F) -> F::Output {
    let mut what = None;
    poll_fn(|context| {
        if done.load(Ordering::Relaxed) {
            what.get_or_insert_with(|| Box::pin(make())).as_mut().poll(context)
        } else {
            Poll::Pending
        }
    })
    .await
}

/// The error of a connection that is not read any more.
async fn lost(program: &WriteHalf<'_>) -> Broken {
    match program.ready(Interest::ERROR).await.and_then(|_| program.as_ref().take_error()) {
        Ok(Some(error)) | Err(error) => Broken::Program(error),
        // It was told to whoever wrote.
        Ok(None) => std::future::pending().await,
    }
}

/// Ends both sides as `end` says, where the bytes themselves have not told it, and closes its entry in the books.
pub(crate) fn finish(program: TcpStream, mut stream: Stream, entry: Entry, end: End) {
    if end.resets() {
        // What the program's reset becomes on the other side (RFC 9113, section 8.5). The program's socket is
        // held so that it is reset when it is dropped.
        stream.send.send_reset(Reason::CONNECT_ERROR);
    } else {
        socket::finish(program);
    }
    entry.close(end);
}

async fn to_tunnel(
    mut program: ReadHalf<'_>,
    send: &mut SendStream<Bytes>,
    peer_done: &AtomicBool,
    chunk: usize,
    count: impl Fn(usize),
) -> Result<(), Broken> {
    let mut buffer = BytesMut::new();
    loop {
        // No buffer is held while nothing is said.
        tokio::select! {
            biased;
            readable = program.readable() => readable.map_err(Broken::Program)?,
            reset = poll_fn(|context| {
                if peer_done.load(Ordering::Relaxed) { send.poll_reset(context) } else { Poll::Pending }
            }) => {
                return Err(reset.map_or_else(Broken::Tunnel, Broken::Peer));
            }
        }
        buffer.reserve(chunk);
        match read_now(&mut program, &mut buffer).await {
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

/// Reads what is there, or says `WouldBlock`. Unlike `try_read_buf` it takes a read that does not fill the
/// buffer for the last one there is, which saves asking the kernel once more after each message.
async fn read_now(program: &mut ReadHalf<'_>, buffer: &mut BytesMut) -> io::Result<usize> {
    let mut reading = pin!(program.read_buf(buffer));
    poll_fn(|context| match reading.as_mut().poll(context) {
        Poll::Pending => Poll::Ready(Err(io::ErrorKind::WouldBlock.into())),
        ready => ready,
    })
    .await
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
    program_done: &AtomicBool,
    count: impl Fn(usize),
) -> Result<(), Broken> {
    loop {
        let next = tokio::select! {
            biased;
            next = receive.data() => next,
            broken = once(program_done, || lost(&program)) => return Err(broken),
        };
        let Some(bytes) = next else { break };
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
