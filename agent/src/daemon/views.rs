//! The agent and the kernel's tables as the answers show them.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_abi::verdict::Side;
use bulkhead_abi::{FlowKey, FlowState, Identity, Protocol, Reason, Verdict};
use bulkhead_policy::prefix::to_ip;

use super::admin::Admin;
use super::snapshot::Snapshot;
use crate::config::display_failsafe;
use crate::control::protocol::{
    FailsafeView, FlowFilter, FlowView, KernelStatus, MapView, PolicyStatus, PrivilegesView, ProgramView,
    Status, TamperView, ZoneView,
};
use crate::explain::rule_by_number;
use crate::privilege::Privileges;
use crate::tamper::Finding;

impl Admin {
    /// How everything is. A table that cannot be read is named, the rest is told.
    pub(super) fn status(&self) -> Status {
        let snapshot = self.shared.snapshot();
        let mut unreadable = Vec::new();
        let maps = readable(&mut unreadable, "map usage", self.reader.usage());
        let programs = readable(&mut unreadable, "programs", self.reader.programs());
        let failsafe = readable(&mut unreadable, "failsafe", self.reader.failsafe());
        let losses = readable(&mut unreadable, "losses", self.reader.losses());
        let privileges = Privileges::read().unwrap_or_else(|error| {
            unreadable.push(format!("privileges: {error}"));
            Privileges::default()
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: unix(self.started),
            instance: self.instance.name.clone(),
            cgroup_root: self.instance.cgroup_root.clone(),
            pins: self.instance.pins.clone(),
            mode: snapshot.mode,
            generation: self.reader.generation(),
            enforcing: snapshot.enforcing,
            kernel: self.kernel_status(),
            policy: self.policy_status(&snapshot),
            proxy: self.proxy.1.as_ref().map(|_| self.proxy.0.state().status()),
            maps: maps
                .into_iter()
                .map(|map| MapView {
                    name: map.name.to_owned(),
                    entries: map.entries,
                    capacity: map.capacity,
                })
                .collect(),
            programs: programs
                .into_iter()
                .map(|program| ProgramView {
                    runs: program.run_count,
                    seconds: program.run_time.as_secs_f64(),
                    instructions: program.instructions,
                    name: program.name,
                })
                .collect(),
            failsafe: failsafe
                .into_iter()
                .map(|(key, packets)| FailsafeView {
                    side: side_name(key.side).to_owned(),
                    port: display_failsafe(&key),
                    packets,
                })
                .collect(),
            guard: self.guards.view(),
            lost: losses.into_iter().map(|(loss, count)| (loss.as_str().to_owned(), count)).collect(),
            flows_ended: self
                .shared
                .ended()
                .into_iter()
                .map(|(reason, count)| (reason.as_str().to_owned(), count))
                .collect(),
            privileges: PrivilegesView {
                capabilities: privileges.capabilities,
                bounding: privileges.bounding,
                no_new_privileges: privileges.no_new_privileges,
                seccomp: privileges.seccomp.to_owned(),
            },
            verified: snapshot.drift.at.map(unix),
            drift: snapshot.drift.entries,
            drift_repaired: snapshot.drift.repaired,
            tamper: self.tamper.findings().into_iter().map(tamper_view).collect(),
            unreadable,
        }
    }

    fn kernel_status(&self) -> KernelStatus {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        KernelStatus {
            release: release.trim().to_owned(),
            interface_hook: if self.features.tcx { "tcx" } else { "clsact" }.to_owned(),
            netns_cookie: if self.features.netns_cookie { "helper" } else { "storage" }.to_owned(),
        }
    }

    fn policy_status(&self, snapshot: &Snapshot) -> PolicyStatus {
        let image = snapshot.image.as_deref();
        let model = snapshot.model.as_deref();
        PolicyStatus {
            folder: self.config.policies.clone(),
            hash: image.map(|image| image.hash().to_string()).unwrap_or_default(),
            zones: model.map_or(0, |model| model.zones().len()),
            rules: model.map_or(0, |model| model.rules().len()),
            prefixes: image.map_or(0, |image| image.prefixes.len()),
            workloads: image.map_or(0, |image| image.workloads.len()),
            last_success: snapshot.last_success.map(unix),
            last_duration: snapshot.last_duration.as_secs_f64(),
            error: snapshot.failure.as_ref().map(|failure| failure.text.clone()),
            failing_since: snapshot.failure.as_ref().map(|failure| unix(failure.since)),
        }
    }

    /// Every identity that has a member, as the kernel holds it.
    pub(super) fn zones(&self) -> Result<Vec<ZoneView>, String> {
        let snapshot = self.shared.snapshot();
        let mut members: BTreeMap<Identity, (Vec<String>, Vec<String>)> = BTreeMap::new();
        for (prefix, identity) in self.reader.prefixes().map_err(unreadable_table("prefixes"))? {
            members.entry(identity).or_default().0.push(prefix.to_string());
        }
        for (cgroup, identity) in self.reader.workloads().map_err(unreadable_table("workloads"))? {
            let path = cgroup_name(&snapshot, cgroup).unwrap_or_else(|| format!("cgroup {cgroup}"));
            members.entry(identity).or_default().1.push(path);
        }
        let mut zones: Vec<ZoneView> = members
            .into_iter()
            // The world is everything else.
            .filter(|(identity, _)| *identity != Identity::WORLD)
            .map(|(identity, (mut prefixes, mut workloads))| {
                prefixes.sort();
                workloads.sort();
                let zone = snapshot.labels.get(identity).to_string();
                let mode = mode_of(&snapshot, identity).to_owned();
                ZoneView { zone, identity: identity.0, mode, prefixes, workloads }
            })
            .collect();
        zones.sort_by(|a, b| a.zone.cmp(&b.zone));
        Ok(zones)
    }

    /// Every flow that lives.
    pub(super) fn flows(&self) -> Result<Vec<FlowView>, String> {
        let snapshot = self.shared.snapshot();
        let table = self.reader.flows().map_err(unreadable_table("flows"))?;
        let mut flows: Vec<FlowView> =
            table.iter().map(|(key, state)| table_flow(&snapshot, key, state)).collect();
        let storage = self.reader.socket_flows_map().as_fd();
        let owned = super::socket_flows::list(&self.instance.cgroup_root, storage, &snapshot);
        flows.extend(owned.map_err(|error| format!("the sockets cannot be listed: {error}"))?);
        flows.sort_by(|a, b| (&a.from, &a.to, &a.src, a.src_port).cmp(&(&b.from, &b.to, &b.src, b.src_port)));
        Ok(flows)
    }
}

fn tamper_view(finding: Finding) -> TamperView {
    TamperView {
        object: finding.object.as_str().to_owned(),
        name: finding.name,
        how: finding.how.as_str().to_owned(),
        action: finding.action.as_str().to_owned(),
        times: finding.times,
        last: unix(finding.last),
    }
}

/// `ingress` or `egress`.
pub(super) fn side_name(side: u8) -> &'static str {
    if side == Side::Egress as u8 { "egress" } else { "ingress" }
}

/// Whether a flow is wanted. A zone is wanted also where it is one of several.
pub(super) fn matches(filter: &FlowFilter, flow: &FlowView) -> bool {
    let zone = |wanted: &Option<String>, found: &str| {
        wanted.as_ref().is_none_or(|wanted| wanted == found || found.split('+').any(|part| part == wanted))
    };
    let port = format!("{}/{}", flow.protocol, flow.dst_port);
    zone(&filter.from, &flow.from)
        && zone(&filter.to, &flow.to)
        && filter.verdict.as_ref().is_none_or(|wanted| *wanted == flow.verdict)
        && filter.port.as_ref().is_none_or(|wanted| *wanted == port || *wanted == flow.protocol)
}

fn table_flow(snapshot: &Snapshot, key: &FlowKey, state: &FlowState) -> FlowView {
    let (low, high) = ((key.low, key.low_port), (key.high, key.high_port));
    let opener_is_low = state.flags & FlowState::FLAG_OPENER_LOW != 0;
    let (src, dst) = if opener_is_low { (low, high) } else { (high, low) };
    // The stricter side decides; a side that was never judged has the code 0 and says nothing.
    let verdict = state.verdict.iter().filter(|code| **code != 0).map(|code| Verdict::from_code(*code)).max();
    let [egress, ingress] = state.judged;
    FlowView {
        from: snapshot.labels.get(state.from).to_string(),
        to: snapshot.labels.get(state.to).to_string(),
        src: to_ip(src.0).to_string(),
        src_port: src.1,
        dst: to_ip(dst.0).to_string(),
        dst_port: dst.1,
        protocol: protocol_name(key.protocol),
        src_cgroup: cgroup_name(snapshot, state.opener.cgroup),
        dst_cgroup: cgroup_name(snapshot, state.receiver.cgroup),
        verdict: verdict.map_or("unjudged", Verdict::as_str).to_owned(),
        reason: Reason::from_code(state.reason).as_str().to_owned(),
        rule: snapshot.image.as_deref().and_then(|image| rule_by_number(image, state.rule)),
        generation: egress.max(ingress),
        held_by: "table".to_owned(),
    }
}

/// The word of zone files, else the number.
pub(super) fn protocol_name(protocol: u8) -> String {
    match Protocol(protocol) {
        Protocol::ICMP => "icmp".to_owned(),
        Protocol::ICMPV6 => "icmpv6".to_owned(),
        other => bulkhead_policy::ports::word_of(other).map_or_else(|| protocol.to_string(), str::to_owned),
    }
}

pub(super) fn cgroup_name(snapshot: &Snapshot, cgroup: u64) -> Option<String> {
    let path = snapshot.facts.cgroups.get(&cgroup)?;
    Some(if path.is_empty() { "/".to_owned() } else { path.clone() })
}

fn mode_of(snapshot: &Snapshot, identity: Identity) -> &'static str {
    match snapshot.image.as_ref().and_then(|image| image.identities.get(&identity)) {
        Some(state) if state.is_enforcing() => "enforce",
        Some(_) if identity.is_zoned() => "audit",
        _ => "",
    }
}

fn readable<T, E: std::fmt::Display>(
    unreadable: &mut Vec<String>,
    table: &str,
    rows: Result<Vec<T>, E>,
) -> Vec<T> {
    rows.unwrap_or_else(|error| {
        unreadable.push(format!("{table}: {error}"));
        Vec::new()
    })
}

fn unreadable_table<E: std::fmt::Display>(table: &'static str) -> impl Fn(E) -> String {
    move |error| format!("the kernel's {table} cannot be read: {error}")
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use bulkhead_abi::{Addr, Workload};

    use super::*;

    fn flow(opener_low: bool, verdict: [u8; 2]) -> FlowView {
        let (key, _) =
            FlowKey::new((Addr::v4([10, 0, 0, 1]), 40000), (Addr::v4([10, 0, 0, 2]), 53), Protocol::UDP, 0);
        let state = FlowState {
            verdict,
            judged: [4, 6],
            opener: Workload { cgroup: 7, anchor: 0 },
            reason: Reason::Default as u8,
            flags: if opener_low { FlowState::FLAG_OPENER_LOW } else { 0 },
            ..FlowState::default()
        };
        let snapshot = Snapshot {
            facts: std::sync::Arc::new(bulkhead_policy::Facts {
                cgroups: [(7, "web".to_owned())].into(),
                ..Default::default()
            }),
            ..Snapshot::default()
        };
        table_flow(&snapshot, &key, &state)
    }

    #[test]
    fn a_flow_is_shown_from_its_opener() {
        let (there, back) = (flow(true, [1, 3]), flow(false, [1, 0]));
        assert_eq!(
            (&*there.src, there.src_port, &*there.dst, there.dst_port),
            ("10.0.0.1", 40000, "10.0.0.2", 53)
        );
        assert_eq!((&*back.src, back.src_port), ("10.0.0.2", 53));
        assert_eq!((&*there.verdict, &*back.verdict), ("deny", "allow"));
        assert_eq!((there.src_cgroup.as_deref(), there.generation), (Some("web"), 6));
    }

    #[test]
    fn filters_match_what_they_name() {
        let mut view = flow(true, [1, 3]);
        view.from = "api+db".to_owned();
        let wanted = |change: fn(&mut FlowFilter)| {
            let mut filter = FlowFilter::default();
            change(&mut filter);
            matches(&filter, &view)
        };
        assert!(wanted(|_| {}));
        assert!(wanted(|filter| filter.from = Some("db".to_owned())));
        assert!(wanted(|filter| filter.from = Some("api+db".to_owned())));
        assert!(!wanted(|filter| filter.from = Some("web".to_owned())));
        assert!(wanted(|filter| filter.port = Some("udp/53".to_owned())));
        assert!(wanted(|filter| filter.port = Some("udp".to_owned())));
        assert!(!wanted(|filter| filter.port = Some("tcp/53".to_owned())));
        assert!(!wanted(|filter| filter.verdict = Some("allow".to_owned())));
    }
}
