//! The channel between the agent and its proxy: one JSON message per packet of a UNIX seqpacket socket,
//! with descriptors beside it.
//!
//! Both ends are ours, but one of them reads strangers' bytes: the agent takes nothing from it for granted.
//! A message that is too long, not understood or cut short ends the channel, and with it the conversation;
//! what was agreed before goes on.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::unix::AsyncFd;
use zeroize::Zeroizing;

/// Longest message in bytes: what a socket's buffer takes by default (`net.core.wmem_default`), with room.
pub const LONGEST: usize = 128 * 1024;
/// Most descriptors beside one message (the kernel's own bound is 253).
pub const MOST_DESCRIPTORS: usize = 64;

/// One end. Cheap to share by reference: sending and receiving take `&self`.
#[derive(Debug)]
pub struct Channel {
    fd: AsyncFd<OwnedFd>,
}

/// What came.
pub type Received<M> = Option<(M, Vec<OwnedFd>)>;

impl Channel {
    /// A channel over a connected seqpacket socket. Within a runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { fd: watched(socket)? })
    }

    /// The socket.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends a message, and `descriptors` with it; waits while the other end is behind. EMSGSIZE for a
    /// message of more than [`LONGEST`] bytes or more than [`MOST_DESCRIPTORS`] descriptors.
    pub async fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = encode(message)?;
        if bytes.len() > LONGEST || descriptors.len() > MOST_DESCRIPTORS {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        loop {
            let mut ready = self.fd.writable().await?;
            match ready.try_io(|fd| push(fd.as_fd(), &bytes, descriptors)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// The next message; `None` when the other end has closed. Only one task may receive at a time.
    pub async fn receive<M: DeserializeOwned>(&self) -> io::Result<Received<M>> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.try_io(|fd| pull(fd.as_fd())) {
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some((bytes, descriptors)))) => {
                    return Ok(Some((serde_json::from_slice(&bytes)?, descriptors)));
                }
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

/// A descriptor that the runtime tells about, and that does not block.
pub fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    // Deprecated because some types may give up their descriptor under the runtime's hands, which an
    // `OwnedFd` behind a shared reference never does; what replaces it is not safe.
    #[allow(deprecated)]
    AsyncFd::new(fd)
}

/// Sends a message without a runtime; for the moments before there is one.
pub fn send_now(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    push(socket, &encode(message)?, descriptors)
}

/// The next message, without a runtime; TIMEDOUT if none comes within `patience`.
pub fn receive_within<M: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    patience: Duration,
) -> io::Result<Received<M>> {
    let mut wait = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    if rustix::event::poll(&mut wait, Some(&patience))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    match pull(socket)? {
        Some((bytes, descriptors)) => Ok(Some((serde_json::from_slice(&bytes)?, descriptors))),
        None => Ok(None),
    }
}

/// Keys may be among it: the buffer never grows, which would leave a copy behind, and is wiped.
fn encode(message: &impl Serialize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST));
    serde_json::to_writer(&mut *bytes, message)?;
    Ok(bytes)
}

fn push(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL)?;
    // A packet goes whole or not at all.
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn pull(socket: BorrowedFd<'_>) -> io::Result<Received<Zeroizing<Vec<u8>>>> {
    let mut bytes = Zeroizing::new(vec![0; LONGEST]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let came =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes.as_mut_slice())], &mut beside, flags)?;
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if came.bytes == 0 {
        return Ok(None);
    }
    if came.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message was cut short"));
    }
    bytes.truncate(came.bytes);
    Ok(Some((bytes, descriptors)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;

    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        (Channel::new(one).unwrap(), Channel::new(other).unwrap())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn messages_and_descriptors_arrive_together() {
        let (one, other) = pair();
        let file = File::open("/proc/self/comm").unwrap();
        one.send(&("with", 1), &[file.as_fd(), file.as_fd()]).await.unwrap();
        one.send(&("without", 2), &[]).await.unwrap();
        let ((word, number), descriptors): ((String, u32), _) = other.receive().await.unwrap().unwrap();
        assert_eq!((word.as_str(), number, descriptors.len()), ("with", 1, 2));
        let mut text = String::new();
        File::from(descriptors.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
        assert!(!text.is_empty());
        let ((word, _), descriptors): ((String, u32), _) = other.receive().await.unwrap().unwrap();
        assert_eq!((word.as_str(), descriptors.len()), ("without", 0));
        drop(one);
        assert!(other.receive::<u32>().await.unwrap().is_none(), "closed");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_not_understood_is_an_error() {
        let (one, other) = pair();
        one.send(&"words", &[]).await.unwrap();
        assert!(other.receive::<u32>().await.is_err());
        let error = one.send(&"x".repeat(LONGEST), &[]).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_sends_too_fast_waits() {
        let (one, other) = pair();
        let text = "x".repeat(LONGEST / 2);
        let send = async {
            for _ in 0..64 {
                one.send(&text, &[]).await.unwrap();
            }
        };
        let receive = async {
            for _ in 0..64 {
                assert!(other.receive::<String>().await.unwrap().is_some());
            }
        };
        tokio::join!(send, receive);
    }
}
