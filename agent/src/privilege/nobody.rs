//! Becoming a user who may do nothing: for the process that reads strangers' bytes.

use std::io;

use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Uid};

use super::PrivilegeError;

/// The overflow user and group (`/proc/sys/kernel/overflowuid`): nobody's files are theirs.
const NOBODY: u32 = 65534;

/// Gives up every privilege for good: user, groups, capabilities, new privileges; memory is not dumped, and
/// other processes of the same user may not look into it. No other thread may run yet. Nothing is done
/// where the process is nobody already.
pub fn become_nobody() -> Result<(), PrivilegeError> {
    let stuck =
        |what| move |error: rustix::io::Errno| PrivilegeError::Stuck { what, source: io::Error::from(error) };
    if rustix::process::getuid().is_root() {
        raise_descriptors();
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        rustix::thread::set_thread_groups(&[]).map_err(stuck("groups"))?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(stuck("the group"))?;
        // Capabilities go with the user (capabilities(7)).
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(stuck("the user"))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(stuck("new privileges"))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(stuck("dumps"))
}

/// A connection takes two descriptors: as many as the system lets us have.
fn raise_descriptors() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // Where it cannot be raised the proxy takes fewer connections, and says so when they run out.
    let _ = rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit { current: limit.maximum, maximum: limit.maximum },
    );
}
