//! Programs by their descriptors: the smallest ones there are, and running any by hand.
//!
//! For tests and for measuring; what enforces is loaded elsewhere.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use zerocopy::{Immutable, IntoBytes};

use crate::{Result, bpf};

/// Where a program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `cgroup_skb/ingress`.
    CgroupIngress,
    /// `cgroup_skb/egress`.
    CgroupEgress,
    /// The traffic control hooks of an interface.
    Classifier,
}

/// What came of a run by hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TestRun {
    /// What the program returned.
    pub verdict: u32,
    /// How long one run took, in whole nanoseconds; the mean of all.
    pub each: Duration,
}

/// Loads a program of two instructions, which does nothing but return `verdict`.
pub fn constant(kind: Kind, verdict: u32) -> Result<OwnedFd> {
    #[derive(IntoBytes, Immutable)]
    #[repr(C)]
    struct Load {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log: [u64; 3],
        name: [u8; 16],
        ifindex: u32,
        attach_type: u32,
    }
    // BPF_PROG_TYPE_SCHED_CLS and BPF_PROG_TYPE_CGROUP_SKB
    let (program_type, attach_type) = match kind {
        Kind::Classifier => (3, 0),
        Kind::CgroupIngress | Kind::CgroupEgress => (8, kind.attach_type()),
    };
    // r0 = verdict; exit
    let instructions = [(u64::from(verdict) << 32) | 0xb7, 0x95];
    let mut load = Load {
        kind: program_type,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 3],
        name: [0; 16],
        ifindex: 0,
        attach_type,
    };
    // SAFETY: instructions and licence are where the addresses say, and outlive the call.
    unsafe { bpf::descriptor(bpf::PROG_LOAD, "bpf(BPF_PROG_LOAD)", &mut load) }
}

/// Runs a packet program `repeat` times over an Ethernet frame, attached or not (BPF_PROG_TEST_RUN). The
/// frame's socket has the calling thread's cgroup and network namespace.
pub fn test_run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> Result<TestRun> {
    #[derive(IntoBytes, Immutable)]
    #[repr(C)]
    struct Test {
        program: i32,
        result: u32,
        size_in: u32,
        size_out: u32,
        input: u64,
        output: u64,
        repeat: u32,
        duration: u32,
    }
    let mut test = Test {
        program: program.as_raw_fd(),
        result: 0,
        size_in: u32::try_from(frame.len()).unwrap_or(u32::MAX),
        size_out: 0,
        input: frame.as_ptr() as u64,
        output: 0,
        repeat,
        duration: 0,
    };
    // SAFETY: the frame is as long as it says and only read; no output is asked for.
    unsafe { bpf::call(bpf::PROG_TEST_RUN, "bpf(BPF_PROG_TEST_RUN)", &mut test) }?;
    Ok(TestRun { verdict: test.result, each: Duration::from_nanos(test.duration.into()) })
}

impl Kind {
    /// Its `bpf_attach_type` at a cgroup, for [`create_on_cgroup`](crate::link::create_on_cgroup).
    pub const fn attach_type(self) -> u32 {
        match self {
            Kind::CgroupIngress => 0,
            Kind::CgroupEgress | Kind::Classifier => 1,
        }
    }
}
