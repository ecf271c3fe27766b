//! One instance of the agent: a cgroup subtree, and everything on disk that belongs to it.
//!
//! Several instances may share a machine, each guarding a subtree of its own; their pins, locks,
//! sockets and state never meet, because every path below is derived from one name, and the name from
//! the subtree. The state file lives beside the lock on a tmpfs: it lasts exactly as long as the pins.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bulkhead_sys::lock::Lock;

use crate::config::Config;

/// Longest name: a control socket's path must fit in 108 bytes.
const NAME_MAX: usize = 64;

/// Why an instance cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The name cannot be a file name on a bpffs, or is too long for a socket's path.
    #[error("`{0}` cannot name an instance; use 1 to 64 of A-Z a-z 0-9 _ - ~ , %")]
    Name(String),
    /// The cgroup root is not below the cgroup2 mount.
    #[error("{} is not below the cgroup2 mount {}; give --cgroup-root a path inside it", root.display(), mount.display())]
    Outside {
        /// What was asked for.
        root: PathBuf,
        /// Where cgroup2 is mounted.
        mount: PathBuf,
    },
    /// The cgroup root does not exist.
    #[error("the cgroup {} cannot be used: {source}; make it first, or correct --cgroup-root", root.display())]
    Missing {
        /// What was asked for.
        root: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Somebody else runs this instance.
    #[error("another agent runs instance `{name}`: {source}")]
    Locked {
        /// The instance.
        name: String,
        /// Who holds the lock.
        source: bulkhead_sys::Error,
    },
    /// A folder or file of the instance cannot be made.
    #[error("cannot use {}: {source}; check --run-dir and that this runs as root", path.display())]
    File {
        /// The path at hand.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Where one instance keeps its things.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    /// Its name; a file name.
    pub name: String,
    /// Where the cgroup2 hierarchy is mounted.
    pub mount: PathBuf,
    /// The subtree that is guarded, absolute.
    pub cgroup_root: PathBuf,
    /// Folder of its pins, on a bpffs.
    pub pins: PathBuf,
    /// Folder of its run-time files.
    pub dir: PathBuf,
}

impl Instance {
    /// The instance that `config` speaks of, with cgroup2 mounted at `mount`. Touches nothing.
    pub fn new(config: &Config, mount: &Path) -> Result<Self, InstanceError> {
        let cgroup_root = match &config.cgroup_root {
            None => mount.to_owned(),
            Some(root) if root.starts_with(mount) => root.components().collect(),
            Some(root) if root.is_absolute() => {
                return Err(InstanceError::Outside { root: root.clone(), mount: mount.to_owned() });
            }
            Some(root) => mount.join(root).components().collect(),
        };
        let below = cgroup_root.strip_prefix(mount).unwrap_or(Path::new(""));
        if below.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return Err(InstanceError::Outside { root: cgroup_root, mount: mount.to_owned() });
        }
        let name = match &config.name {
            Some(name) => name.clone(),
            None => derive_name(below),
        };
        check_name(&name)?;
        Ok(Self {
            pins: config.pin_dir.join(&name),
            dir: config.run_dir.join(&name),
            name,
            mount: mount.to_owned(),
            cgroup_root,
        })
    }

    /// Held by the running agent.
    pub fn lock_path(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// Where the running agent answers.
    pub fn control_path(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Numbers of identities, rulesets and rules that must outlive the agent.
    pub fn state_path(&self) -> PathBuf {
        self.dir.join("numbers.json")
    }

    /// Whether pins of an earlier agent are there: enforcement may be on.
    pub fn has_pins(&self) -> bool {
        std::fs::read_dir(&self.pins).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Checks that the cgroup root is there, makes the run-time folder, takes the lock.
    pub fn acquire(&self) -> Result<Lock, InstanceError> {
        std::fs::read_dir(&self.cgroup_root)
            .map_err(|source| InstanceError::Missing { root: self.cgroup_root.clone(), source })?;
        self.lock()
    }

    /// As [`Instance::acquire`], for commands that clean up after a cgroup that is gone.
    pub fn lock(&self) -> Result<Lock, InstanceError> {
        let file = |source| InstanceError::File { path: self.dir.clone(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(file)?;
        // One that was there may be open to others.
        std::fs::set_permissions(&self.dir, std::fs::Permissions::from_mode(0o700)).map_err(file)?;
        Lock::acquire(&self.lock_path(), &format!("the agent of {}", self.cgroup_root.display()))
            .map_err(|source| InstanceError::Locked { name: self.name.clone(), source })
    }
}

/// Whether `name` can name an instance. bpffs reserves the dot; the rest is what needs no quoting.
pub fn check_name(name: &str) -> Result<(), InstanceError> {
    let fine = !name.is_empty()
        && name.len() <= NAME_MAX
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-~,%".contains(&byte));
    if fine { Ok(()) } else { Err(InstanceError::Name(name.to_owned())) }
}

/// `root` for the whole mount; else the path with `/` as `~` and `.` as `,`, anything unusual as `%XX`,
/// and its tail as a hash where it is long. Two paths never share a name.
fn derive_name(below: &Path) -> String {
    use std::fmt::Write as _;

    let bytes = below.as_os_str().as_encoded_bytes();
    if bytes.is_empty() {
        return "root".to_owned();
    }
    let mut name = String::new();
    for byte in bytes {
        match byte {
            b'/' => name.push('~'),
            b'.' => name.push(','),
            byte if byte.is_ascii_alphanumeric() || b"_-".contains(byte) => name.push(char::from(*byte)),
            byte => {
                // Writing into a String cannot fail.
                let _ = write!(name, "%{byte:02X}");
            }
        }
    }
    if name == "root" {
        return "root~".to_owned();
    }
    if name.len() > NAME_MAX {
        let head: String = name.chars().take(NAME_MAX - 18).collect();
        name = format!("{head}~~{:016x}", fnv1a(bytes));
    }
    name
}

/// FNV-1a: stable over releases, which the standard hasher is not.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn instance(root: Option<&str>) -> Result<Instance, InstanceError> {
        let config = Config { cgroup_root: root.map(PathBuf::from), ..Config::default() };
        Instance::new(&config, Path::new("/sys/fs/cgroup"))
    }

    fn name(root: &str) -> String {
        instance(Some(root)).unwrap().name
    }

    #[test]
    fn names_are_derived_and_distinct() {
        assert_eq!(instance(None).unwrap().name, "root");
        assert_eq!(name("/sys/fs/cgroup"), "root");
        assert_eq!(name("/sys/fs/cgroup/"), "root");
        assert_eq!(name("lab/a"), "lab~a");
        assert_eq!(name("/sys/fs/cgroup/lab/a/"), "lab~a");
        assert_eq!(name("system.slice/nginx.service"), "system,slice~nginx,service");
        assert_eq!(name("lab~a"), "lab%7Ea");
        assert_ne!(name("root"), "root");
        let (one, two) = (name(&format!("{}/1", "x".repeat(100))), name(&format!("{}/2", "x".repeat(100))));
        assert_ne!(one, two);
        assert!(one.len() <= NAME_MAX);
    }

    #[test]
    fn a_root_outside_the_mount_is_refused() {
        assert!(matches!(instance(Some("/tmp")), Err(InstanceError::Outside { .. })));
        assert!(matches!(instance(Some("../tmp")), Err(InstanceError::Outside { .. })));
        assert!(matches!(instance(Some("/sys/fs/cgroup/../tmp")), Err(InstanceError::Outside { .. })));
    }

    #[test]
    fn the_second_agent_is_told_who_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { run_dir: dir.path().to_owned(), ..Config::default() };
        let instance = Instance::new(&config, dir.path()).unwrap();
        let first = instance.acquire().unwrap();
        let error = instance.acquire().unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        instance.acquire().unwrap();
    }
}
