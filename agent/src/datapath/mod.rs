//! The way into the kernel: not here yet. Every call says so.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use bulkhead_abi::names::Loss;
use bulkhead_abi::tables::FailsafeKey;
use bulkhead_abi::{Addr, Cell, Counter, CounterKey, Event, FlowKey, FlowState, Identity, Protocol};
use bulkhead_policy::{Image, Prefix};

/// Why the kernel half could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// This build has none.
    #[error("this build has no kernel half")]
    Absent,
}

/// How to open it.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Options<'a> {
    pub pins: &'a Path,
    pub cgroup_root: &'a Path,
    pub audit: bool,
    pub failsafe: &'a [FailsafeKey],
    pub flow_capacity: u32,
    pub object: Option<&'a Path>,
}

/// How it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Attached {
    Fresh,
    Resumed,
    Upgraded,
}

/// What was found.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Started {
    pub attached: Attached,
    pub generation: u64,
}

/// What a commit did.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Commit {
    pub generation: u64,
    pub changed: bool,
    pub written: usize,
    pub removed: usize,
    pub stage: Duration,
    pub total: Duration,
}

/// How full a map is.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct MapUsage {
    pub name: &'static str,
    pub entries: u64,
    pub capacity: u64,
}

/// What a program costs.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct ProgramStats {
    pub name: String,
    pub run_count: u64,
    pub run_time: Duration,
    pub instructions: u32,
}

/// An end of a flow, for [`Reader::explain`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct EndpointQuery {
    pub addr: Addr,
    pub cgroup: Option<u64>,
}

/// What the kernel's tables say.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct KernelAnswer {
    pub from: Identity,
    pub to: Identity,
    pub cell: Option<Cell>,
    pub generation: u64,
}

/// What was taken off.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Detached {
    pub links: usize,
    pub maps: usize,
}

/// The kernel half.
#[derive(Debug)]
pub struct Datapath;

/// Its tables, for reading.
#[derive(Clone, Debug)]
pub struct Reader;

/// Its events.
#[derive(Debug)]
pub struct EventStream;

#[allow(missing_docs)]
impl Datapath {
    pub fn open(_: &Options<'_>) -> Result<(Self, Started), DatapathError> {
        Err(DatapathError::Absent)
    }
    pub fn commit(&mut self, _: &Image) -> Result<Commit, DatapathError> {
        Err(DatapathError::Absent)
    }
    pub fn set_workloads(&mut self, _: &Image) -> Result<usize, DatapathError> {
        Err(DatapathError::Absent)
    }
    pub fn set_locals(&mut self, _: &BTreeMap<Addr, u64>) -> Result<usize, DatapathError> {
        Err(DatapathError::Absent)
    }
    pub fn begin_enforcement(&mut self) -> Result<(), DatapathError> {
        Err(DatapathError::Absent)
    }
    pub fn set_audit(&mut self, _: bool) -> Result<(), DatapathError> {
        Err(DatapathError::Absent)
    }
    pub fn reader(&self) -> Result<Reader, DatapathError> {
        Err(DatapathError::Absent)
    }
    pub fn take_events(&mut self) -> Result<EventStream, DatapathError> {
        Err(DatapathError::Absent)
    }
}

#[allow(missing_docs)]
impl EventStream {
    pub fn drain(&mut self, _: usize) -> Vec<Event> {
        Vec::new()
    }
}

impl AsRawFd for EventStream {
    fn as_raw_fd(&self) -> RawFd {
        -1
    }
}

#[allow(missing_docs)]
impl Reader {
    pub fn generation(&self) -> u64 {
        0
    }
    pub fn audit(&self) -> bool {
        false
    }
    pub fn counters(&self) -> Result<Vec<(CounterKey, Counter)>, DatapathError> {
        Err(DatapathError::Absent)
    }
    pub fn losses(&self) -> Result<Vec<(Loss, u64)>, DatapathError> {
        Err(DatapathError::Absent)
    }
    pub fn usage(&self) -> Result<Vec<MapUsage>, DatapathError> {
        Err(DatapathError::Absent)
    }
    pub fn programs(&self) -> Result<Vec<ProgramStats>, DatapathError> {
        Err(DatapathError::Absent)
    }
    pub fn flows(&self) -> Result<Vec<(FlowKey, FlowState)>, DatapathError> {
        Err(DatapathError::Absent)
    }
    pub fn workloads(&self) -> Result<Vec<(u64, Identity)>, DatapathError> {
        Err(DatapathError::Absent)
    }
    pub fn prefixes(&self) -> Result<Vec<(Prefix, Identity)>, DatapathError> {
        Err(DatapathError::Absent)
    }
    pub fn failsafe(&self) -> Result<Vec<(FailsafeKey, u64)>, DatapathError> {
        Err(DatapathError::Absent)
    }
    pub fn explain(
        &self,
        _: &EndpointQuery,
        _: &EndpointQuery,
        _: Protocol,
        _: u16,
    ) -> Result<KernelAnswer, DatapathError> {
        Err(DatapathError::Absent)
    }
}

/// Takes enforcement off.
pub fn detach(_: &Path) -> Result<Detached, DatapathError> {
    Err(DatapathError::Absent)
}
