//! `status`: how the agent and the kernel are, part by part.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Mode;

/// How the agent and the kernel are.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started: f64,
    /// Name of the instance.
    pub instance: String,
    /// Subtree that is guarded.
    pub cgroup_root: PathBuf,
    /// Pins.
    pub pins: PathBuf,
    /// Mode of the whole node.
    pub mode: Mode,
    /// Generation that is enforced.
    pub generation: u64,
    /// Whether enforcement has begun.
    pub enforcing: bool,
    /// The kernel it runs on.
    #[serde(default)]
    pub kernel: KernelStatus,
    /// The policy.
    pub policy: PolicyStatus,
    /// Kernel tables.
    pub maps: Vec<MapView>,
    /// Kernel programs.
    pub programs: Vec<ProgramView>,
    /// Failsafe ports.
    pub failsafe: Vec<FailsafeView>,
    /// The guard on interfaces.
    pub guard: GuardView,
    /// What the kernel had no room for, by kind.
    pub lost: BTreeMap<String, u64>,
    /// Live flows that the agent ended, by reason.
    pub flows_ended: BTreeMap<String, u64>,
    /// The proxy, where there is one.
    #[serde(default)]
    pub proxy: Option<ProxyView>,
    /// What the agent may do.
    #[serde(default)]
    pub privileges: PrivilegesView,
    /// When the kernel's tables were last compared with the policy.
    #[serde(default)]
    pub verified: Option<f64>,
    /// Entries of them that differed then.
    #[serde(default)]
    pub drift: usize,
    /// Entries that were written right since the agent started.
    #[serde(default)]
    pub drift_repaired: usize,
    /// Kernel objects of the agent that somebody took away or replaced, the latest first.
    #[serde(default)]
    pub tamper: Vec<TamperView>,
    /// Tables that could not be read for this answer.
    pub unreadable: Vec<String>,
}

/// The running kernel, and what is used of it: where something is missing, its fallback.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KernelStatus {
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// How programs are attached to interfaces: `tcx` or, before Linux 6.6, `clsact`.
    pub interface_hook: String,
    /// Where packet programs have a namespace's cookie from: `helper` or, before Linux 6.15, `storage`.
    pub netns_cookie: String,
}

/// The proxy that gives programs mutual TLS.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ProxyView {
    /// Whether it answers.
    pub running: bool,
    /// Its process.
    pub pid: Option<u32>,
    /// Network namespaces that it listens in.
    pub namespaces: usize,
    /// Connections that it serves.
    pub open: u64,
    /// Certificates that it shows.
    pub certificates: usize,
    /// How often it was lost.
    pub lost: u64,
    /// What is wrong with its certificates.
    pub problem: Option<String>,
}

/// What policy is loaded, and how its last reload went.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Its folder.
    pub folder: PathBuf,
    /// Digest of the compiled image.
    pub hash: String,
    /// Zones in it.
    pub zones: usize,
    /// Rules in it.
    pub rules: usize,
    /// Prefixes in the image.
    pub prefixes: usize,
    /// Workloads in a zone.
    pub workloads: usize,
    /// When the folder was last loaded without an error.
    pub last_success: Option<f64>,
    /// How long that took, in seconds.
    pub last_duration: f64,
    /// Why the folder as it is now is not what is enforced; rendered diagnostics.
    pub error: Option<String>,
    /// Since when.
    pub failing_since: Option<f64>,
}

/// What the agent may do, as the kernel tells of the thread that answers; all threads are alike.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PrivilegesView {
    /// Capabilities, by name.
    pub capabilities: Vec<String>,
    /// Capabilities that a program which it started could get.
    pub bounding: Vec<String>,
    /// Whether nothing that it starts can get more privileges.
    pub no_new_privileges: bool,
    /// `filter` where system calls are filtered, else `off`.
    pub seccomp: String,
}

/// How the kernel's tables differ from the policy in force.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DriftView {
    /// Entries that differed.
    pub differing: usize,
    /// Whether they are right now.
    pub repaired: bool,
    /// How long looking took, in seconds.
    pub took: f64,
    /// The first thousand of them.
    pub entries: Vec<DriftEntryView>,
}

/// An entry of a kernel table that is not what the policy says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DriftEntryView {
    /// Its table.
    pub table: String,
    /// Its key.
    pub key: String,
    /// What the kernel held; absent if the entry was missing.
    pub held: Option<String>,
    /// What it should hold; absent if there should be no such entry.
    pub wanted: Option<String>,
}

/// Something that was done to a kernel object of the agent, and what the agent did.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TamperView {
    /// `link`, `order`, `link-pin`, `map-pin`, `bpffs`.
    pub object: String,
    /// Which one.
    pub name: String,
    /// `missing` or `replaced`.
    pub how: String,
    /// `restored`, `failed`, `gave-way`.
    pub action: String,
    /// How often since the agent started.
    pub times: u64,
    /// When last.
    pub last: f64,
}

/// A kernel table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MapView {
    /// Its name.
    pub name: String,
    /// Entries in it.
    pub entries: u64,
    /// Entries that fit.
    pub capacity: u64,
}

/// A kernel program.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ProgramView {
    /// Its name.
    pub name: String,
    /// Times that it ran; 0 while kernel.bpf_stats_enabled is off.
    pub runs: u64,
    /// Time that it took, in seconds.
    pub seconds: f64,
    /// Instructions after verification.
    pub instructions: u32,
}

/// A failsafe port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FailsafeView {
    /// `ingress` or `egress`, seen from the node.
    pub side: String,
    /// `tcp/22`.
    pub port: String,
    /// Packets that passed by it.
    pub packets: u64,
}

/// The guard on interfaces.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GuardView {
    /// How it hangs: `tcx`, `clsact`, or `off`.
    pub attachment: String,
    /// Bits of the packet mark that it uses, as `0xffff0000`.
    pub mark: String,
    /// Names of the interfaces that it is to sit on.
    pub configured: String,
    /// Interfaces of such a name.
    pub interfaces: Vec<GuardedView>,
    /// Why there is none, though there should be one.
    pub failure: Option<String>,
}

/// An interface with the guard.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GuardedView {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Whether the guard is on it.
    pub guarded: bool,
    /// Whether it leads to other machines.
    pub wire: bool,
    /// Cookie of the workload namespace behind it, where that is known.
    pub netns: Option<u64>,
    /// What is wrong with it.
    pub problem: Option<String>,
}
