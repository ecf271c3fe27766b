//! What the tests of staying power share.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bulkhead_tests::harness::Agent;

/// Longer than anything takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// An address and a port.
pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// The live generation.
pub(crate) fn generation(agent: &Agent) -> u64 {
    agent.reader().unwrap().generation()
}

/// Waits for the generation after `before`, and for no other.
pub(crate) fn one_commit_later(agent: &Agent, before: u64) -> u64 {
    if let Err(error) = agent.wait_generation(before + 1) {
        panic!("{error}");
    }
    let now = generation(agent);
    assert_eq!(now, before + 1, "one commit for one change");
    now
}

/// The kernel's numbers of everything that is pinned: `link_id`, `prog_id`, `prog_tag`, `map_id`, by
/// name, read from what the kernel tells of an open descriptor.
pub(crate) fn kernel_numbers(pins: &Path) -> Vec<String> {
    let mut numbers = Vec::new();
    for folder in std::fs::read_dir(pins).unwrap().map(|entry| entry.unwrap().path()) {
        for pin in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            use std::os::fd::AsRawFd;
            let fd = bulkhead_sys::pin::open(&pin).unwrap();
            let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
            let name = pin.strip_prefix(pins).unwrap().display().to_string();
            let wanted = ["link_id", "prog_id", "prog_tag", "map_id"];
            for line in told.lines().filter(|line| wanted.iter().any(|word| line.starts_with(word))) {
                numbers.push(format!("{name} {}", line.replace(['\t', ' '], "")));
            }
        }
    }
    numbers.sort();
    assert!(numbers.iter().any(|number| number.contains("prog_tag")), "{numbers:?}");
    numbers
}

/// The kernel object with one constant changed, as a new version would have: flows of protocols
/// without ports live a second longer.
pub(crate) fn another_object() -> Vec<u8> {
    const SECOND: u64 = 1_000_000_000;
    let mut object = match std::env::var_os("BULKHEAD_OBJECT") {
        Some(path) => std::fs::read(path).unwrap(),
        None => bulkhead::datapath::embedded().expect("a build with the kernel half").to_vec(),
    };
    // A wide load of a constant: opcode, register, four zeroes between the halves of the value.
    let load = |value: u64| {
        let bytes = value.to_le_bytes();
        [&bytes[..4], &[0; 4], &bytes[4..]].concat()
    };
    let (old, new) = (load(600 * SECOND), load(601 * SECOND));
    let places: Vec<usize> = (8..object.len() - old.len())
        .filter(|&at| object[at..].starts_with(&old) && object[at - 4] == 0x18)
        .collect();
    assert!(places.len() >= 2, "the constant is not found: choose another");
    for at in places {
        object[at..at + new.len()].copy_from_slice(&new);
    }
    object
}

/// Ends threads of a test also when the test fails, or they would never be joined.
pub(crate) struct Ends<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
