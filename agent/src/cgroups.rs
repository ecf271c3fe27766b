//! Follows the cgroup tree: which workloads exist, by id and path.
//!
//! The kernel tells of each directory that is made or removed (inotify), and a walk every few seconds
//! is the truth when that told too little. A workload that is not known yet is judged by its nearest
//! known ancestor, so being late costs precision, never the verdict's safety.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use tokio::io::unix::AsyncFd;
use tokio::time::{Duration, Instant, sleep_until};

/// Time between two walks of the whole tree.
const RESCAN: Duration = Duration::from_secs(5);

/// The cgroups below one root.
#[derive(Debug)]
pub struct CgroupFollower {
    inotify: AsyncFd<Inotify>,
    root: PathBuf,
    /// Directories that are watched, below the root.
    watched: HashMap<WatchDescriptor, String>,
    /// Id and path below the root; the root itself is the empty path.
    tree: BTreeMap<u64, String>,
    next_rescan: Instant,
    buffer: Vec<u8>,
    /// Whether the lack of watches was said.
    complained: bool,
}

impl CgroupFollower {
    /// Walks the tree below `root` and follows it. Must be called inside a tokio runtime.
    pub fn new(root: &Path) -> io::Result<Self> {
        // An unreadable root is an error here; later it is an empty tree.
        fs::read_dir(root)?;
        let mut follower = Self {
            inotify: crate::readiness::watch(Inotify::init()?)?,
            root: root.to_owned(),
            watched: HashMap::new(),
            tree: BTreeMap::new(),
            next_rescan: Instant::now() + RESCAN,
            buffer: vec![0; 64 * 1024],
            complained: false,
        };
        follower.rescan();
        Ok(follower)
    }

    /// Cgroup id → path below the root, without a leading slash.
    pub fn cgroups(&self) -> &BTreeMap<u64, String> {
        &self.tree
    }

    /// Waits until the tree is another. Dropping the future loses nothing that a walk does not find.
    pub async fn changed(&mut self) {
        loop {
            tokio::select! {
                () = sleep_until(self.next_rescan) => {
                    self.next_rescan = Instant::now() + RESCAN;
                    if self.rescan() {
                        return;
                    }
                }
                ready = self.inotify.readable_mut() => match ready {
                    Ok(mut guard) => {
                        let mut seen = Vec::new();
                        let read = guard.try_io(|inotify| {
                            for event in inotify.get_mut().read_events(&mut self.buffer)? {
                                let name = event.name.map(|name| name.to_string_lossy().into_owned());
                                seen.push((event.wd.clone(), event.mask, name));
                            }
                            Ok(())
                        });
                        drop(guard);
                        if let Ok(Err(error)) = read {
                            tracing::debug!(%error, "reading the cgroup tree's changes failed");
                        }
                        let mut changed = false;
                        for (descriptor, mask, name) in seen {
                            changed |= self.apply(&descriptor, mask, name.as_deref());
                        }
                        if changed {
                            return;
                        }
                    }
                    // The walk remains.
                    Err(_) => tokio::time::sleep(RESCAN).await,
                }
            }
        }
    }

    /// Walks the whole tree; whether it was another than known.
    pub fn rescan(&mut self) -> bool {
        let before = std::mem::take(&mut self.tree);
        self.enter(String::new());
        let tree = &self.tree;
        let paths: std::collections::HashSet<&String> = tree.values().collect();
        self.watched.retain(|_, path| paths.contains(path));
        before != self.tree
    }

    fn apply(&mut self, descriptor: &WatchDescriptor, mask: EventMask, name: Option<&str>) -> bool {
        if mask.contains(EventMask::Q_OVERFLOW) {
            return self.rescan();
        }
        if mask.contains(EventMask::IGNORED) {
            self.watched.remove(descriptor);
            return false;
        }
        let (Some(parent), Some(name)) = (self.watched.get(descriptor), name) else { return false };
        if !mask.contains(EventMask::ISDIR) {
            return false;
        }
        let path = below(parent, name);
        if mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM) {
            // Gone, unless it was made again meanwhile: then its own event follows.
            let inside = format!("{path}/");
            let before = self.tree.len();
            self.tree.retain(|_, known| *known != path && !known.starts_with(&inside));
            return self.tree.len() != before;
        }
        self.enter(path)
    }

    /// Takes in `path` and everything below it; whether anything is new.
    fn enter(&mut self, path: String) -> bool {
        let mut changed = false;
        let mut waiting = vec![path];
        while let Some(path) = waiting.pop() {
            let directory = self.root.join(&path);
            let Ok(meta) = fs::metadata(&directory) else { continue };
            // Watched before it is listed: what is made in between is seen twice rather than never.
            self.watch(&directory, &path);
            if let Ok(entries) = fs::read_dir(&directory) {
                let children =
                    entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
                waiting.extend(children.map(|entry| below(&path, &entry.file_name().to_string_lossy())));
            }
            // In cgroup v2 a directory's inode number is the cgroup's id.
            changed |= self.tree.insert(meta.ino(), path.clone()) != Some(path);
        }
        changed
    }

    fn watch(&mut self, directory: &Path, path: &str) {
        let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::ONLYDIR;
        match self.inotify.get_ref().watches().add(directory, mask) {
            Ok(descriptor) => {
                self.watched.insert(descriptor, path.to_owned());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::warn!(
                    %error,
                    "not every cgroup can be watched; new ones are noticed within {} s. \
                     Raise fs.inotify.max_user_watches",
                    RESCAN.as_secs()
                );
            }
            Err(_) => {}
        }
    }
}

fn below(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    // The follower knows directories only, so a temporary folder stands in for the cgroup tree; the
    // tests that need the real one are in the workspace's `tests`.

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    fn paths(follower: &CgroupFollower) -> Vec<&str> {
        let mut paths: Vec<&str> = follower.cgroups().values().map(String::as_str).collect();
        paths.sort_unstable();
        paths
    }

    async fn until(follower: &mut CgroupFollower, expected: &[&str]) {
        while paths(follower) != expected {
            tokio::time::timeout(Duration::from_secs(20), follower.changed()).await.unwrap();
        }
    }

    #[test]
    fn the_tree_is_followed_as_it_grows_and_shrinks() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("a/b")).unwrap();
            let mut follower = CgroupFollower::new(dir.path()).unwrap();
            assert_eq!(paths(&follower), ["", "a", "a/b"]);
            fs::create_dir_all(dir.path().join("a/c/d/e")).unwrap();
            until(&mut follower, &["", "a", "a/b", "a/c", "a/c/d", "a/c/d/e"]).await;
            fs::remove_dir_all(dir.path().join("a/c")).unwrap();
            until(&mut follower, &["", "a", "a/b"]).await;
            fs::create_dir(dir.path().join("a/b/x")).unwrap();
            until(&mut follower, &["", "a", "a/b", "a/b/x"]).await;
            fs::write(dir.path().join("a/file"), "").unwrap();
            fs::create_dir(dir.path().join("z")).unwrap();
            until(&mut follower, &["", "a", "a/b", "a/b/x", "z"]).await;
        });
    }

    #[test]
    fn ids_are_inode_numbers() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("a")).unwrap();
            let follower = CgroupFollower::new(dir.path()).unwrap();
            let id = fs::metadata(dir.path().join("a")).unwrap().ino();
            assert_eq!(follower.cgroups().get(&id).map(String::as_str), Some("a"));
        });
    }

    #[test]
    fn a_walk_finds_what_no_event_told() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let mut follower = CgroupFollower::new(dir.path()).unwrap();
            fs::create_dir(dir.path().join("a")).unwrap();
            assert!(follower.rescan());
            assert!(!follower.rescan());
            assert_eq!(paths(&follower), ["", "a"]);
        });
    }
}
