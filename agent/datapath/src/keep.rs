//! What must stay as it is while the agent runs: links, pins, and the file system that holds them.
//!
//! Each is [`Watched`]: it can be looked at for next to nothing (one or two system calls), and put right
//! from the descriptors that the agent holds. A removed pin is put back with the same object; a link that
//! somebody detached is made anew, with the program that ran in it. Nothing here decides when to look.
//!
//! Which way it fails: what cannot be looked at or put right is an error of that thing alone, and is
//! tried again at the next look.

mod link;
mod pin;

use std::{fs::File, os::fd::AsFd as _, path::Path, sync::Arc};

use bulkhead_abi::names;

use crate::DatapathError;
use link::ProgramLink;
pub use pin::Pin;
pub(crate) use pin::make_folder;
use pin::{BpfFs, MapPin};

/// Something that must stay as it is.
pub trait Watched: Send {
    /// Its name, unique among all that are watched: `skb_egress`, `FLOWS`.
    fn name(&self) -> &str;

    /// Looks at it.
    fn check(&mut self) -> Result<Condition, DatapathError>;

    /// Puts right what [`Watched::check`] has just found.
    fn restore(&mut self, harm: Harm) -> Result<(), DatapathError>;
}

/// How it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// As it should be.
    Intact,
    /// Somebody was at it.
    Harmed(Harm),
}

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Harm {
    /// The kind of thing.
    pub object: Object,
    /// What was done to it.
    pub how: How,
}

/// Kinds of things that are watched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Object {
    /// A link: a program on its hook.
    Link,
    /// The place among others on a hook where the first one decides.
    Order,
    /// The pin of a link.
    LinkPin,
    /// The pin of a map.
    MapPin,
    /// The BPF file system.
    BpfFs,
}

impl Object {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Link, Self::Order, Self::LinkPin, Self::MapPin, Self::BpfFs];

    /// The word of metrics, `status` and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Order => "order",
            Self::LinkPin => "link-pin",
            Self::MapPin => "map-pin",
            Self::BpfFs => "bpffs",
        }
    }
}

/// What was done to a thing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum How {
    /// It was taken away: detached, removed, unmounted.
    Missing,
    /// Something else stands in its place, or in front of it.
    Replaced,
}

impl How {
    /// The word of `status` and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Replaced => "replaced",
        }
    }
}

/// Everything of one instance that hangs on cgroups, and all its maps, as they are now. In the order in
/// which harm is to be put right: the file system that pins need, then what enforces.
pub(crate) fn all(links: &Path, maps: &Path, cgroup: &Path) -> Result<Vec<Box<dyn Watched>>, DatapathError> {
    let root = Arc::new(File::open(cgroup).map_err(DatapathError::io("open", cgroup))?);
    let mut watched: Vec<Box<dyn Watched>> = Vec::new();
    if let Some(file_system) = BpfFs::of(maps)? {
        watched.push(Box::new(file_system));
    }
    for name in names::PROGRAMS {
        watched.push(Box::new(ProgramLink::open(name, links, Arc::clone(&root))?));
    }
    for name in names::MAPS {
        watched.push(Box::new(MapPin::open(name, maps)?));
    }
    Ok(watched)
}

/// The number of the map behind `fd`.
fn map_id(fd: std::os::fd::BorrowedFd<'_>) -> Result<u32, DatapathError> {
    Ok(bulkhead_sys::map::Map::new(fd.as_fd())?.shape().id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_differ() {
        let words: std::collections::BTreeSet<&str> =
            Object::ALL.iter().map(|object| object.as_str()).collect();
        assert_eq!(words.len(), Object::ALL.len());
    }
}
