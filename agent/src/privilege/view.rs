//! The privileges that this process has, as the kernel tells them.

use std::fs;
use std::io;

/// Names by number; a newer kernel may know more.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a thread may do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Privileges {
    /// Capabilities that it has, or may take.
    pub capabilities: Vec<String>,
    /// Capabilities that a program which it starts could get.
    pub bounding: Vec<String>,
    /// Whether nothing that it starts can get more.
    pub no_new_privileges: bool,
    /// `off`, `strict` or `filter`.
    pub seccomp: &'static str,
}

impl Privileges {
    /// The calling thread's.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/thread-self/status")?))
    }

    /// From the text of `/proc/…/status` (proc(5)).
    pub(super) fn parse(status: &str) -> Self {
        let field = |name: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map_or("", str::trim)
        };
        let mask = |name| u64::from_str_radix(field(name), 16).unwrap_or(0);
        Self {
            capabilities: names(mask("CapEff") | mask("CapPrm") | mask("CapInh") | mask("CapAmb")),
            bounding: names(mask("CapBnd")),
            no_new_privileges: field("NoNewPrivs") == "1",
            seccomp: match field("Seccomp") {
                "1" => "strict",
                "2" => "filter",
                _ => "off",
            },
        }
    }
}

fn names(mask: u64) -> Vec<String> {
    let name = |number: u32| {
        let known = NAMES.get(number as usize);
        known.map_or_else(|| format!("capability {number}"), |name| (*name).to_owned())
    };
    (0..u64::BITS).filter(|number| mask & (1 << number) != 0).map(name).collect()
}
