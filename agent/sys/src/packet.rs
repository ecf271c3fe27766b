//! Packet sockets (packet(7)): whole frames, sent and seen past the socket layer. For tests, which must
//! send what no honest program sends, and see what really is on a wire.
//!
//! A socket belongs to the network namespace of the thread that makes it, and to its cgroup.

use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::{Error, Result};

/// Not in libc: include/uapi/linux/if_packet.h, since Linux 4.20.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// A socket that receives every frame that comes in by any interface of the namespace, none of those
/// that go out. Non-blocking. Its queue is the largest that one may ask for.
///
/// Errors: socket (EPERM without CAP_NET_RAW), setsockopt.
pub fn capture() -> Result<OwnedFd> {
    let every = (libc::ETH_P_ALL as u16).to_be();
    let socket = socket(libc::c_int::from(every))?;
    set(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 4 << 20)?;
    Ok(socket)
}

/// A socket whose every `send` is a frame that leaves by the interface with this index; it receives
/// nothing. With `bypass` the frame skips the queueing layer, and with it what is attached there
/// (PACKET_QDISC_BYPASS). Non-blocking.
///
/// Errors: socket (EPERM without CAP_NET_RAW), setsockopt, bind (ENODEV).
pub fn sender(interface: u32, bypass: bool) -> Result<OwnedFd> {
    let socket = socket(0)?;
    if bypass {
        set(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
    }
    // SAFETY: plain bytes, for which zeroes are a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = interface.cast_signed();
    let length = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is a sockaddr_ll of that length.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
        return Err(Error::last("bind"));
    }
    Ok(socket)
}

fn socket(protocol: libc::c_int) -> Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers are passed.
    let socket = unsafe { libc::socket(libc::AF_PACKET, kind, protocol) };
    if socket < 0 {
        return Err(Error::last("socket"));
    }
    // SAFETY: the kernel just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

fn set(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> Result<()> {
    let length = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: `value` is an integer of that length.
    let status =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if status == 0 { Ok(()) } else { Err(Error::last("setsockopt")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::testing::{ip, netns, root};

    #[test]
    fn a_frame_is_seen_at_the_other_end_and_only_there() {
        if !root("a_frame_is_seen_at_the_other_end_and_only_there") {
            return;
        }
        let ns = netns();
        ip(&ns, "link add name near type veth peer name far");
        ip(&ns, "link set near up");
        ip(&ns, "link set far up");
        for bypass in [false, true] {
            let (capture, sender) = ns
                .run(|| {
                    // SAFETY: the name is terminated.
                    let index = unsafe { libc::if_nametoindex(c"near".as_ptr()) };
                    (capture().unwrap(), sender(index, bypass).unwrap())
                })
                .unwrap();
            let frame = [&[0xff; 12][..], &[0x88, 0xb5], b"bulkhead"].concat();
            std::fs::File::from(sender).write_all(&frame).unwrap();
            let mut capture = std::fs::File::from(capture);
            let mut seen = 0;
            crate::testing::eventually("the frame", || {
                let mut buffer = [0; 2048];
                let mut capture = &capture;
                capture.read(&mut buffer).is_ok_and(|got| buffer.starts_with(&frame) && got == frame.len())
            });
            let mut buffer = [0; 2048];
            while capture.read(&mut buffer).is_ok() {
                seen += u32::from(buffer.starts_with(&frame));
            }
            assert_eq!(seen, 0, "once, at the far end");
        }
    }
}
