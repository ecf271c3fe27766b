//! `explain`: the question, and both answers to it.

use bulkhead_policy::model::DemandView;
use serde::{Deserialize, Serialize};

use super::RuleView;

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
    /// How the flow is to be encrypted.
    pub tls: DemandView,
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
