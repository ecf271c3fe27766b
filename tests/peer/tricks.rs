//! What attackers and service managers do with sockets, and ordinary programs seldom: another source
//! address, a socket that is handed on or inherited, io_uring instead of system calls.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_tests::harness::protocol::{Kind, Serve};
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage};
use rustix::event::PollFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt,
};

use crate::serve;
use crate::sockets::{Fault, Socket, any, in_family, wait};

/// Sends one datagram from `source`, which must be the host's.
pub(crate) fn send_from(
    socket: &Socket,
    data: &[u8],
    to: Option<SocketAddr>,
    source: IpAddr,
) -> Result<u64, Fault> {
    let v6 = sockopt::socket_domain(&socket.fd)? == rustix::net::AddressFamily::INET6;
    let to = to.map(|to| SockaddrStorage::from(in_family(to, v6)));
    let data = [IoSlice::new(data)];
    let fd = socket.fd.as_raw_fd();
    let send = |control: ControlMessage<'_>| {
        nix::sys::socket::sendmsg(fd, &data, &[control], MsgFlags::MSG_NOSIGNAL, to.as_ref())
    };
    let sent = match in_family(SocketAddr::new(source, 0), v6).ip() {
        IpAddr::V4(source) => send(ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        })),
        IpAddr::V6(source) => send(ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
            ipi6_ifindex: 0,
        })),
    };
    let sent = sent.map_err(|errno| Fault::from(rustix::io::Errno::from_raw_os_error(errno as i32)))?;
    Ok(u64::try_from(sent).unwrap_or(u64::MAX))
}

/// Hands the socket to whoever waits at `path`.
pub(crate) fn hand(socket: &Socket, path: &Path, deadline: Instant) -> Result<(), Fault> {
    let stream = loop {
        match UnixStream::connect(path) {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => return Err(broken(&error)),
        }
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let handed = [socket.fd.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&handed)) {
        return Err(Fault::wrong("no room for a descriptor"));
    }
    sendmsg(&stream, &[IoSlice::new(b"!")], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Waits at `path` for a socket.
pub(crate) fn take(path: &Path, deadline: Instant) -> Result<OwnedFd, Fault> {
    let listener = UnixListener::bind(path).map_err(|error| broken(&error))?;
    wait(&listener, PollFlags::IN, deadline)?;
    let (stream, _) = listener.accept().map_err(|error| broken(&error))?;
    wait(&stream, PollFlags::IN, deadline)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut buffers = [std::io::IoSliceMut::new(&mut byte)];
    recvmsg(&stream, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let handed = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    handed.ok_or_else(|| Fault::wrong("no descriptor came"))
}

/// Starts a program in a cgroup that inherits the socket. It ends with this one, whose pipe it reads.
pub(crate) fn activate(socket: &Socket, cgroup: &Path) -> Result<(), Fault> {
    let program = std::env::current_exe().map_err(|error| broken(&error))?;
    let inherited = socket.fd.try_clone().map_err(|error| broken(&error))?;
    let mut child = Command::new(program)
        .arg("--cgroup")
        .arg(cgroup)
        .arg("--activated")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(inherited))
        .spawn()
        .map_err(|error| broken(&error))?;
    let mut ready = [0; 1];
    let heard = child.stdout.take().map(|mut output| output.read(&mut ready));
    if !matches!(heard, Some(Ok(1))) {
        return Err(Fault::wrong("the activated program did not start"));
    }
    // Reaped when it ends; its standard input stays open as long as this thread lives.
    std::thread::spawn(move || {
        let _input = child.stdin.as_ref().map(|input| input.as_fd().try_clone_to_owned());
        let _ = child.wait_with_output();
    });
    Ok(())
}

/// The activated program: answers on the socket that is its standard error until its input ends.
pub(crate) fn serve_inherited() {
    let Ok(fd) = std::io::stderr().as_fd().try_clone_to_owned() else { return };
    serve::start(Arc::new(Socket { fd, kind: Kind::Tcp, served: Arc::default() }), Serve::Echo);
    println!("!");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// Sends by io_uring, after connecting by it where the kind does that.
pub(crate) fn ring(kind: Kind, to: SocketAddr, data: Vec<u8>, limit: Duration) -> Result<(), Fault> {
    let work = move || async move {
        match kind {
            Kind::Tcp => {
                let stream = tokio_uring::net::TcpStream::connect(to).await?;
                stream.write_all(data).await.0
            }
            _ => {
                let socket = tokio_uring::net::UdpSocket::bind(SocketAddr::new(any(to.is_ipv6()), 0)).await?;
                socket.send_to(data, to).await.0.map(drop)
            }
        }
    };
    // The ring waits for as long as the kernel does; the test does not.
    let (done, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = done.send(tokio_uring::start(work()));
    });
    match result.recv_timeout(limit) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(Fault::timeout()),
    }
}

fn broken(error: &std::io::Error) -> Fault {
    match error.raw_os_error() {
        Some(number) => Fault::from(rustix::io::Errno::from_raw_os_error(number)),
        None => Fault::wrong(error.to_string()),
    }
}
