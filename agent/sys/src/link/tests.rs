//! On a program of two instructions, attached to a cgroup of the test's own.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use super::*;
use crate::program::{self, Kind};
use crate::testing::{self, TestCgroup};

const CGROUP_INET_EGRESS: u32 = Kind::CgroupEgress.attach_type();

/// A `cgroup_skb` program that returns `verdict`.
fn program(verdict: u32) -> OwnedFd {
    program::constant(Kind::CgroupEgress, verdict).unwrap()
}

/// A `sched_cls` program that leaves every packet to the next.
pub(crate) fn classifier() -> OwnedFd {
    program::constant(Kind::Classifier, u32::MAX).unwrap()
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
        let run = program::test_run(program.as_fd(), &[0; 64], 10).unwrap();
        assert_eq!(run.verdict, 1);
    };
    let _stats = RunStats::enable().unwrap();
    assert_eq!(count(), 0);
    run();
    assert_eq!(count(), 10);
}
