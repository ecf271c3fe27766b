//! What is asked and answered on the control socket. The answers are also what `--format json` prints,
//! so a field, once there, keeps its name and its meaning.
//!
//! Addresses and prefixes are written as usual, times in seconds since 1970, verdicts, reasons and modes
//! by the words of the metrics.

mod explain;
mod findings;
mod status;

use serde::{Deserialize, Serialize};

pub use self::{explain::*, findings::*, status::*};

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
    /// [`Reply::Finding`] for each finding that passes the filter.
    Findings(FindingFilter),
    /// [`Reply::Finding`], as it is then.
    Acknowledge(Acknowledge),
    /// An acknowledgement is taken back; [`Reply::Finding`], as it is then.
    Unacknowledge {
        /// Of which finding.
        id: String,
    },
    /// [`Reply::Inventory`] for each line that passes the filter.
    Inventory(InventoryFilter),
    /// [`Reply::ProxyConnection`] for each connection that the proxy serves.
    ProxyConnections,
    /// [`Reply::ProxyTraced`] for each connection that ended or was refused lately.
    ProxyTrace {
        /// Only those with a higher number.
        after: u64,
    },
    /// [`Reply::ProxyCertificate`] for each certificate that the proxy shows.
    ProxyCertificates,
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
    /// See [`FindingView`].
    Finding(Box<FindingView>),
    /// See [`bulkhead_detect::inventory::Line`].
    Inventory(Box<bulkhead_detect::inventory::Line>),
    /// See [`crate::proxy::wire::Record`].
    ProxyConnection(Box<crate::proxy::wire::Record>),
    /// A connection that ended or was refused.
    ProxyTraced {
        /// Counts up.
        number: u64,
        /// How it was.
        record: Box<crate::proxy::wire::Record>,
    },
    /// See [`crate::proxy::view::Certificate`].
    ProxyCertificate(Box<crate::proxy::view::Certificate>),
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

/// Which lines of the inventory are wanted; what is absent matches all.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryFilter {
    /// Zone of the opener.
    pub from: Option<String>,
    /// Zone of the receiver.
    pub to: Option<String>,
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
