//! A tunnel's TCP connection, below TLS: read in pieces as large as what comes, written as it comes.
//!
//! rustls alone asks for 4 KiB at a time. A buffer stands before it that grows while reads fill it, and that is
//! there only while something is in it: a tunnel that says nothing holds none, and a new one begins with
//! little.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that are read at once, first and last. With more than that at a time fewer calls are made, and the bytes
/// have grown cold in the processor's cache when TLS comes to them, which costs more.
const LEAST: usize = 8 << 10;
const MOST: usize = 64 << 10;

/// See the module's comment.
pub(crate) struct Wire {
    stream: TcpStream,
    /// What was read, and not yet taken.
    read: BytesMut,
    /// Bytes to ask for next.
    size: usize,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, read: BytesMut::new(), size: LEAST }
    }

    /// Reads what is there; whether there was anything, or will be.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.read.reserve(self.size);
        let room = self.read.capacity();
        let polled = {
            let reading = pin!(self.stream.read_buf(&mut self.read));
            reading.poll(context)
        };
        match polled {
            Poll::Pending => {
                self.read = BytesMut::new();
                Poll::Pending
            }
            Poll::Ready(read) => {
                let read = read?;
                if read >= room {
                    self.size = (self.size * 2).min(MOST);
                } else if read < room / 4 {
                    self.size = (self.size / 2).max(LEAST);
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            ready!(self.poll_fill(context))?;
        }
        let taken = self.read.len().min(to.remaining());
        to.put_slice(self.read.get(..taken).unwrap_or_default());
        self.read.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn all_that_comes_is_read_in_pieces_that_grow_and_nothing_is_held_in_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut near = Wire::new(listener.accept().await.unwrap().0);
        let sent: Vec<u8> = (0..8 << 20).map(|at: u32| (at % 251) as u8).collect();
        let mut got = Vec::new();
        let send = async {
            far.write_all(&sent).await.unwrap();
            far
        };
        let receive = async {
            let (mut grown, mut piece) = (LEAST, [0; 4096]);
            while got.len() < sent.len() {
                let read = near.read(&mut piece).await.unwrap();
                assert!(read > 0);
                got.extend_from_slice(&piece[..read]);
                grown = grown.max(near.size);
            }
            grown
        };
        let (mut far, grown) = tokio::join!(send, receive);
        assert!(got == sent, "other bytes came than were sent");
        assert!(grown > LEAST, "reads did not grow");
        let mut byte = [0];
        assert_eq!(look(&mut near, &mut byte).await, None, "nothing was sent");
        assert_eq!(near.read.capacity(), 0, "a buffer is held for nothing");
        far.write_all(b"!").await.unwrap();
        drop(far);
        assert_eq!(near.read(&mut byte).await.unwrap(), 1);
        assert_eq!(near.read(&mut byte).await.unwrap(), 0);
        assert_eq!(look(&mut near, &mut byte).await, Some(0), "the end stays the end");
    }

    /// One look at what can be read.
    async fn look(near: &mut Wire, byte: &mut [u8; 1]) -> Option<usize> {
        let mut reading = pin!(near.read(byte));
        std::future::poll_fn(|context| {
            Poll::Ready(match reading.as_mut().poll(context) {
                Poll::Ready(read) => Some(read.unwrap()),
                Poll::Pending => None,
            })
        })
        .await
    }
}
