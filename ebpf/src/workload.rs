//! The workload that a cgroup is, or belongs to.

use bulkhead_abi::{Workload, limits};

use crate::tables;

/// The nearest cgroup that is in the table, from the leaf up to the one below which everything is ours.
#[inline(always)]
pub fn nearest(cgroup: u64, ancestor: impl Fn(i32) -> u64) -> Workload {
    if cgroup == 0 || tables::workload(cgroup).is_some() {
        return Workload { cgroup, anchor: cgroup };
    }
    let mut anchor = 0;
    for level in 0..limits::CGROUP_DEPTH as i32 {
        let id = ancestor(level + crate::CGROUP_LEVEL.load() as i32);
        if id == 0 || id == cgroup {
            break;
        }
        if tables::workload(id).is_some() {
            anchor = id;
        }
    }
    Workload { cgroup, anchor }
}
