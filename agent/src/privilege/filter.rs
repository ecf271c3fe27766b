//! The system calls that a running agent makes, and no others (seccomp(2)).
//!
//! Three filters; of what they say of a call, the strictest counts. A call outside the list fails with
//! EPERM rather than ending the process, because another libc or kernel than those this was tried on may
//! ask for something harmless; the kernel's log names it. Those that no libc makes by itself, and that an
//! intruder needs, end the process. `clone3` hides its flags from filters, so that it "does not exist",
//! and libc falls back to `clone`.

use std::collections::BTreeMap;

use bulkhead_sys::seccomp::{self, Instruction};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::PrivilegeError;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Who is filtered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    /// The agent; one with a proxy makes TCP sockets for it.
    Agent {
        /// Whether it has one.
        proxy: bool,
    },
    /// The proxy.
    Proxy,
}

/// Installs the filters for the calling thread and all that it will make.
pub(super) fn install(who: Who) -> Result<(), PrivilegeError> {
    let allowed = match who {
        Who::Agent { proxy } => allowed(proxy),
        Who::Proxy => proxy(),
    };
    let refused = |error: String| PrivilegeError::Filter(error);
    let errno = |number: i32| SeccompAction::Errno(number.unsigned_abs());
    let filters = [
        (compile(deadly(), SeccompAction::Allow, SeccompAction::KillProcess), true),
        // Each new thread asks once, which is nothing to log.
        (compile(plain(&[libc::SYS_clone3]), SeccompAction::Allow, errno(libc::ENOSYS)), false),
        // The last one: it does not let another follow.
        (compile(allowed, errno(libc::EPERM), SeccompAction::Allow), true),
    ];
    for (filter, log) in filters {
        let program = filter.map_err(|error| refused(error.to_string()))?;
        let program: Vec<Instruction> = program
            .iter()
            .map(|step| Instruction { code: step.code, jt: step.jt, jf: step.jf, k: step.k })
            .collect();
        seccomp::install(&program, log).map_err(|error| refused(error.to_string()))?;
    }
    Ok(())
}

fn compile(
    rules: Result<Rules, seccompiler::BackendError>,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    SeccompFilter::new(rules?, others, these, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// What only an intruder calls for: other programs, other processes' memory, other code in the kernel.
fn deadly() -> Result<Rules, seccompiler::BackendError> {
    plain(&[
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_setuid,
        libc::SYS_setgid,
        libc::SYS_setresuid,
        libc::SYS_setresgid,
        libc::SYS_chroot,
        libc::SYS_pivot_root,
        libc::SYS_reboot,
        libc::SYS_userfaultfd,
    ])
}

fn allowed(proxy: bool) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = both()?;
    rules.extend(plain(AGENT)?);
    // Namespaces: network ones, to end sockets and read addresses there.
    rules.insert(libc::SYS_setns, one_of(1, &[libc::CLONE_NEWNET as u64])?);
    // A new BPF file system for pins, in the place of one that was unmounted; no binding, no moving.
    let quiet = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    rules.insert(libc::SYS_mount, one_of(3, &[quiet])?);
    // Sockets to the kernel, and to those who ask. Of IPv4 and IPv6 only those that are open already, and
    // streams where there is a proxy to make them for.
    let families = [libc::AF_UNIX, libc::AF_NETLINK];
    let mut sockets = one_of(0, &families.map(|family| family as u64))?;
    if proxy {
        sockets.extend(streams()?);
    }
    rules.insert(libc::SYS_socket, sockets);
    // BPF: maps, pins, links, and looking; no new programs.
    rules.insert(libc::SYS_bpf, one_of(0, BPF)?);
    Ok(rules)
}

/// The proxy serves connections that it was handed, and makes none of its own: no files, no sockets, no
/// processes; of BPF one lookup in one map.
fn proxy() -> Result<Rules, seccompiler::BackendError> {
    let mut rules = both()?;
    // Who was turned in: MAP_LOOKUP_ELEM on the map that it holds, and OBJ_GET_INFO_BY_FD for its shape.
    rules.insert(libc::SYS_bpf, one_of(0, &[1, 15])?);
    Ok(rules)
}

/// What agent and proxy need.
fn both() -> Result<Rules, seccompiler::BackendError> {
    let mut rules = plain(BOTH)?;
    // Threads, but no processes.
    rules.insert(
        libc::SYS_clone,
        vec![rule(0, masked(libc::CLONE_THREAD as u64), libc::CLONE_THREAD as u64)?],
    );
    rules.insert(libc::SYS_clone3, vec![]);
    // Signals to ourselves: how a panic or an abort ends.
    rules.insert(libc::SYS_tgkill, one_of(0, &[std::process::id().into()])?);
    // Memory, but none to put code into.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule(2, masked(libc::PROT_EXEC as u64), 0)?]);
    }
    // Names of threads; a mapping's name, which some allocators give.
    let prctls = [libc::PR_SET_NAME, libc::PR_SET_VMA, libc::PR_CAPBSET_READ, libc::PR_GET_NAME];
    rules.insert(libc::SYS_prctl, one_of(0, &prctls.map(|option| option as u64))?);
    // Whether to block; who owns a namespace; the number of bytes that wait.
    let requests = [libc::FIONBIO, libc::NS_GET_USERNS, libc::FIOCLEX, libc::FIONREAD, libc::TCGETS];
    rules.insert(libc::SYS_ioctl, one_of(1, &requests)?);
    Ok(rules)
}

/// Sockets of TCP and nothing else.
fn streams() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    const KINDS: u64 = 0xf;
    let condition = |argument, op, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value);
    let stream = |family: libc::c_int| {
        SeccompRule::new(vec![
            condition(0, SeccompCmpOp::Eq, family as u64)?,
            condition(1, masked(KINDS), libc::SOCK_STREAM as u64)?,
            condition(2, SeccompCmpOp::Eq, libc::IPPROTO_TCP as u64)?,
        ])
    };
    [libc::AF_INET, libc::AF_INET6].into_iter().map(stream).collect()
}

/// Commands of bpf(2) by number.
const BPF: &[u64] = &[
    0,  // MAP_CREATE, for grace periods
    1,  // MAP_LOOKUP_ELEM
    2,  // MAP_UPDATE_ELEM
    3,  // MAP_DELETE_ELEM
    4,  // MAP_GET_NEXT_KEY
    6,  // OBJ_PIN
    7,  // OBJ_GET
    11, // PROG_GET_NEXT_ID, for what programs cost
    13, // PROG_GET_FD_BY_ID
    14, // MAP_GET_FD_BY_ID, to tell a program from its successor
    15, // OBJ_GET_INFO_BY_FD
    16, // PROG_QUERY
    21, // MAP_LOOKUP_AND_DELETE_ELEM, for flows that have expired
    24, // MAP_LOOKUP_BATCH
    26, // MAP_UPDATE_BATCH
    27, // MAP_DELETE_BATCH
    28, // LINK_CREATE
    29, // LINK_UPDATE
    34, // LINK_DETACH
];

/// Calls of the agent, whatever their arguments are, beside [`BOTH`].
const AGENT: &[i64] = &[
    // Files: zone files, the state, /proc, cgroups, pins.
    libc::SYS_openat,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getcwd,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_flock,
    libc::SYS_dup3,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    // Sockets of its own: the control socket, metrics, the proxies' listeners.
    libc::SYS_listen,
    // What the same is called on this architecture alone.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
];

/// Calls of agent and proxy, whatever their arguments are: with these alone one serves what was handed over.
const BOTH: &[i64] = &[
    // Descriptors that are open.
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_fcntl,
    libc::SYS_dup,
    // Messages between the two that are too long for a packet.
    libc::SYS_memfd_create,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    // Sockets that are there, or that the list of families below lets through.
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Threads, signals, and the end.
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // What the same is called on this architecture alone.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
];

fn plain(calls: &[i64]) -> Result<Rules, seccompiler::BackendError> {
    Ok(calls.iter().map(|call| (*call, Vec::new())).collect())
}

/// A rule for each value that argument number `argument` may have.
fn one_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    values.iter().map(|value| rule(argument, SeccompCmpOp::Eq, *value)).collect()
}

fn masked(mask: u64) -> SeccompCmpOp {
    SeccompCmpOp::MaskedEq(mask)
}

/// Only the lower half of an argument counts: the kernel takes all of these as 32-bit numbers, or as
/// flags below bit 32.
fn rule(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)?])
}
