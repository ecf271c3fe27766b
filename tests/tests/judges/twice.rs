//! A lookup that runs while its key is written anew may find nothing: where several keys share a bucket, the
//! new element goes to its head, behind the reader's back, and the old one is taken out before the reader comes
//! to it. Programs and agent look a second time; without that, one in some ten thousand lookups here would find
//! that an address is nobody's.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bulkhead_abi::tables::WorkloadValue;
use bulkhead_abi::{Addr, Direction, Identity, LocalAddress, Reason, Verdict};
use bulkhead_core::tables::Tables;
use bulkhead_datapath::table::{Plain, Table};
use bulkhead_tests::harness::packet::Ip;

use crate::chamber::Chamber;
use crate::require_programs;

/// Others in the table: nearly as many as it takes, so that few keys have a bucket of their own.
const CROWD: u64 = 60_000;
/// Lookups of each key. Most keys share a bucket with another.
const PACKETS: u32 = 50_000;
/// So many keys.
const KEYS: usize = 8;

/// A zone that the tables say nothing more of: nothing passes from it.
const ZONE: Identity = Identity(4000);

#[test]
fn an_address_is_found_while_its_entry_is_written_anew() {
    require_programs!();
    let mut chamber = Chamber::new(&["a"]);
    if chamber.seen_netns == 0 {
        // Before Linux 6.15 a test run's socket is of no namespace that is known, and forges nothing.
        return;
    }
    let cgroup = chamber.cgroup("a");
    let zoned = WorkloadValue { cgroup, identity: [ZONE; 2] };
    chamber.reader.maps().workloads.set_all(&[(cgroup, zoned)]).unwrap();
    let table = &chamber.reader.maps().locals;
    // Another namespace's, all of them.
    let local = |n: u32| {
        let [a, b, c, d] = (0x0a40_0000 + n).to_be_bytes();
        let addr = Addr::v4([a, b, c, d]);
        (addr, LocalAddress { addr, netns: 1 })
    };
    let all: Vec<(Addr, LocalAddress)> = (0..CROWD as u32).map(local).collect();
    table.set_all(&all).unwrap();
    let table = chamber.reader.clone();
    for number in 0..KEYS as u32 {
        let (addr, _) = local(number * 5000);
        let packets = flood(addr);
        let verdicts = rewritten(&table.maps().locals, addr, || chamber.run("a", packets));
        assert!(verdicts.iter().all(|passes| !passes));
        let mut told = Vec::new();
        for (key, counter) in chamber.take_counters() {
            told.push((Verdict::from_code(key.verdict), Reason::from_code(key.reason), counter.packets));
        }
        assert_eq!(
            told,
            [(Verdict::Deny, Reason::Spoofed, PACKETS.into())],
            "the rest was not seen to be forged"
        );
    }
}

/// The agent ends flows by what it reads there.
#[test]
fn the_agent_finds_what_is_written_anew() {
    require_programs!();
    let chamber = Chamber::new(&["a"]);
    let table = &chamber.reader.maps().workloads;
    let value = |cgroup| WorkloadValue { cgroup, identity: [ZONE; 2] };
    let all: Vec<(u64, WorkloadValue)> = (0..CROWD).map(|n| (n | 1 << 40, value(n | 1 << 40))).collect();
    table.set_all(&all).unwrap();
    for number in 0..KEYS {
        let (cgroup, _) = all[number * 5000];
        let missed = rewritten(table, cgroup, || {
            (0..PACKETS).filter(|_| chamber.reader.workload(cgroup).is_none()).count()
        });
        assert_eq!(missed, 0, "of {PACKETS}");
    }
}

/// Datagrams from this address, each with a tuple of its own, so that no verdict is remembered.
fn flood(from: Addr) -> Vec<(Direction, Vec<u8>)> {
    let from = bulkhead_policy::prefix::to_ip(from);
    let packet = Ip::between(from, [198, 51, 100, 7].into()).udp(0, 4000, b"!");
    let numbered = |number: u32| {
        let mut packet = packet.clone();
        packet[20..22].copy_from_slice(&(number as u16).to_be_bytes());
        (Direction::Egress, packet)
    };
    (0..PACKETS).map(numbered).collect()
}

/// Does `work` while what `key` has is written again and again, after whatever may be in the same bucket: the
/// kernel lists a table bucket by bucket.
fn rewritten<K: Plain + PartialEq + Sync, V: Plain + Sync, T>(
    table: &Table<K, V>,
    key: K,
    work: impl FnOnce() -> T,
) -> T {
    let all = table.entries().unwrap();
    let at = all.iter().position(|(found, _)| *found == key).unwrap();
    let mut near = all[at.saturating_sub(4)..all.len().min(at + 5)].to_vec();
    near.retain(|(found, _)| *found != key);
    near.push(all[at]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                table.set_all(&near).unwrap();
                // So seldom that two of them do not meet one lookup and its second.
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        let _over = Over(&over);
        work()
    })
}

/// Ends the writing when it is dropped, by a panic, too.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
