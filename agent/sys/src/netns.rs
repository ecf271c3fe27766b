//! Network namespaces: finding them, looking into them, running inside them.
//!
//! A namespace dies when nobody refers to it. A [`NetNs`] does, through its descriptor, and so does every
//! socket made inside: hold either only while at work, or a pod's namespace outlives the pod. Nothing in
//! this module leaves one behind.

mod address;
mod interface;
mod last_hop;
mod number;
mod route;
mod rtmsg;

use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use std::{process, thread};

use bulkhead_abi::Addr;

use crate::netlink::Socket;
use crate::{Error, Result};

pub use crate::netlink::monitor::{Change, Monitor};
pub use address::InterfaceAddress;
pub(crate) use interface::parse as parse_interface;
pub use interface::{Interface, Peer};
pub use last_hop::{LastHop, Marking};
pub use number::Numbers;

/// Which namespace: device and inode of its file in `/proc`. Another one may have the same after it is
/// gone; the cookie never repeats.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NetNsId {
    /// Device number of nsfs.
    pub device: u64,
    /// The number in `net:[4026531840]`.
    pub inode: u64,
}

/// An open network namespace. It lives at least as long as this.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    id: NetNsId,
}

/// Where a thread goes when this is dropped.
struct Back(NetNs);

impl Drop for Back {
    fn drop(&mut self) {
        while let Err(error) = self.0.enter() {
            // Everything that this thread does from now on would happen to the wrong machine.
            if error.errno() != Some(libc::ENOMEM) {
                process::abort();
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl NetNs {
    /// The namespace behind `path`: `/proc/PID/ns/net`, or a file that one is mounted on. Linux 3.0.
    ///
    /// Errors of open: ENOENT also for a process that has ended, EACCES without CAP_SYS_PTRACE for
    /// another user's. A file that is no network namespace is found out by [`NetNs::run`], with EINVAL.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::path("open", path))?;
        let metadata = file.metadata().map_err(Error::path("fstat", path))?;
        Ok(Self { file, id: NetNsId { device: metadata.dev(), inode: metadata.ino() } })
    }

    /// The namespace of process `pid`.
    pub fn of_process(pid: u32) -> Result<Self> {
        Self::open(format!("/proc/{pid}/ns/net").as_ref())
    }

    /// The calling thread's namespace.
    pub fn current() -> Result<Self> {
        Self::open("/proc/thread-self/ns/net".as_ref())
    }

    /// Which one it is.
    pub fn id(&self) -> NetNsId {
        self.id
    }

    /// Its cookie (SO_NETNS_COOKIE, Linux 5.14): what `bpf_get_netns_cookie` tells kernel programs.
    pub fn cookie(&self) -> Result<u64> {
        self.run(|| {
            // SAFETY: no pointers are passed.
            let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
            if fd < 0 {
                return Err(Error::last("socket"));
            }
            // SAFETY: the kernel just made this descriptor, and nobody else knows it.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            crate::netlink::netns_cookie(&socket)
        })?
    }

    /// Whether the machine's own user namespace owns it, and not one that any user may have made
    /// (NS_GET_USERNS, Linux 4.9). EPERM where the owner is above the caller's own user namespace.
    pub fn is_owned_by_init_userns(&self) -> Result<bool> {
        // The first user namespace has this inode number on every kernel since 3.8.
        const INIT_USER_NS: u64 = 0xefff_fffd;
        // SAFETY: this request takes no argument.
        let fd = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::NS_GET_USERNS) };
        if fd < 0 {
            return Err(Error::last("ioctl(NS_GET_USERNS)"));
        }
        // SAFETY: the kernel just made this descriptor, and nobody else knows it.
        let owner = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(owner.metadata().map_err(Error::call("fstat"))?.ino() == INIT_USER_NS)
    }

    /// Runs `f` inside, on the calling thread, which is back where it was afterwards, also when `f` panics.
    /// Other threads stay where they are. Sockets that `f` makes belong to the namespace, also after they
    /// are handed out (see the module's comment). No thread is started for it: a new thread that finds no
    /// memory for its signal stack takes the whole process down.
    ///
    /// Errors of setns (Linux 3.0): EPERM without CAP_SYS_ADMIN, EINVAL if this is no network namespace,
    /// ENOMEM. Where there is no memory for the way back, it is waited for.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> Result<T> {
        let home = Self::current()?;
        self.enter()?;
        let _back = Back(home);
        Ok(f())
    }

    /// Moves the calling thread.
    fn enter(&self) -> Result<()> {
        // SAFETY: no pointers are passed; setns changes the calling thread only.
        match unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(Error::last("setns")),
        }
    }

    /// Every IPv4 and IPv6 address of its interfaces. Addresses that only routes make local (most of
    /// 127.0.0.0/8, AnyIP) are not among them.
    pub fn addresses(&self) -> Result<Vec<InterfaceAddress>> {
        address::list(&mut self.netlink()?)
    }

    /// Its interfaces.
    pub fn interfaces(&self) -> Result<Vec<Interface>> {
        interface::list(&mut self.netlink()?)
    }

    /// Everything that is asked of it again and again, in one visit.
    pub fn survey(&self) -> Result<Survey> {
        let mut socket = self.netlink()?;
        Ok(Survey {
            cookie: socket.netns_cookie()?,
            addresses: address::list(&mut socket)?,
            interfaces: interface::list(&mut socket)?,
            sources: route::sources(&mut socket),
        })
    }

    /// A path that leads here as long as this process lives.
    #[cfg(test)]
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    fn netlink(&self) -> Result<Socket> {
        Socket::open(self, libc::NETLINK_ROUTE)
    }
}

/// A namespace at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Survey {
    /// See [`NetNs::cookie`].
    pub cookie: u64,
    /// See [`NetNs::addresses`].
    pub addresses: Vec<InterfaceAddress>,
    /// See [`NetNs::interfaces`].
    pub interfaces: Vec<Interface>,
    /// The addresses that its default routes are taken from: at most one of each family.
    pub sources: Vec<Addr>,
}

/// The namespace with this cookie, if a process is in it or `ip netns` has a name for it.
pub fn find(cookie: u64) -> Result<Option<NetNs>> {
    let entries =
        |folder: &str| fs::read_dir(folder).into_iter().flatten().filter_map(std::result::Result::ok);
    let pids = entries("/proc").filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let named = entries("/run/netns").filter_map(|entry| NetNs::open(&entry.path()).ok());
    let all = discover(pids)?.namespaces.into_iter().chain(named);
    // One that ends meanwhile is not the one.
    Ok(all.into_iter().find(|ns| ns.cookie().is_ok_and(|found| found == cookie)))
}

/// What [`discover`] found.
#[derive(Debug, Default)]
pub struct Discovery {
    /// Every namespace, once.
    pub namespaces: Vec<NetNs>,
    /// Processes that may not be looked into: without CAP_SYS_PTRACE, those with capabilities that the
    /// caller lacks. Their namespaces may be missing.
    pub hidden: Vec<u32>,
}

/// The network namespaces that the processes `pids` are in. Processes that have ended are passed over. A
/// thread that alone went elsewhere is found only by its own number.
pub fn discover(pids: impl IntoIterator<Item = u32>) -> Result<Discovery> {
    let mut found = Discovery::default();
    for pid in pids {
        match look(pid, &found.namespaces) {
            Ok(ns) => found.namespaces.extend(ns),
            Err(error) => match error.errno() {
                Some(libc::ENOENT | libc::ESRCH) => {}
                Some(libc::EACCES | libc::EPERM) => found.hidden.push(pid),
                _ => return Err(error),
            },
        }
    }
    Ok(found)
}

/// The namespace of `pid`, unless it is among `known`.
fn look(pid: u32, known: &[NetNs]) -> Result<Option<NetNs>> {
    let path = format!("/proc/{pid}/ns/net");
    let metadata = fs::metadata(&path).map_err(Error::path("stat", path.as_ref()))?;
    let is_known = |id| known.iter().any(|ns| ns.id == id);
    if is_known(NetNsId { device: metadata.dev(), inode: metadata.ino() }) {
        return Ok(None);
    }
    // The process may have moved since.
    Ok(Some(NetNs::open(path.as_ref())?).filter(|ns| !is_known(ns.id)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io;
    use std::net::UdpSocket;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;
    use crate::testing;

    /// `sleep` behind an unshare(2) with `flags`.
    fn sleeper(flags: libc::c_int) -> Child {
        let mut command = Command::new("sleep");
        // SAFETY: one system call, which is safe between fork and exec.
        unsafe {
            command.arg("60").pre_exec(move || match libc::unshare(flags) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            })
        };
        command.spawn().unwrap()
    }

    #[test]
    fn what_runs_inside_is_inside_and_the_caller_stays() {
        if !testing::root("netns run") {
            return;
        }
        let (here, there) = (NetNs::current().unwrap(), testing::netns());
        let inside = there.run(|| NetNs::current().unwrap().id()).unwrap();
        assert_eq!(inside, there.id());
        assert_ne!(inside, here.id());
        assert_eq!(NetNs::current().unwrap().id(), here.id());
        let (a, b) = (there.cookie().unwrap(), here.cookie().unwrap());
        assert!(a != 0 && b != 0 && a != b);
        assert_eq!(there.cookie().unwrap(), a);
        let panics = || there.run(|| std::panic::resume_unwind(Box::new(1)));
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!(NetNs::current().unwrap().id(), here.id());
        // One inside another.
        assert_eq!(there.run(|| here.run(|| NetNs::current().unwrap().id())).unwrap().unwrap(), here.id());
        assert_eq!(NetNs::current().unwrap().id(), here.id());

        let folder = NetNs::open("/proc/self/ns/uts".as_ref()).unwrap();
        assert_eq!(folder.run(|| ()).unwrap_err().errno(), Some(libc::EINVAL));
    }

    #[test]
    fn a_namespace_ends_with_its_last_handle() {
        if !testing::root("netns end") {
            return;
        }
        let (ending, staying) = (testing::netns(), testing::netns());
        let peer = format!("/proc/{}/fd/{}", std::process::id(), ending.file.as_raw_fd());
        testing::ip(&staying, &format!("link add name veth-a type veth peer name veth-b netns {peer}"));
        testing::ip(&staying, "addr add 10.0.0.1/24 dev veth-a");
        ending.cookie().unwrap();
        ending.addresses().unwrap();
        ending.is_owned_by_init_userns().unwrap();
        let has_peer = || staying.addresses().unwrap().len() == 3;
        let socket = ending.run(|| UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        drop(ending);
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(has_peer(), "a socket keeps it alive");
        drop(socket);
        // The kernel takes it down in its own time, and its end of the pair with it.
        testing::eventually("the namespace to end", || !has_peer());
    }

    #[test]
    fn namespaces_are_discovered_once_and_their_owner_is_told() {
        if !testing::root("netns discovery") {
            return;
        }
        let own = std::process::id();
        let mut root_made = sleeper(libc::CLONE_NEWNET);
        let mut user_made = sleeper(libc::CLONE_NEWUSER | libc::CLONE_NEWNET);
        let mut dead = sleeper(0);
        dead.kill().unwrap();
        dead.wait().unwrap();
        let pids = [own, root_made.id(), dead.id(), own, user_made.id(), root_made.id()];
        let found = discover(pids).unwrap();
        let found = found.namespaces;
        let owners: Vec<_> = found.iter().map(|ns| ns.is_owned_by_init_userns().unwrap()).collect();
        let ids: Vec<_> = found.iter().map(NetNs::id).collect();
        let expected = [own, root_made.id(), user_made.id()].map(|pid| NetNs::of_process(pid).unwrap().id());
        for child in [&mut root_made, &mut user_made] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(ids, expected);
        let init = fs::metadata("/proc/self/ns/user").unwrap().ino() == 0xefff_fffd;
        assert_eq!(owners, [init, init, false]);
        assert_eq!(NetNs::of_process(dead.id()).unwrap_err().errno(), Some(libc::ENOENT));
    }
}
