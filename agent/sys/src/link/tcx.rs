//! Programs on an interface, by links (TCX, Linux 6.6).
//!
//! The interface is meant by its number in the calling thread's network namespace. A link keeps neither
//! the interface alive nor follows it: when that goes, the link is dead ([`TcxLink::interface`] is 0).
//! Moved to another namespace, the interface takes its programs along.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{Error, Result, bpf};

/// Which way packets go, seen from the interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum Hook {
    /// They come in by it (BPF_TCX_INGRESS).
    Ingress = 46,
    /// They leave by it (BPF_TCX_EGRESS).
    Egress = 47,
}

/// Where in the row of programs of a hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Before all that are there.
    First,
    /// Behind all that are there.
    Last,
}

/// What a link says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcxLink {
    /// Its number.
    pub id: u32,
    /// The program that it runs.
    pub program: u32,
    /// The interface's number in its own namespace; 0 if it is gone.
    pub interface: u32,
}

/// A program in the row of a hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attached {
    /// Its number.
    pub program: u32,
    /// The number of the link that holds it; 0 without one.
    pub link: u32,
}

/// Whether this kernel has TCX.
pub fn is_supported() -> bool {
    // Loopback is number 1 in every namespace; an older kernel does not know the hook.
    query(1, Hook::Ingress).is_ok()
}

/// Attaches `program` (`sched_cls`) to an interface.
///
/// Errors: ENODEV without such an interface, EEXIST if the same program is there, EINVAL before Linux 6.6.
pub fn attach(program: BorrowedFd<'_>, interface: u32, hook: Hook, place: Place) -> Result<OwnedFd> {
    #[derive(IntoBytes, Immutable)]
    #[repr(C)]
    struct Attributes {
        program: i32,
        interface: u32,
        hook: u32,
        flags: u32,
        relative: u32,
        pad: u32,
        revision: u64,
    }
    const BEFORE: u32 = 1 << 3;
    const AFTER: u32 = 1 << 4;

    let mut attributes = Attributes {
        program: program.as_raw_fd(),
        interface,
        hook: hook as u32,
        flags: match place {
            Place::First => BEFORE,
            Place::Last => AFTER,
        },
        relative: 0,
        pad: 0,
        revision: 0,
    };
    // SAFETY: the attributes hold no addresses, and the answer is a descriptor.
    unsafe { bpf::descriptor(bpf::LINK_CREATE, "bpf(BPF_LINK_CREATE)", &mut attributes) }
}

/// What `link` says of itself. EINVAL if it is of another kind.
pub fn info(link: BorrowedFd<'_>) -> Result<TcxLink> {
    #[derive(Default, FromBytes, IntoBytes, Immutable)]
    #[repr(C)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        pad: u32,
        interface: u32,
        hook: u32,
    }
    const LINK_TYPE_TCX: u32 = 11;

    let info: Info = bpf::info(link)?;
    if info.kind != LINK_TYPE_TCX {
        return Err(Error::from_errno("bpf(BPF_OBJ_GET_INFO_BY_FD)", libc::EINVAL));
    }
    Ok(TcxLink { id: info.id, program: info.program, interface: info.interface })
}

/// The programs of a hook, in the order in which packets meet them.
///
/// Errors: ENODEV without such an interface, EINVAL before Linux 6.6.
pub fn query(interface: u32, hook: Hook) -> Result<Vec<Attached>> {
    #[derive(IntoBytes, Immutable)]
    #[repr(C)]
    struct Attributes {
        interface: u32,
        hook: u32,
        query_flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        pad: u32,
        program_flags: u64,
        links: u64,
        link_flags: u64,
        revision: u64,
    }
    /// The kernel takes no more on one hook (BPF_MPROG_MAX).
    const MOST: usize = 64;

    let (mut programs, mut links) = ([0_u32; MOST], [0_u32; MOST]);
    let mut attributes = Attributes {
        interface,
        hook: hook as u32,
        query_flags: 0,
        attach_flags: 0,
        programs: programs.as_mut_ptr() as u64,
        count: MOST as u32,
        pad: 0,
        program_flags: 0,
        links: links.as_mut_ptr() as u64,
        link_flags: 0,
        revision: 0,
    };
    // SAFETY: both arrays have room for as many numbers as `count` says.
    match unsafe { bpf::call(bpf::PROG_QUERY, "bpf(BPF_PROG_QUERY)", &mut attributes) } {
        Ok(_) => {}
        // Nothing was ever attached there.
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let found = programs.into_iter().zip(links).map(|(program, link)| Attached { program, link });
    Ok(found.take(attributes.count as usize).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::fd::AsFd;

    use super::*;
    use crate::link::tests::{classifier, id};
    use crate::{link, testing};

    #[test]
    fn links_on_an_interface_have_a_place_and_outlive_an_exchange() {
        if !testing::root("tcx") {
            return;
        }
        let ns = testing::netns();
        testing::ip(&ns, "link add name near type veth peer name far");
        let near = ns.interfaces().unwrap().into_iter().find(|found| found.name == "near").unwrap().index;
        let [first, second, third] = [classifier(), classifier(), classifier()];
        let hang = |program: &OwnedFd, place| {
            ns.run(|| attach(program.as_fd(), near, Hook::Ingress, place)).unwrap().unwrap()
        };
        let row = || -> Vec<u32> {
            let row = ns.run(|| query(near, Hook::Ingress)).unwrap().unwrap();
            row.into_iter().map(|attached| attached.program).collect()
        };
        assert!(ns.run(is_supported).unwrap());
        assert_eq!(row(), []);
        let middle = hang(&first, Place::Last);
        let last = hang(&second, Place::Last);
        let head = hang(&third, Place::First);
        assert_eq!(row(), [id(&third), id(&first), id(&second)]);

        let before = info(head.as_fd()).unwrap();
        assert_eq!((before.interface, before.program), (near, id(&third)));
        let successor = classifier();
        link::update(head.as_fd(), successor.as_fd(), None).unwrap();
        let after = info(head.as_fd()).unwrap();
        assert_eq!((after.id, after.program), (before.id, id(&successor)));
        assert_eq!(row(), [id(&successor), id(&first), id(&second)], "in the same place");

        link::detach(middle.as_fd()).unwrap();
        assert_eq!(info(middle.as_fd()).unwrap().interface, 0, "a dead link");
        assert_eq!(row(), [id(&successor), id(&second)]);
        testing::ip(&ns, "link delete near");
        testing::eventually("the links to die", || info(last.as_fd()).unwrap().interface == 0);
        assert!(ns.run(|| query(near, Hook::Ingress)).unwrap().is_err());
    }
}
