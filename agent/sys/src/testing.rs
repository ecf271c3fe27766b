//! What the tests share: asking for root, and scratch cgroups and namespaces.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cgroup;
use crate::netns::NetNs;

/// Whether this test can run. Without root it says SKIPPED, except under `CI=true`, where it fails.
pub(crate) fn root(test: &str) -> bool {
    // SAFETY: always succeeds and takes nothing.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{test} needs root");
        eprintln!("SKIPPED {test}: needs root");
    }
    root
}

/// A cgroup that is removed, with all below it, when dropped.
pub(crate) struct TestCgroup(PathBuf);

impl TestCgroup {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bulkhead-sys-{}-{name}-{number}", std::process::id());
        let path = cgroup::mount_point().unwrap().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        let mut tree = cgroup::tree(&self.0).unwrap();
        tree.sort();
        tree.sort_by_key(|group| std::cmp::Reverse(group.path.components().count()));
        for group in tree {
            fs::remove_dir(self.0.join(group.path)).unwrap();
        }
    }
}

/// Runs `f` on a thread whose mounts nobody else sees.
pub(crate) fn in_own_mount_namespace(f: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: no pointers are passed; only this thread changes.
                assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
                // SAFETY: both strings are terminated; no other pointer is followed.
                let status = unsafe {
                    libc::mount(
                        std::ptr::null(),
                        c"/".as_ptr(),
                        std::ptr::null(),
                        libc::MS_REC | libc::MS_PRIVATE,
                        std::ptr::null(),
                    )
                };
                assert_eq!(status, 0);
                f();
            })
            .join()
            .unwrap();
    });
}

/// A network namespace with loopback up. It ends with the handle.
pub(crate) fn netns() -> NetNs {
    std::thread::spawn(|| {
        // SAFETY: no pointers are passed; only this thread changes.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        let status = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(status.success());
        NetNs::current().unwrap()
    })
    .join()
    .unwrap()
}

/// Runs `ip` with `arguments` inside `ns`.
pub(crate) fn ip(ns: &NetNs, arguments: &str) {
    let mut command = std::process::Command::new("ip");
    let status = ns.run(|| command.args(arguments.split(' ')).status().unwrap()).unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Waits until `condition` holds; fails after ten seconds.
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
