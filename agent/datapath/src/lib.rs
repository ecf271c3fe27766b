//! The kernel half, as the agent holds it.
//!
//! Load, attach, pin ([`Datapath::open`], [`Datapath::attach`]); make a policy live with one store
//! ([`Datapath::commit`]); read it back ([`Reader`]); take it off ([`detach`]). Maps and links are
//! pinned: when the agent dies, the kernel goes on with the last generation.

mod commit;
pub mod drift;
mod error;
mod events;
mod features;
pub mod guard;
pub mod keep;
mod locals;
pub mod maps;
mod programs;
mod reader;
mod sockets;
pub mod table;
mod told;
mod trial;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bulkhead_abi::{Control, Counter, limits, names, tables::FailsafeKey};
use bulkhead_policy::Image;
use bulkhead_sys::link;

pub use commit::Commit;
pub use error::DatapathError;
pub use events::{EventStream, PieceStream, Ring};
pub use features::Features;
pub use maps::{MapUsage, Maps};
pub use programs::embedded;
pub use reader::{EndpointQuery, KernelAnswer, ProgramStats, Reader};
pub use sockets::{Sockets, Surroundings};
pub use trial::TrialFrame;

use commit::Mirror;
use drift::Drift;
use maps::{CONTROL_FLAGS, CONTROL_GENERATION, CONTROL_HOST};
use programs::Loaded;

/// How to start.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Folder in a BPF file system for this instance's pins.
    pub pins: &'a Path,
    /// The cgroup below which everything is enforced.
    pub cgroup_root: &'a Path,
    /// Whether the whole node only reports.
    pub audit: bool,
    /// Ports that are always allowed for the node itself.
    pub failsafe: &'a [FailsafeKey],
    /// Entries of the flow table, when it is made anew.
    pub flow_capacity: u32,
    /// The bits of the packet mark that the guard may use, without a gap.
    pub guard_mark: u32,
    /// Another kernel object than the one built in.
    pub object: Option<&'a Path>,
}

/// What was there at the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attached {
    /// Nothing: enforcement is about to begin on a live machine.
    Fresh,
    /// The same programs, running.
    Resumed,
    /// Other programs, which were exchanged without a gap.
    Upgraded,
}

/// What [`Datapath::open`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Started {
    /// Whether programs were attached already; [`Datapath::attach`] says the rest.
    pub running: bool,
    /// Whether the maps are new, so that they know nothing yet of the flows that live: the first start,
    /// or a version with another layout.
    pub fresh: bool,
    /// The live generation; 0 when there never was one.
    pub generation: u64,
}

/// The kernel half of one instance.
pub struct Datapath {
    maps: Arc<Maps>,
    mirror: Mirror,
    loaded: Option<Loaded>,
    features: Features,
    links: PathBuf,
    maps_dir: PathBuf,
    cgroup_root: PathBuf,
    running: bool,
    /// What was last written to the control block.
    control: Control,
    /// What was last written to the table of failsafe ports.
    failsafe: BTreeSet<FailsafeKey>,
}

impl Datapath {
    /// Loads the programs and makes or reopens the maps. Nothing is attached yet: the policy is put in
    /// first, so that programs never run over empty tables.
    pub fn open(options: &Options<'_>) -> Result<(Self, Started), DatapathError> {
        Self::open_with(options, Features::probe()?)
    }

    /// The same on a kernel that offers no more than `features`: for trying what older ones get.
    pub fn open_with(options: &Options<'_>, features: Features) -> Result<(Self, Started), DatapathError> {
        let (maps_dir, links) = (maps_dir(options.pins), links_dir(options.pins));
        for dir in [&maps_dir, &links] {
            keep::make_folder(dir)?;
        }
        let fresh = !maps_dir.join(names::CONTROL).exists();
        let running = names::PROGRAMS.iter().any(|name| links.join(name).exists());
        let loaded = programs::load(options, &maps_dir, features)?;
        let maps = Arc::new(Maps::open(&maps_dir)?);
        let host = bulkhead_sys::netns::NetNs::current()?.cookie()?;
        maps.control.store(CONTROL_HOST, host)?;
        let mut flags = if options.audit { Control::FLAG_AUDIT } else { 0 };
        if !running {
            flags |= Control::FLAG_ADOPTING;
        }
        let mirror = Mirror::read(&maps)?;
        let mut datapath = Self {
            mirror,
            loaded: Some(loaded),
            features,
            links,
            maps_dir,
            cgroup_root: options.cgroup_root.to_owned(),
            running,
            control: Control { generation: maps.generation()?, host_netns: host, flags },
            failsafe: BTreeSet::new(),
            maps,
        };
        if fresh || !running {
            datapath.maps.control.store(CONTROL_FLAGS, flags)?;
        } else {
            datapath.set_audit(options.audit)?;
        }
        datapath.set_failsafe(options.failsafe)?;
        let generation = datapath.maps.generation()?;
        Ok((datapath, Started { running, fresh, generation }))
    }

    /// Attaches the programs, or puts them in the place of those that run.
    pub fn attach(&mut self) -> Result<Attached, DatapathError> {
        let Some(mut loaded) = self.loaded.take() else { return Ok(Attached::Resumed) };
        let done = loaded.attach(&self.links, &self.cgroup_root)?;
        self.remove_other_layouts()?;
        Ok(match (self.running, done.made + done.exchanged) {
            (false, _) => Attached::Fresh,
            (true, 0) => Attached::Resumed,
            (true, _) => Attached::Upgraded,
        })
    }

    /// Everything that must stay as it is now, for whoever watches over it. Once all is attached.
    pub fn watched(&self) -> Result<Vec<Box<dyn keep::Watched>>, DatapathError> {
        keep::all(&self.links, &self.maps_dir, &self.cgroup_root)
    }

    /// The guard, which is not on any interface yet. Only before [`Datapath::attach`].
    pub fn guard(&self, attachment: guard::Attachment) -> Result<guard::Guard, DatapathError> {
        let loaded = self.loaded.as_ref().ok_or(DatapathError::Missing("guard_ingress"))?;
        guard::Guard::new(loaded, &self.maps, &self.links, attachment)
    }

    /// Takes the guard of an earlier agent off every interface; how many those were.
    pub fn take_guard_off(&self) -> Result<usize, DatapathError> {
        let done = guard::take_off(&self.links, &self.maps_dir)?;
        told::set_interfaces(&self.maps, &BTreeMap::new())?;
        Ok(done.interfaces)
    }

    /// Makes an image live. Writes what differs, and nothing when nothing does.
    pub fn commit(&mut self, image: &Image) -> Result<Commit, DatapathError> {
        let commit = self.mirror.commit(&self.maps, image);
        // Also one that failed may have gone live.
        self.control.generation = self.maps.generation()?;
        commit
    }

    /// Reads every table of the policy back and compares it with `image`, which was committed last; if
    /// this process has committed none, with what was found at the start.
    pub fn verify(&self, image: Option<&Image>) -> Result<Drift, DatapathError> {
        drift::find(&self.maps, self.mirror.wanted(image, &self.failsafe, self.control))
    }

    /// Writes right what [`Datapath::verify`] found with the same `image`, and has every flow judged
    /// again by a new generation, which is answered.
    pub fn repair(&mut self, drift: &Drift, image: Option<&Image>) -> Result<u64, DatapathError> {
        self.control.generation = drift::repair(&self.maps, drift)?;
        self.mirror.repaired(image);
        bulkhead_sys::rcu::grace_period()?;
        Ok(self.control.generation)
    }

    /// Follows workloads under an unchanged policy; how many entries were touched.
    pub fn set_workloads(&mut self, image: &Image) -> Result<usize, DatapathError> {
        self.mirror.set_workloads(&self.maps, image)
    }

    /// Begins to enforce: what was tracked while adopting is judged again from its next packet on.
    pub fn begin_enforcement(&mut self) -> Result<(), DatapathError> {
        let flags = self.maps.control.load(CONTROL_FLAGS)?;
        if flags & Control::FLAG_ADOPTING == 0 {
            return Ok(());
        }
        self.set_flags(flags & !Control::FLAG_ADOPTING)
    }

    /// Sets the mode of the whole node.
    pub fn set_audit(&mut self, audit: bool) -> Result<(), DatapathError> {
        let flags = self.maps.control.load(CONTROL_FLAGS)?;
        let wanted = if audit { flags | Control::FLAG_AUDIT } else { flags & !Control::FLAG_AUDIT };
        if wanted == flags { Ok(()) } else { self.set_flags(wanted) }
    }

    /// What the kernel offers, and so which fallbacks are in use.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Read access.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.maps))
    }

    /// The event ring.
    pub fn events(&self) -> Result<EventStream, DatapathError> {
        EventStream::open(&self.maps)
    }

    /// The ring of opening bytes.
    pub fn pieces(&self) -> Result<PieceStream, DatapathError> {
        PieceStream::open(&self.maps)
    }

    /// New flags, and a new generation of the same policy, so that every flow is judged again.
    fn set_flags(&mut self, flags: u64) -> Result<(), DatapathError> {
        let generation = self.maps.generation()?;
        self.maps.control.store(CONTROL_FLAGS, flags)?;
        self.maps.control.store(CONTROL_GENERATION, generation + 1)?;
        self.control = Control { generation: generation + 1, flags, ..self.control };
        // The next commit writes the version that the last generation reads.
        Ok(bulkhead_sys::rcu::grace_period()?)
    }

    /// Removes the maps of versions with another layout, which no program uses any more.
    fn remove_other_layouts(&self) -> Result<(), DatapathError> {
        let (Some(pins), ours) = (self.links.parent(), &self.maps_dir) else { return Ok(()) };
        for dir in folders(pins)?.iter().filter(|dir| *dir != &self.links && *dir != ours) {
            remove_pins(dir)?;
            fs::remove_dir(dir).map_err(DatapathError::io("remove", dir))?;
        }
        Ok(())
    }

    fn set_failsafe(&mut self, wanted: &[FailsafeKey]) -> Result<(), DatapathError> {
        let held: BTreeSet<FailsafeKey> =
            self.maps.failsafe.entries()?.into_iter().map(|(key, _)| key).collect();
        let wanted: BTreeSet<FailsafeKey> = wanted.iter().copied().collect();
        let capacity = limits::FAILSAFE as usize;
        if wanted.len() > capacity {
            return Err(DatapathError::Full { name: names::FAILSAFE, needed: wanted.len(), capacity });
        }
        let gone: Vec<_> = held.difference(&wanted).copied().collect();
        let new: Vec<_> = wanted.difference(&held).map(|&key| (key, 0)).collect();
        self.maps.failsafe.remove_all(&gone)?;
        self.maps.failsafe.set_all(&new)?;
        self.failsafe = wanted;
        Ok(())
    }
}

/// What [`detach`] took away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Detached {
    /// Links at the cgroup: programs that ran.
    pub links: usize,
    /// Interfaces that the guard was on.
    pub interfaces: usize,
    /// Maps.
    pub maps: usize,
}

/// Takes enforcement off: removes every pin below `pins`, which ends the programs and frees the maps
/// once nobody holds them open. Nothing there is fine.
pub fn detach(pins: &Path) -> Result<Detached, DatapathError> {
    let guard = guard::take_off(&links_dir(pins), &maps_dir(pins))?;
    for pin in folders(&links_dir(pins))? {
        // What cannot be taken off at once goes with its pin, a moment later.
        let _ = bulkhead_sys::pin::open(&pin).and_then(|link| bulkhead_sys::link::detach(link.as_fd()));
    }
    let links = remove_pins(&links_dir(pins))?;
    let mut maps = 0;
    for dir in folders(pins)? {
        maps += remove_pins(&dir)?;
        fs::remove_dir(&dir).map_err(DatapathError::io("remove", &dir))?;
    }
    if pins.exists() {
        fs::remove_dir(pins).map_err(DatapathError::io("remove", pins))?;
    }
    Ok(Detached { links, interfaces: guard.interfaces, maps })
}

/// Whether programs of this instance are attached.
pub fn is_attached(pins: &Path) -> bool {
    names::PROGRAMS.iter().any(|name| links_dir(pins).join(name).exists())
}

/// The cgroups, by id, that other instances guard whose pins lie beside `pins`. An instance that comes or goes
/// meanwhile may be in it or not.
pub fn others(pins: &Path) -> Result<BTreeSet<u64>, DatapathError> {
    let mut cgroups = BTreeSet::new();
    for other in pins.parent().map(folders).transpose()?.unwrap_or_default() {
        if other == pins {
            continue;
        }
        let links = names::PROGRAMS.iter().map(|name| links_dir(&other).join(name));
        let infos = links.filter_map(|pin| link::info(bulkhead_sys::pin::open(&pin).ok()?.as_fd()).ok());
        cgroups.extend(infos.filter_map(|info| match info.target {
            link::Target::Cgroup { cgroup, .. } => Some(cgroup).filter(|&cgroup| cgroup != 0),
            link::Target::Other => None,
        }));
    }
    Ok(cgroups)
}

/// The folder of the maps. Its name changes with their layout, so that a new version never reads
/// tables of an old shape.
pub(crate) fn maps_dir(pins: &Path) -> PathBuf {
    pins.join(format!("maps-{}", names::LAYOUT))
}

fn links_dir(pins: &Path) -> PathBuf {
    pins.join("links")
}

pub(crate) fn folders(pins: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    match fs::read_dir(pins) {
        Ok(entries) => Ok(entries.filter_map(Result::ok).map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(DatapathError::Io { action: "read", path: pins.to_owned(), error }),
    }
}

fn remove_pins(dir: &Path) -> Result<usize, DatapathError> {
    let pins = folders(dir)?;
    for pin in &pins {
        fs::remove_file(pin).map_err(DatapathError::io("remove", pin))?;
    }
    Ok(pins.len())
}

const _: () = assert!(size_of::<Counter>().is_multiple_of(8), "per-CPU values are read in steps of eight");
