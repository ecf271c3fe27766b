//! UNIX sockets that only their owner may use.
//!
//! Two gates: the file's mode keeps others from connecting, and the peer's credentials, which the kernel
//! vouches for, are checked after accepting.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::{Error, Result};

/// Listens at `path` with mode 0600; there is no moment at which it is wider. A socket that a dead
/// process left behind is replaced; hold the agent's lock, since two who do this at once may unseat one
/// another. Blocking; any kernel.
///
/// Errors: [`Error::PathInUse`] if somebody listens there, or if it is no socket at all; any of socket,
/// fchmod, bind, listen. A path of more than 107 bytes is ENAMETOOLONG.
pub fn listen(path: &Path) -> Result<UnixListener> {
    Ok(UnixListener::from(bound(path, libc::SOCK_STREAM)?))
}

/// As [`listen`], for packets (`SOCK_SEQPACKET`).
pub fn listen_for_packets(path: &Path) -> Result<OwnedFd> {
    bound(path, libc::SOCK_SEQPACKET)
}

fn bound(path: &Path, kind: libc::c_int) -> Result<OwnedFd> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() || UnixStream::connect(path).is_ok() => {
            return Err(Error::PathInUse { path: path.to_owned() });
        }
        Ok(_) => fs::remove_file(path).map_err(Error::path("unlink", path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::path("stat", path)(error)),
    }
    let (address, length) = address(path)?;
    // SAFETY: no pointers are passed.
    let socket = unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(Error::last("socket"));
    }
    // SAFETY: the kernel just made this descriptor, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let fd = socket.as_raw_fd();
    // Linux gives the file that bind makes the mode of the unbound socket.
    // SAFETY: no pointers are passed.
    if unsafe { libc::fchmod(fd, 0o600) } != 0 {
        return Err(Error::last("fchmod"));
    }
    // SAFETY: `address` is a sockaddr_un of which `length` bytes are filled in.
    if unsafe { libc::bind(fd, (&raw const address).cast(), length) } != 0 {
        return Err(Error::path("bind", path)(io::Error::last_os_error()));
    }
    // SAFETY: no pointers are passed.
    if unsafe { libc::listen(fd, 16) } != 0 {
        return Err(Error::last("listen"));
    }
    Ok(socket)
}

/// The process at the other end of a UNIX stream socket, as it was when it connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its process.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// Who is at the other end of the accepted socket `stream` (SO_PEERCRED, any kernel).
pub fn peer(stream: impl AsFd) -> Result<Peer> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = mem::size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `credentials` has room for `length` bytes, and both outlive the call.
    let status = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if status != 0 {
        return Err(Error::last("getsockopt(SO_PEERCRED)"));
    }
    Ok(Peer { pid: credentials.pid, uid: credentials.uid, gid: credentials.gid })
}

/// The other end of `stream`, if it runs as user `uid`; [`Error::Stranger`] otherwise.
pub fn peer_with_uid(stream: impl AsFd, uid: u32) -> Result<Peer> {
    let peer = peer(stream)?;
    if peer.uid != uid {
        return Err(Error::Stranger { pid: peer.pid, uid: peer.uid, wanted: uid });
    }
    Ok(peer)
}

fn address(path: &Path) -> Result<(libc::sockaddr_un, libc::socklen_t)> {
    let bytes = path.as_os_str().as_bytes();
    let mut address =
        libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
    // The last byte stays zero; a zero byte within would cut the name short.
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(Error::path("bind", path)(io::Error::from_raw_os_error(libc::ENAMETOOLONG)));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let length = mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Ok((address, length as libc::socklen_t))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_socket_is_private_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let first = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(matches!(listen(&path), Err(Error::PathInUse { .. })), "two listeners");
        drop(first);
        let second = listen(&path).unwrap();

        let client = UnixStream::connect(&path).unwrap();
        let (server, _) = second.accept().unwrap();
        // SAFETY: always succeeds and takes nothing.
        let uid = unsafe { libc::geteuid() };
        let found = peer_with_uid(&server, uid).unwrap();
        assert_eq!((found.pid, found.uid), (std::process::id() as i32, uid));
        assert!(matches!(peer_with_uid(&server, uid + 1), Err(Error::Stranger { .. })));
        drop(client);
    }

    #[test]
    fn a_plain_file_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path), Err(Error::PathInUse { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let long = dir.path().join("x".repeat(120));
        assert_eq!(listen(&long).unwrap_err().errno(), Some(libc::ENAMETOOLONG));
    }
}
