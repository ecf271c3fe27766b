//! The guard's programs on interfaces.
//!
//! By TCX links where the kernel has them (Linux 6.6), pinned as `links/guard_ingress-INDEX`: ours is the
//! first program that a packet coming in meets, so that nobody's redirect goes round it, and the last
//! one that a packet leaving meets, since others may still change it. Programs of others stay where they
//! are. Older kernels get filters of a `clsact` instead ([`filters`]), which need no pin: they stay until
//! they are deleted.
//!
//! Which way it fails: an interface that cannot be guarded is told of and stays open at this layer; the
//! socket layers judge what passes it all the same.

mod filters;
mod links;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::programs::ProgramInfo;
use bulkhead_abi::{names, tables::Interface};
use bulkhead_sys::{link::tcx, netns::NetNs, tc::Hook};

use crate::{
    DatapathError, Maps,
    keep::Harm,
    maps::CONTROL_HOST,
    programs::{Loaded, is_same},
    told,
};
use filters::Filters;
use links::{Found, Held};

/// How the programs hang on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attachment {
    /// By links.
    Tcx,
    /// By filters.
    Clsact,
}

impl Attachment {
    /// The best that this kernel has.
    pub fn best() -> Self {
        if tcx::is_supported() { Self::Tcx } else { Self::Clsact }
    }

    /// The word of the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// What [`Guard::attach`] did.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Hung {
    /// The same programs were there.
    Kept,
    /// Other programs of ours were there, and were exchanged without a gap.
    Exchanged,
    /// At least one was not there.
    Made,
}

/// How the guard stands on an interface.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Whether both programs are there.
    pub whole: bool,
    /// Programs of others that stand between ours and the wire: whoever comes in may pass them and not
    /// us, whoever leaves is changed behind us. By name, with the direction.
    pub between: Vec<String>,
    /// What somebody did to a link or its pin, where both programs are still on the hook.
    pub harm: Option<Harm>,
}

/// The guard of one instance.
#[derive(Debug)]
pub struct Guard {
    attachment: Attachment,
    programs: [GuardProgram; 2],
    links: PathBuf,
    held: Held,
    filters: Filters,
    maps: Arc<Maps>,
}

/// One of its two programs.
#[derive(Debug)]
struct GuardProgram {
    name: &'static str,
    hook: Hook,
    fd: OwnedFd,
    info: ProgramInfo,
    /// Whether a running program is the same, by its number.
    same: HashMap<u32, bool>,
}

impl Guard {
    /// The guard with the programs of `loaded`, for the calling thread's network namespace.
    pub(crate) fn new(
        loaded: &Loaded,
        maps: &Arc<Maps>,
        links: &Path,
        attachment: Attachment,
    ) -> Result<Self, DatapathError> {
        let hooks = [Hook::Ingress, Hook::Egress];
        let [ingress, egress] = names::GUARD_PROGRAMS;
        let programs = [(ingress, hooks[0]), (egress, hooks[1])];
        let [ingress, egress] = programs.map(|(name, hook)| {
            let (fd, info) = loaded.guard_program(name)?;
            Ok::<_, DatapathError>(GuardProgram { name, hook, fd, info, same: HashMap::new() })
        });
        Ok(Self {
            attachment,
            programs: [ingress?, egress?],
            links: links.to_owned(),
            held: Held::new(),
            filters: Filters::open(&NetNs::current()?, links)?,
            maps: Arc::clone(maps),
        })
    }

    /// How programs hang here.
    pub fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Puts both programs on an interface, or into the place of those that are there.
    ///
    /// Errors: ENODEV if the interface is gone.
    pub fn attach(&mut self, interface: u32) -> Result<Hung, DatapathError> {
        let mut done = Hung::Kept;
        for program in &mut self.programs {
            done = done.max(match self.attachment {
                Attachment::Tcx => links::attach(program, &mut self.held, &self.links, interface)?,
                Attachment::Clsact => self.filters.attach(program, interface)?,
            });
        }
        Ok(done)
    }

    /// Takes both off; also where the interface is gone, or went to another namespace.
    pub fn detach(&mut self, interface: u32) -> Result<(), DatapathError> {
        for program in &self.programs {
            links::detach(&mut self.held, &self.links, program.name, interface)?;
        }
        self.filters.detach(interface)
    }

    /// Interfaces that an earlier agent guarded, whether they are still there or not.
    pub fn held(&mut self) -> Result<BTreeSet<u32>, DatapathError> {
        let mut held = links::held(&self.links)?;
        held.extend(self.filters.held()?);
        Ok(held)
    }

    /// Takes off what hangs by the other attachment than this one's, once this one's is in place.
    pub fn take_other_off(&mut self) -> Result<(), DatapathError> {
        match self.attachment {
            Attachment::Tcx => self.filters.detach_all().map(drop),
            Attachment::Clsact => {
                self.held.clear();
                links::detach_all(&self.links).map(drop)
            }
        }
    }

    /// How the guard stands on an interface.
    pub fn standing(&mut self, interface: u32) -> Result<Standing, DatapathError> {
        let mut standing = Standing { whole: true, ..Standing::default() };
        for program in &mut self.programs {
            let found = match self.attachment {
                Attachment::Tcx => links::look(&mut self.held, program, interface)?,
                Attachment::Clsact => {
                    let between = self.filters.between(program, interface)?;
                    between.map(|between| Found { between, harm: None })
                }
            };
            match found {
                Some(Found { between: names, harm }) => {
                    standing.harm = standing.harm.or(harm);
                    let way = match program.hook {
                        Hook::Ingress => "before ours at ingress",
                        Hook::Egress => "after ours at egress",
                    };
                    standing.between.extend(names.into_iter().map(|name| format!("{name} {way}")));
                }
                None => standing.whole = false,
            }
        }
        Ok(standing)
    }

    /// Puts ours back into its place among others. There is a moment without the guard.
    pub fn put_in_place(&mut self, interface: u32) -> Result<(), DatapathError> {
        self.detach(interface)?;
        self.attach(interface).map(drop)
    }

    /// Tells the kernel about the guarded interfaces, in place of what it was told before.
    pub fn set_interfaces(&mut self, wanted: &BTreeMap<u32, Interface>) -> Result<(), DatapathError> {
        told::set_interfaces(&self.maps, wanted).map(drop)
    }
}

impl GuardProgram {
    /// Whether the program `running` is the same as this one.
    fn is(&mut self, running: u32) -> bool {
        let info = &self.info;
        *self.same.entry(running).or_insert_with(|| is_same(running, info))
    }
}

/// What is taken off together: see [`take_off`].
pub(crate) struct TakenOff {
    /// Interfaces.
    pub(crate) interfaces: usize,
}

/// Takes the guard off every interface, without an agent. `maps` is the folder of the maps that tell where
/// it was, if it is there still.
pub(crate) fn take_off(links: &Path, maps: &Path) -> Result<TakenOff, DatapathError> {
    let mut interfaces = links::detach_all(links)?;
    if let Some(ns) = home(maps)? {
        interfaces += Filters::open(&ns, links)?.detach_all()?;
    }
    Ok(TakenOff { interfaces })
}

/// The namespace that the agent ran in; this one where nothing tells.
fn home(maps: &Path) -> Result<Option<NetNs>, DatapathError> {
    let own = NetNs::current()?;
    let Ok(control) = bulkhead_sys::pin::open(&maps.join(names::CONTROL)) else { return Ok(Some(own)) };
    let cookie = bulkhead_sys::map::MappedU64s::new(control.as_fd())?.load(CONTROL_HOST)?;
    if own.cookie()? == cookie {
        return Ok(Some(own));
    }
    Ok(bulkhead_sys::netns::find(cookie)?)
}
