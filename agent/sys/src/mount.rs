//! Mounted file systems: what is where, and mounting one that is missing.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Where the BPF file system belongs.
pub const BPFFS: &str = "/sys/fs/bpf";

/// One line of `/proc/thread-self/mountinfo`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Which folder of the file system is mounted; `/` is all of it.
    pub root: PathBuf,
    /// Where.
    pub target: PathBuf,
    /// The file system's type.
    pub kind: String,
}

/// Everything that is mounted in this thread's mount namespace, in the order of mounting. Fails where
/// `/proc` is not mounted.
pub fn list() -> Result<Vec<Mount>> {
    let path = Path::new("/proc/thread-self/mountinfo");
    let text = fs::read(path).map_err(Error::path("read", path))?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// Whether [`ensure`] had anything to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was mounted before.
    Present,
    /// It is mounted now.
    Mounted,
}

/// Where the BPF file system that holds `path` is mounted; `None` if `path` is on none.
pub fn bpffs_of(path: &Path) -> Result<Option<PathBuf>> {
    // Of mounts on one point the last is seen; of points above a path the longest.
    let above = list()?.into_iter().filter(|mount| path.starts_with(&mount.target));
    let nearest = above.max_by_key(|mount| mount.target.components().count());
    Ok(nearest.filter(|mount| mount.kind == "bpf").map(|mount| mount.target))
}

/// Whether what is seen at `path` is a BPF file system's (statfs(2)).
pub fn is_bpffs(path: &Path) -> Result<bool> {
    let name = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::path("statfs", path)(io::Error::from_raw_os_error(libc::EINVAL)))?;
    let mut told = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path is a C string that outlives the call, and there is room for the answer.
    if unsafe { libc::statfs(name.as_ptr(), told.as_mut_ptr()) } != 0 {
        return Err(Error::path("statfs", path)(io::Error::last_os_error()));
    }
    // SAFETY: it was zeroed, and the kernel filled it in; any bit pattern is a valid one.
    let told = unsafe { told.assume_init() };
    Ok(told.f_type == libc::BPF_FS_MAGIC)
}

/// Sees to it that a BPF file system is mounted at [`BPFFS`]: [`ensure`] for `bpf`.
pub fn ensure_bpffs() -> Result<Outcome> {
    ensure("bpf", Path::new(BPFFS))
}

/// Sees to it that a file system of type `kind` is mounted at `target`, which must exist already.
///
/// The new mount is `nosuid,nodev,noexec` and, in a mount namespace of one's own, seen there only. Two
/// processes that do this at once mount twice: hold the agent's lock. Errors: another type stands at
/// `target` ([`Error::Occupied`]), EPERM without CAP_SYS_ADMIN, ENODEV for a type the kernel lacks.
pub fn ensure(kind: &str, target: &Path) -> Result<Outcome> {
    // The last mount on a point hides those before it.
    if let Some(mount) = list()?.into_iter().rfind(|mount| mount.target == target) {
        if mount.kind == kind {
            return Ok(Outcome::Present);
        }
        return Err(Error::Occupied { path: target.to_owned(), found: mount.kind, wanted: kind.to_owned() });
    }
    let text = |bytes: &[u8]| {
        CString::new(bytes)
            .map_err(|_| Error::path("mount", target)(io::Error::from_raw_os_error(libc::EINVAL)))
    };
    let (kind, place) = (text(kind.as_bytes())?, text(target.as_os_str().as_bytes())?);
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: all three strings end in a zero byte and outlive the call; no data is passed.
    let status =
        unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) };
    if status != 0 {
        return Err(Error::path("mount", target)(io::Error::last_os_error()));
    }
    Ok(Outcome::Mounted)
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`: see proc(5).
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').skip(3);
    let (root, target) = (fields.next()?, fields.next()?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount {
        root: unescape(root).into(),
        target: unescape(target).into(),
        kind: OsStr::from_bytes(kind).to_string_lossy().into_owned(),
    })
}

/// Undoes the kernel's `\ooo` for blanks, line ends and backslashes.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing;

    #[test]
    fn a_line_is_understood_with_optional_fields_and_escapes() {
        let line = br"36 35 98:0 /a\040b /mnt\134x rw,noatime master:1 shared:7 - cgroup2 none rw";
        let mount = parse(line).unwrap();
        assert_eq!(
            mount,
            Mount { root: "/a b".into(), target: r"/mnt\x".into(), kind: "cgroup2".to_owned() }
        );
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn a_missing_file_system_is_mounted_once() {
        if !testing::root("mount") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        testing::in_own_mount_namespace(|| {
            assert_eq!(ensure("tmpfs", dir.path()).unwrap(), Outcome::Mounted);
            assert_eq!(ensure("tmpfs", dir.path()).unwrap(), Outcome::Present);
            let error = ensure("bpf", dir.path()).unwrap_err();
            assert!(matches!(error, Error::Occupied { ref found, .. } if found == "tmpfs"), "{error}");
        });
        assert!(list().unwrap().iter().all(|mount| mount.target != dir.path()));
    }
}
