//! Interfaces whose packets a program writes (tun). For tests, which must send what no socket sent.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::{Error, Result};

/// Makes an interface of this name in the calling thread's network namespace; it goes with the handle. Each
/// write is one IP packet that comes in by it.
///
/// Errors: open of `/dev/net/tun`, ioctl (EBUSY if the name is taken, EPERM without CAP_NET_ADMIN).
pub fn open(name: &str) -> Result<File> {
    let path = Path::new("/dev/net/tun");
    let file = File::options().read(true).write(true).open(path).map_err(Error::path("open", path))?;
    // SAFETY: plain bytes, for which zeroes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request is an ifreq, as TUNSETIFF asks for.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if status != 0 {
        return Err(Error::last("ioctl(TUNSETIFF)"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::testing;

    #[test]
    fn an_interface_lives_as_long_as_its_handle() {
        if !testing::root("tun") {
            return;
        }
        let ns = testing::netns();
        let there = || ns.interfaces().unwrap().iter().any(|found| found.name == "tun-test");
        let tun = ns.run(|| super::open("tun-test")).unwrap().unwrap();
        assert!(there());
        drop(tun);
        testing::eventually("it to go", || !there());
    }
}
