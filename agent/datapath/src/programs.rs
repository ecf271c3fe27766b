//! Programs and their links: load, attach, exchange, detach.
//!
//! Links are pinned, so that enforcement outlives the agent; an upgrade exchanges the program inside
//! its link, so that there is no moment without one. Any step that fails leaves the old programs where
//! they are.

use std::{
    fs::{self, File},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::MapInfo,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Program, ProgramError,
        ProgramInfo, SchedClassifier,
        links::{FdLink, LinkError, PinnedLink},
    },
};
use bulkhead_abi::{Direction, names};
use bulkhead_sys::map::Map;

use crate::{DatapathError, Features, Options};

/// The programs, verified by the kernel but not attached.
pub(crate) struct Loaded {
    object: Ebpf,
}

/// What attaching found and did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Links {
    /// Links that were made.
    pub(crate) made: usize,
    /// Links whose program was exchanged.
    pub(crate) exchanged: usize,
    /// Links that run this program already.
    pub(crate) kept: usize,
}

/// Loads the object with its maps pinned in, or taken from, the folder `maps`.
pub(crate) fn load(options: &Options<'_>, maps: &Path, features: Features) -> Result<Loaded, DatapathError> {
    let bytes = match options.object {
        Some(path) => {
            fs::read(path).map_err(|error| DatapathError::Object { path: path.to_owned(), error })?
        }
        None => embedded().ok_or(DatapathError::NoObject)?.to_vec(),
    };
    let flag = u32::from(features.netns_cookie);
    let mount = bulkhead_sys::cgroup::mount_point()?;
    let level = options.cgroup_root.strip_prefix(&mount).map_or(0, |below| below.components().count());
    let level = u32::try_from(level).unwrap_or(u32::MAX);
    let cgroup = bulkhead_sys::cgroup::id(options.cgroup_root)?;
    let mut loader = EbpfLoader::new();
    loader.override_global("HAS_NETNS_COOKIE", &flag, true);
    loader.override_global("GUARD_MARK", &options.guard_mark, true);
    loader.override_global("CGROUP_LEVEL", &level, true);
    loader.override_global("CGROUP_ID", &cgroup, true);
    loader.map_max_entries(names::FLOWS, options.flow_capacity);
    for name in names::MAPS {
        loader.map_pin_path(name, maps.join(name));
    }
    let mut object = loader.load(&bytes)?;
    drop(loader);
    for name in names::PROGRAMS.into_iter().chain(names::GUARD_PROGRAMS) {
        let program = object.program_mut(name).ok_or(DatapathError::Missing(name))?;
        let result = match program {
            Program::SchedClassifier(program) => program.load(),
            Program::CgroupSkb(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            _ => return Err(DatapathError::Missing(name)),
        };
        result.map_err(|error| DatapathError::Program { name, error })?;
    }
    Ok(Loaded { object })
}

impl Loaded {
    /// The program that judges packets of one direction.
    pub(crate) fn packet_program(&self, direction: Direction) -> Result<&CgroupSkb, DatapathError> {
        let name = match direction {
            Direction::Ingress => "skb_ingress",
            Direction::Egress => "skb_egress",
        };
        match self.object.program(name) {
            Some(Program::CgroupSkb(program)) => Ok(program),
            _ => Err(DatapathError::Missing(name)),
        }
    }

    /// One of the guard's programs, to be attached by whoever guards interfaces.
    pub(crate) fn guard_program(&self, name: &'static str) -> Result<(OwnedFd, ProgramInfo), DatapathError> {
        let Some(program @ Program::SchedClassifier(_)) = self.object.program(name) else {
            return Err(DatapathError::Missing(name));
        };
        let error = |error| DatapathError::Program { name, error };
        let fd = program.fd().map_err(error)?.as_fd().try_clone_to_owned();
        let fd = fd.map_err(|source| error(ProgramError::IOError(source)))?;
        Ok((fd, program.info().map_err(error)?))
    }

    /// A program of the guard, to be run by hand.
    pub(crate) fn trial_program(&self, name: &'static str) -> Result<&SchedClassifier, DatapathError> {
        match self.object.program(name) {
            Some(Program::SchedClassifier(program)) => Ok(program),
            _ => Err(DatapathError::Missing(name)),
        }
    }

    /// Attaches every program to the cgroup, or puts it into its pinned link.
    pub(crate) fn attach(&mut self, links: &Path, cgroup: &Path) -> Result<Links, DatapathError> {
        let root = File::open(cgroup).map_err(DatapathError::io("open", cgroup))?;
        let mut done = Links::default();
        for name in names::PROGRAMS {
            let pin = links.join(name);
            let program = self.object.program_mut(name).ok_or(DatapathError::Missing(name))?;
            if pin.exists() {
                if same_program(&pin, name, program)? {
                    done.kept += 1;
                    continue;
                }
                let fd = program.fd().map_err(|error| DatapathError::Program { name, error })?;
                let link = bulkhead_sys::pin::open(&pin)?;
                match bulkhead_sys::link::update(link.as_fd(), fd.as_fd(), None) {
                    Ok(()) => {
                        done.exchanged += 1;
                        continue;
                    }
                    // Its cgroup is gone: the link is dead, and a new one takes its place.
                    Err(error) if error.errno() == Some(ENOLINK) => {
                        fs::remove_file(&pin).map_err(DatapathError::io("remove", &pin))?;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            let link = attach(program, name, &root)?;
            link.pin(&pin).map_err(|error| DatapathError::Pin { name, error })?;
            done.made += 1;
        }
        Ok(done)
    }
}

const ENOLINK: i32 = 67;

/// Whether the pinned link runs a program of the same instructions over the same maps.
fn same_program(pin: &Path, name: &'static str, program: &Program) -> Result<bool, DatapathError> {
    let link_error = |error| DatapathError::Link { name, error };
    let link: FdLink = PinnedLink::from_pin(pin).map_err(link_error)?.into();
    let running = link.info().map_err(link_error)?.program_id();
    let ours = program.info().map_err(|error| DatapathError::Program { name, error })?;
    Ok(is_same(running, &ours))
}

/// Whether the program with the number `running` has the same instructions over the same maps.
pub(crate) fn is_same(running: u32, ours: &ProgramInfo) -> bool {
    let Some(theirs) = loaded(running) else { return false };
    // The tag covers the instructions, but not what the read-only data holds that they look at. That is
    // in maps of each load's own, so their numbers differ and their content counts.
    let maps = |info: &ProgramInfo| info.map_ids().ok().flatten().unwrap_or_default();
    let (ours_ids, theirs_ids) = (maps(ours), maps(&theirs));
    let apart = |ids: &[u32], others: &[u32]| -> Option<Vec<(String, Vec<u8>)>> {
        let mut data: Vec<_> = ids
            .iter()
            .filter(|id| !others.contains(id))
            .map(|id| read_only_data(*id))
            .collect::<Option<_>>()?;
        data.sort();
        Some(data)
    };
    let (ours_data, theirs_data) = (apart(&ours_ids, &theirs_ids), apart(&theirs_ids, &ours_ids));
    ours.tag() == theirs.tag() && ours_data.is_some() && ours_data == theirs_data
}

/// The name of the program with this number, or the number.
pub(crate) fn name_of(program: u32) -> String {
    let name = loaded(program).and_then(|info| info.name_as_str().map(str::to_owned));
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("program {program}"))
}

fn loaded(program: u32) -> Option<ProgramInfo> {
    aya::programs::loaded_programs().filter_map(Result::ok).find(|info| info.id() == program)
}

/// Name and content of a map of read-only data; `None` for any other, and where it cannot be read.
fn read_only_data(id: u32) -> Option<(String, Vec<u8>)> {
    let info = MapInfo::from_id(id).ok()?;
    let name = info.name_as_str().filter(|name| name.starts_with(".rodata"))?.to_owned();
    let fd = info.fd().ok()?;
    let content = Map::new(fd.as_fd()).ok()?.get(&0_u32.to_ne_bytes()).ok()??;
    Some((name, content))
}

fn attach(program: &mut Program, name: &'static str, root: &File) -> Result<FdLink, DatapathError> {
    // Links are multi by nature; the kernel refuses any other mode with them.
    const MODE: CgroupAttachMode = CgroupAttachMode::Single;
    let program_error = |error: ProgramError| DatapathError::Program { name, error };
    let link_error = |error: LinkError| DatapathError::Link { name, error };
    match program {
        Program::CgroupSkb(program) => {
            let direction = if name == "skb_ingress" {
                CgroupSkbAttachType::Ingress
            } else {
                CgroupSkbAttachType::Egress
            };
            let id = CgroupSkb::attach(program, root, direction, MODE).map_err(program_error)?;
            program.take_link(id).map_err(program_error)?.try_into().map_err(link_error)
        }
        Program::CgroupSockAddr(program) => {
            let id = CgroupSockAddr::attach(program, root, MODE).map_err(program_error)?;
            program.take_link(id).map_err(program_error)?.try_into().map_err(link_error)
        }
        Program::CgroupSock(program) => {
            let id = CgroupSock::attach(program, root, MODE).map_err(program_error)?;
            program.take_link(id).map_err(program_error)?.try_into().map_err(link_error)
        }
        _ => Err(DatapathError::Missing(name)),
    }
}

/// The object that the build took in.
pub fn embedded() -> Option<&'static [u8]> {
    #[cfg(bulkhead_object)]
    {
        Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bulkhead-ebpf")))
    }
    #[cfg(not(bulkhead_object))]
    {
        None
    }
}
