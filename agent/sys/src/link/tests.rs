//! On a program of two instructions, attached to a cgroup of the test's own.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::*;
use crate::testing::{self, TestCgroup};

const CGROUP_SKB: u32 = 8;
const CGROUP_INET_EGRESS: u32 = 1;

/// A `cgroup_skb` program that returns `verdict`.
fn program(verdict: u32) -> OwnedFd {
    load(CGROUP_SKB, CGROUP_INET_EGRESS, verdict)
}

/// A `sched_cls` program that leaves every packet to the next.
pub(crate) fn classifier() -> OwnedFd {
    const SCHED_CLS: u32 = 3;
    load(SCHED_CLS, 0, u32::MAX)
}

fn load(kind: u32, attach_type: u32, verdict: u32) -> OwnedFd {
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
    // r0 = verdict; exit
    let instructions = [(u64::from(verdict) << 32) | 0xb7, 0x95];
    let mut load = Load {
        kind,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 3],
        name: [0; 16],
        ifindex: 0,
        attach_type,
    };
    // SAFETY: instructions and licence are where the addresses say, and outlive the call.
    unsafe { bpf::descriptor(5, "bpf(BPF_PROG_LOAD)", &mut load) }.unwrap()
}

fn attach(program: &OwnedFd, cgroup: &File) -> OwnedFd {
    create_on_cgroup(program.as_fd(), cgroup.as_fd(), CGROUP_INET_EGRESS).unwrap()
}

pub(crate) fn id(program: &OwnedFd) -> u32 {
    let [_, id] = bpf::info(program.as_fd()).unwrap();
    id
}

/// The program that `link` runs.
fn runs(link: &OwnedFd) -> u32 {
    info(link.as_fd()).unwrap().program
}

#[test]
fn a_link_tells_where_it_hangs_and_that_it_was_detached() {
    if !testing::root("link state") {
        return;
    }
    let group = TestCgroup::new("state");
    let egress = program(1);
    let link = attach(&egress, &File::open(group.path()).unwrap());
    let told = info(link.as_fd()).unwrap();
    let cgroup = crate::cgroup::id(group.path()).unwrap();
    assert_eq!(told.target, Target::Cgroup { cgroup, attach: CGROUP_INET_EGRESS });
    assert_eq!(id(&super::program(told.program).unwrap()), id(&egress));
    detach(link.as_fd()).unwrap();
    let target = Target::Cgroup { cgroup: 0, attach: CGROUP_INET_EGRESS };
    assert_eq!(info(link.as_fd()).unwrap(), LinkInfo { target, ..told });
    assert_eq!(super::program(u32::MAX).unwrap_err().errno(), Some(libc::ENOENT));
}

#[test]
fn a_links_program_is_exchanged_in_place() {
    if !testing::root("link update") {
        return;
    }
    let group = TestCgroup::new("link");
    let [first, second, third] = [1, 0, 1].map(program);
    let link = attach(&first, &File::open(group.path()).unwrap());
    assert_eq!(runs(&link), id(&first));
    update(link.as_fd(), second.as_fd(), None).unwrap();
    assert_eq!(runs(&link), id(&second));
    let error = update(link.as_fd(), third.as_fd(), Some(first.as_fd())).unwrap_err();
    assert_eq!((error.errno(), runs(&link)), (Some(libc::EPERM), id(&second)));
    update(link.as_fd(), third.as_fd(), Some(second.as_fd())).unwrap();
    assert_eq!(runs(&link), id(&third));
}

#[test]
fn runs_are_counted_while_the_guard_lives() {
    if !testing::root("run statistics") {
        return;
    }
    let program = program(1);
    let count = || {
        let words: [u32; 52] = bpf::info(program.as_fd()).unwrap();
        let [.., low, high] = words;
        u64::from(high) << 32 | u64::from(low)
    };
    let run = || {
        #[derive(FromBytes, IntoBytes, Immutable)]
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
        let packet = [0_u8; 64];
        let mut test = Test {
            program: program.as_raw_fd(),
            result: 0,
            size_in: 64,
            size_out: 0,
            input: packet.as_ptr() as u64,
            output: 0,
            repeat: 10,
            duration: 0,
        };
        // SAFETY: the packet is as long as it says and only read; no output is asked for.
        unsafe { bpf::call(10, "bpf(BPF_PROG_TEST_RUN)", &mut test) }.unwrap();
        assert_eq!(test.result, 1);
    };
    let _stats = RunStats::enable().unwrap();
    assert_eq!(count(), 0);
    run();
    assert_eq!(count(), 10);
}
