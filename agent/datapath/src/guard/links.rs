//! By TCX links, each pinned under the name of its program and the number of its interface.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
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
use crate::{DatapathError, programs::name_of};

/// Puts a program on an interface, or into the link that is there.
pub(super) fn attach(
    program: &mut GuardProgram,
    links: &Path,
    interface: u32,
) -> Result<Hung, DatapathError> {
    let path = path(links, program.name, interface);
    if let Some(held) = open(&path)? {
        if let Some(running) = alive(&held, program.hook, interface)? {
            if program.is(running) {
                return Ok(Hung::Kept);
            }
            link::update(held.as_fd(), program.fd.as_fd(), None)?;
            return Ok(Hung::Exchanged);
        }
        // Its interface is gone, or went elsewhere and took the program along.
        take(&path, &held)?;
    }
    let place = match program.hook {
        Hook::Ingress => Place::First,
        Hook::Egress => Place::Last,
    };
    let made = tcx::attach(program.fd.as_fd(), interface, program.hook, place)?;
    pin::make(made.as_fd(), &path)?;
    Ok(Hung::Made)
}

/// Takes a program off an interface.
pub(super) fn detach(links: &Path, name: &str, interface: u32) -> Result<(), DatapathError> {
    let path = path(links, name, interface);
    match open(&path)? {
        Some(held) => take(&path, &held),
        None => Ok(()),
    }
}

/// Takes both programs off all interfaces; how many those were.
pub(super) fn detach_all(links: &Path) -> Result<usize, DatapathError> {
    let held = held(links)?;
    for &interface in &held {
        for name in names::GUARD_PROGRAMS {
            detach(links, name, interface)?;
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

/// Which programs of others stand between ours and the wire; `None` if ours is not there.
pub(super) fn between(
    links: &Path,
    program: &GuardProgram,
    interface: u32,
) -> Result<Option<Vec<String>>, DatapathError> {
    let Some(held) = open(&path(links, program.name, interface))? else { return Ok(None) };
    let ours = tcx::info(held.as_fd())?.id;
    let row = tcx::query(interface, program.hook)?;
    let Some(at) = row.iter().position(|attached| attached.link == ours) else { return Ok(None) };
    let (before, from) = row.split_at(at);
    let others = match program.hook {
        Hook::Ingress => before,
        Hook::Egress => from.get(1..).unwrap_or_default(),
    };
    // Other instances of the guard let pass what is not theirs to judge: no need to fight with them.
    let names = others.iter().map(|attached| name_of(attached.program));
    Ok(Some(names.filter(|name| name != program.name).collect()))
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
