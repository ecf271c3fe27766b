//! What is asked and answered on the control socket. The answers are also what `--format json` prints,
//! so a field, once there, keeps its name and its meaning.
//!
//! Addresses and prefixes are written as usual, times in seconds since 1970, verdicts, reasons and modes
//! by the words of the metrics.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Mode;

/// What may be asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// [`Reply::Status`].
    Status,
    /// [`Reply::Zone`] for each zone.
    Zones,
    /// [`Reply::Flow`] for each live flow that passes the filter.
    Flows(FlowFilter),
    /// [`Reply::Explanation`].
    Explain(Question),
    /// [`Reply::Drift`].
    Verify,
    /// Stop the daemon and leave enforcement on; answered before it stops.
    Stop,
}

/// One line of an answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// See [`Status`].
    Status(Box<Status>),
    /// See [`ZoneView`].
    Zone(ZoneView),
    /// See [`FlowView`].
    Flow(Box<FlowView>),
    /// See [`Explanation`].
    Explanation(Box<Explanation>),
    /// See [`DriftView`].
    Drift(DriftView),
    /// The last line of an answer that is whole.
    Done,
    /// The last line of one that is not.
    Error {
        /// What went wrong, and what to do.
        message: String,
    },
}

/// Which flows are wanted; what is absent matches all.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowFilter {
    /// Zone of the opener.
    pub from: Option<String>,
    /// Zone of the receiver.
    pub to: Option<String>,
    /// Verdict.
    pub verdict: Option<String>,
    /// Protocol and receiver's port, as `tcp/443`.
    pub port: Option<String>,
}

/// Who would talk to whom: each end an address, a zone, a cgroup path, or `ADDRESS@CGROUP`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Question {
    /// Who opens the flow.
    pub from: String,
    /// Who receives it.
    pub to: String,
    /// `tcp/5432`, `icmp/echo`, …
    pub port: String,
}

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

/// A set of zones and who is in it, as the kernel holds it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ZoneView {
    /// Its name, several joined by `+`.
    pub zone: String,
    /// Its number.
    pub identity: u32,
    /// `enforce` or `audit`.
    pub mode: String,
    /// Prefixes.
    pub prefixes: Vec<String>,
    /// Cgroups, by path below the cgroup root where it is known.
    pub workloads: Vec<String>,
}

/// A live flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowView {
    /// Zones of the opener.
    pub from: String,
    /// Zones of the receiver.
    pub to: String,
    /// The opener's address.
    pub src: String,
    /// The opener's port.
    pub src_port: u16,
    /// The receiver's address.
    pub dst: String,
    /// The receiver's port.
    pub dst_port: u16,
    /// Protocol by name, else its number.
    pub protocol: String,
    /// Cgroup of the opener, where known.
    pub src_cgroup: Option<String>,
    /// Cgroup of the receiver, where known.
    pub dst_cgroup: Option<String>,
    /// What was decided.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// The rule that decided.
    pub rule: Option<RuleView>,
    /// Generation that decided.
    pub generation: u64,
    /// `socket` or `table`: who holds it.
    pub held_by: String,
}

/// A rule, so that it is found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuleView {
    /// Its name, else the rule in one line.
    pub name: String,
    /// Its file.
    pub file: String,
    /// Its line.
    pub line: u32,
}

/// Why a flow passes or not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Who opens it.
    pub from: EndView,
    /// Who receives it.
    pub to: EndView,
    /// `tcp/5432`.
    pub port: String,
    /// What the zone files say.
    pub policy: Answer,
    /// The level of encryption that is asked for.
    pub tls: String,
    /// What the kernel's tables say; absent without a running agent.
    pub kernel: Option<KernelView>,
    /// What else there is to know: the node's mode, a reload that failed.
    pub notes: Vec<String>,
}

/// An end of a flow as it was understood.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndView {
    /// As it was asked.
    pub asked: String,
    /// Its address, where it has one.
    pub address: Option<String>,
    /// Its cgroup, where it has one.
    pub cgroup: Option<String>,
    /// Its zones.
    pub zone: String,
}

/// A verdict with both sides' reasons.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The stricter of the two.
    pub verdict: String,
    /// What the opener's side says.
    pub egress: SideView,
    /// What the receiver's side says.
    pub ingress: SideView,
}

/// What one side says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SideView {
    /// Its verdict.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// The rule that decided, if one did.
    pub rule: Option<RuleView>,
}

/// The kernel's answer to the same question.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KernelView {
    /// Zones of the opener by the kernel's tables.
    pub from: String,
    /// Zones of the receiver.
    pub to: String,
    /// Generation that was asked.
    pub generation: u64,
    /// Its answer; absent where the tables contradict themselves, which denies.
    pub answer: Option<Answer>,
    /// Whether it says what the zone files say.
    pub agrees: bool,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_a_stable_form() {
        let request = Request::Flows(FlowFilter { to: Some("db".to_owned()), ..FlowFilter::default() });
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"request":"flows","from":null,"to":"db","verdict":null,"port":null}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        assert_eq!(
            serde_json::from_str::<Request>(r#"{"request":"flows"}"#).unwrap(),
            Request::Flows(FlowFilter::default())
        );
        assert!(serde_json::from_str::<Request>(r#"{"request":"open-the-gates"}"#).is_err());
    }

    #[test]
    fn replies_survive_the_way() {
        let replies = [
            Reply::Status(Box::new(Status { generation: 3, ..Status::default() })),
            Reply::Done,
            Reply::Error { message: "no".to_owned() },
        ];
        for reply in replies {
            let text = serde_json::to_string(&reply).unwrap();
            assert!(!text.contains('\n'));
            assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), reply);
        }
    }
}
