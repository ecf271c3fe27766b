//! Programs on the hooks of a cgroup.

use std::{
    fs::File,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use bulkhead_sys::link::{self, Target};

use super::{Condition, Harm, How, Object, Pin, Watched};
use crate::DatapathError;

/// A program, the link that keeps it on its hook, and the link's pin.
///
/// Programs of one cgroup hook all run, and any may deny: nobody can stand in front of ours. What can be
/// done is to detach the link, or to put another program into it.
pub(super) struct ProgramLink {
    name: &'static str,
    cgroup: Arc<File>,
    program: OwnedFd,
    program_id: u32,
    link: OwnedFd,
    link_id: u32,
    attach: u32,
    pin: Pin,
}

impl ProgramLink {
    /// The link that is pinned below `links`, with the program that it runs now.
    pub(super) fn open(name: &'static str, links: &Path, cgroup: Arc<File>) -> Result<Self, DatapathError> {
        let path = links.join(name);
        let link = bulkhead_sys::pin::open(&path)?;
        let info = link::info(link.as_fd())?;
        let Target::Cgroup { attach, .. } = info.target else { return Err(DatapathError::Missing(name)) };
        Ok(Self {
            name,
            cgroup,
            program: link::program(info.program)?,
            program_id: info.program,
            link,
            link_id: info.id,
            attach,
            pin: Pin::new(path),
        })
    }
}

impl Watched for ProgramLink {
    fn name(&self) -> &str {
        self.name
    }

    fn check(&mut self) -> Result<Condition, DatapathError> {
        let harmed = |object, how| Ok(Condition::Harmed(Harm { object, how }));
        let info = link::info(self.link.as_fd())?;
        if matches!(info.target, Target::Cgroup { cgroup: 0, .. }) {
            return harmed(Object::Link, How::Missing);
        }
        if info.program != self.program_id {
            return harmed(Object::Link, How::Replaced);
        }
        match self.pin.check(self.link_id, link_id)? {
            Some(how) => harmed(Object::LinkPin, how),
            None => Ok(Condition::Intact),
        }
    }

    fn restore(&mut self, harm: Harm) -> Result<(), DatapathError> {
        match harm {
            Harm { object: Object::Link, how: How::Missing } => {
                let program = self.program.as_fd();
                self.link = link::create_on_cgroup(program, self.cgroup.as_fd(), self.attach)?;
                self.link_id = link_id(self.link.as_fd())?;
                self.pin.put(self.link.as_fd())
            }
            Harm { object: Object::Link, how: How::Replaced } => {
                Ok(link::update(self.link.as_fd(), self.program.as_fd(), None)?)
            }
            _ => self.pin.put(self.link.as_fd()),
        }
    }
}

fn link_id(link: BorrowedFd<'_>) -> Result<u32, DatapathError> {
    Ok(link::info(link)?.id)
}
