//! The channel between the agent and its proxy: one JSON message per packet of a UNIX seqpacket socket,
//! with descriptors beside it. A message that is too long for a packet (lists of what is revoked, of
//! connections) goes as a sealed file in memory, and the packet says how long it is.
//!
//! Both ends are ours, but one of them reads strangers' bytes: the agent takes nothing from it for granted.
//! A message that is too long, not understood or cut short ends the channel, and with it the conversation;
//! what was agreed before goes on.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::unix::AsyncFd;
use zeroize::Zeroizing;

/// Longest packet in bytes: what a socket's buffer takes by default (`net.core.wmem_default`), with room.
pub const PACKET: usize = 128 * 1024;
/// Longest message in bytes.
pub const LONGEST: usize = 64 << 20;
/// What a packet begins with whose message is in the file beside it: JSON never does.
const IN_FILE: u8 = 0;
/// Nobody can change such a file, nor cut it, while it is read (memfd_create(2)).
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::WRITE).union(SealFlags::GROW).union(SealFlags::SHRINK);
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
    /// message of more than [`LONGEST`] bytes or more than [`MOST_DESCRIPTORS`] descriptors; one that is longer
    /// than a [`PACKET`] takes one descriptor for itself.
    pub async fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let packet = Packet::of(message, descriptors)?;
        loop {
            let mut ready = self.fd.writable().await?;
            match ready.try_io(|fd| packet.push(fd.as_fd())) {
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
                Ok(Ok(Some((bytes, descriptors)))) => return Ok(Some(decode(&bytes, descriptors)?)),
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
    Packet::of(message, descriptors)?.push(socket)
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
        Some((bytes, descriptors)) => decode(&bytes, descriptors).map(Some),
        None => Ok(None),
    }
}

/// A message as it is sent.
struct Packet<'a> {
    bytes: Zeroizing<Vec<u8>>,
    file: Option<OwnedFd>,
    descriptors: &'a [BorrowedFd<'a>],
}

impl<'a> Packet<'a> {
    fn of(message: &impl Serialize, descriptors: &'a [BorrowedFd<'a>]) -> io::Result<Self> {
        let too_long = || io::Error::from_raw_os_error(libc::EMSGSIZE);
        let mut length = Length(0);
        serde_json::to_writer(&mut length, message)?;
        let Length(length) = length;
        // Keys may be among it: the buffer never grows, which would leave a copy behind, and is wiped.
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        serde_json::to_writer(&mut *bytes, message)?;
        let whole = length <= PACKET;
        if length > LONGEST || descriptors.len() + usize::from(!whole) > MOST_DESCRIPTORS {
            return Err(too_long());
        }
        if whole {
            return Ok(Self { bytes, file: None, descriptors });
        }
        let file = memfd_create("bulkhead-message", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut file = File::from(file);
        file.write_all(&bytes)?;
        fcntl_add_seals(&file, SEALS)?;
        let mut packet = vec![IN_FILE];
        packet.extend_from_slice(&length.to_le_bytes());
        Ok(Self { bytes: Zeroizing::new(packet), file: Some(file.into()), descriptors })
    }

    fn push(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        // The message's own file is the first.
        let all: Vec<BorrowedFd<'_>> =
            self.file.iter().map(AsFd::as_fd).chain(self.descriptors.iter().copied()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !all.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(&all)) {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        let sent =
            rustix::net::sendmsg(socket, &[IoSlice::new(&self.bytes)], &mut beside, SendFlags::NOSIGNAL)?;
        // A packet goes whole or not at all.
        if sent == self.bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

/// Counts what is written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The message in a packet, or in the file that it speaks of.
fn decode<M: DeserializeOwned>(
    packet: &[u8],
    mut descriptors: Vec<OwnedFd>,
) -> io::Result<(M, Vec<OwnedFd>)> {
    let Some((&IN_FILE, length)) = packet.split_first() else {
        return Ok((serde_json::from_slice(packet)?, descriptors));
    };
    let bad = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let length = length.try_into().map(usize::from_le_bytes);
    let length = length.ok().filter(|length| *length <= LONGEST).ok_or_else(|| bad("a message's length"))?;
    if descriptors.is_empty() {
        return Err(bad("a long message without its file"));
    }
    let file = File::from(descriptors.remove(0));
    // Only a file in memory has seals, and reading one that is sealed neither waits nor changes.
    if !fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALS)) {
        return Err(bad("a long message in a file that is not sealed"));
    }
    let mut bytes = Zeroizing::new(vec![0; length]);
    file.read_exact_at(&mut bytes, 0)?;
    Ok((serde_json::from_slice(&bytes)?, descriptors))
}

fn pull(socket: BorrowedFd<'_>) -> io::Result<Received<Zeroizing<Vec<u8>>>> {
    // How long it is; a buffer that holds the longest would be wiped whole for each.
    let (_, length) = rustix::net::recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::TRUNC)?;
    let mut bytes = Zeroizing::new(vec![0; length.clamp(1, PACKET)]);
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
    async fn what_fits_no_packet_arrives_all_the_same() {
        let (one, other) = pair();
        let file = File::open("/proc/self/comm").unwrap();
        for length in [PACKET - 2, PACKET - 1, 3 << 20] {
            let text = "x".repeat(length);
            one.send(&text, &[file.as_fd()]).await.unwrap();
            let (came, descriptors): (String, _) = other.receive().await.unwrap().unwrap();
            assert_eq!((came.len(), descriptors.len()), (length, 1));
            assert!(came == text);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_file_that_may_change_is_not_read() {
        let (one, other) = pair();
        let mut packet = vec![IN_FILE];
        packet.extend_from_slice(&3usize.to_le_bytes());
        let open = memfd_create("open", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::io::write(&open, b"\"a\"").unwrap();
        for file in [open, File::open("/proc/self/comm").unwrap().into()] {
            let packet = Packet { bytes: Zeroizing::new(packet.clone()), file: Some(file), descriptors: &[] };
            packet.push(one.socket()).unwrap();
            let error = other.receive::<String>().await.unwrap_err();
            assert!(error.to_string().contains("not sealed"), "{error}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_not_understood_is_an_error() {
        let (one, other) = pair();
        one.send(&"words", &[]).await.unwrap();
        assert!(other.receive::<u32>().await.is_err());
        let error = one.send(&"x".repeat(LONGEST - 1), &[]).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_sends_too_fast_waits() {
        let (one, other) = pair();
        let text = "x".repeat(PACKET / 2);
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
