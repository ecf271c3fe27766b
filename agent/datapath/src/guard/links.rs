//! By TCX links, each pinned under the name of its program and the number of its interface.
//!
//! Links are also held open, so that a pin which somebody deletes takes nothing off.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use bulkhead_abi::names;
use bulkhead_sys::{
    link::{
        self,
        tcx::{self, Place},
    },
    pin,
    tc::Hook,
};

use super::{GuardProgram, Hung};
use crate::{
    DatapathError,
    keep::{Harm, How, Object, Pin},
    programs::name_of,
};

/// Links that are held open, by program and interface.
pub(super) type Held = BTreeMap<(&'static str, u32), Link>;

/// A link and its pin.
#[derive(Debug)]
pub(super) struct Link {
    fd: OwnedFd,
    id: u32,
    pin: Pin,
}

impl Link {
    fn new(fd: OwnedFd, path: PathBuf) -> Result<Self, DatapathError> {
        Ok(Self { id: id(fd.as_fd())?, fd, pin: Pin::new(path) })
    }
}

/// Who else is on a hook beside a program of ours, and whether somebody was at ours.
pub(super) struct Found {
    /// Programs of others that stand between ours and the wire.
    pub(super) between: Vec<String>,
    /// What was done to the link, other than taking it off.
    pub(super) harm: Option<Harm>,
}

/// Puts a program on an interface, or into the link that is there.
pub(super) fn attach(
    program: &mut GuardProgram,
    held: &mut Held,
    links: &Path,
    interface: u32,
) -> Result<Hung, DatapathError> {
    let (path, key) = (path(links, program.name, interface), (program.name, interface));
    if !held.contains_key(&key)
        && let Some(pinned) = open(&path)?
    {
        held.insert(key, Link::new(pinned, path.clone())?);
    }
    if let Some(there) = held.get_mut(&key) {
        if let Some(running) = alive(&there.fd, program.hook, interface)? {
            if there.pin.check(there.id, id)?.is_some() {
                there.pin.put(there.fd.as_fd())?;
            }
            if program.is(running) {
                return Ok(Hung::Kept);
            }
            link::update(there.fd.as_fd(), program.fd.as_fd(), None)?;
            return Ok(Hung::Exchanged);
        }
        // Its interface is gone, or went elsewhere and took the program along.
        take(&path, &there.fd)?;
        held.remove(&key);
    }
    let place = match program.hook {
        Hook::Ingress => Place::First,
        Hook::Egress => Place::Last,
    };
    let made = tcx::attach(program.fd.as_fd(), interface, program.hook, place)?;
    let mut made = Link::new(made, path)?;
    let pinned = made.pin.put(made.fd.as_fd());
    // Also without a pin it is there.
    held.insert(key, made);
    pinned.map(|()| Hung::Made)
}

/// Takes a program off an interface.
pub(super) fn detach(
    held: &mut Held,
    links: &Path,
    name: &'static str,
    interface: u32,
) -> Result<(), DatapathError> {
    let path = path(links, name, interface);
    match held.remove(&(name, interface)) {
        Some(there) => take(&path, &there.fd),
        None => detach_pinned(&path),
    }
}

fn detach_pinned(path: &Path) -> Result<(), DatapathError> {
    match open(path)? {
        Some(pinned) => take(path, &pinned),
        None => Ok(()),
    }
}

/// Takes both programs off all interfaces; how many those were.
pub(super) fn detach_all(links: &Path) -> Result<usize, DatapathError> {
    let held = held(links)?;
    for &interface in &held {
        for name in names::GUARD_PROGRAMS {
            detach_pinned(&path(links, name, interface))?;
        }
    }
    Ok(held.len())
}

/// The interfaces that have a pin.
pub(super) fn held(links: &Path) -> Result<BTreeSet<u32>, DatapathError> {
    let index = |pin: PathBuf| {
        let name = pin.file_name()?.to_str()?;
        let (program, index) = name.split_once('-')?;
        names::GUARD_PROGRAMS.contains(&program).then(|| index.parse().ok())?
    };
    Ok(crate::folders(links)?.into_iter().filter_map(index).collect())
}

/// How ours stands on a hook; `None` if it is not there.
pub(super) fn look(
    held: &mut Held,
    program: &mut GuardProgram,
    interface: u32,
) -> Result<Option<Found>, DatapathError> {
    let Some(there) = held.get_mut(&(program.name, interface)) else { return Ok(None) };
    let row = tcx::query(interface, program.hook)?;
    let Some(at) = row.iter().position(|attached| attached.link == there.id) else { return Ok(None) };
    let harm = match row.get(at) {
        Some(ours) if !program.is(ours.program) => Some(Harm { object: Object::Link, how: How::Replaced }),
        _ => there.pin.check(there.id, id)?.map(|how| Harm { object: Object::LinkPin, how }),
    };
    let (before, from) = row.split_at(at);
    let others = match program.hook {
        Hook::Ingress => before,
        Hook::Egress => from.get(1..).unwrap_or_default(),
    };
    // Other instances of the guard let pass what is not theirs to judge: no need to fight with them.
    let names = others.iter().map(|attached| name_of(attached.program));
    let between = names.filter(|name| name != program.name).collect();
    Ok(Some(Found { between, harm }))
}

/// The program that the link runs, if it runs on this interface of this namespace.
fn alive(link: &OwnedFd, hook: Hook, interface: u32) -> Result<Option<u32>, DatapathError> {
    let found = tcx::info(link.as_fd())?;
    if found.interface != interface {
        return Ok(None);
    }
    // One that was moved may have the same number where it is now.
    let row = tcx::query(interface, hook)?;
    Ok(row.iter().any(|attached| attached.link == found.id).then_some(found.program))
}

fn open(path: &Path) -> Result<Option<OwnedFd>, DatapathError> {
    match pin::open(path) {
        Ok(held) => Ok(Some(held)),
        Err(error) if error.errno() == Some(ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

const ENOENT: i32 = 2;

fn id(link: BorrowedFd<'_>) -> Result<u32, DatapathError> {
    Ok(tcx::info(link)?.id)
}

fn take(path: &Path, held: &OwnedFd) -> Result<(), DatapathError> {
    // A dead link cannot be detached, and need not be.
    let _ = link::detach(held.as_fd());
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DatapathError::Io { action: "remove", path: path.to_owned(), error })
        }
        _ => Ok(()),
    }
}

fn path(links: &Path, name: &str, interface: u32) -> PathBuf {
    links.join(format!("{name}-{interface}"))
}
