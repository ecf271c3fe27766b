//! The reconciler over a stand-in of the kernel half: what it writes, what it keeps when something fails.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use bulkhead_abi::{Addr, Counter, CounterKey, Identity, Reason};
use bulkhead_policy::model::CgroupPattern;
use bulkhead_policy::{Prefix, Zone};

use super::*;
use crate::datapath::drift::{DriftEntry, Key};
use crate::datapath::{MapUsage, ProgramStats};
use crate::metrics::kernel::Rows;
use crate::metrics::{Metrics, Source};

#[derive(Debug, Default)]
struct FakeKernel {
    generation: u64,
    commits: usize,
    workloads: usize,
    broken: bool,
    drifted: usize,
}

impl Kernel for FakeKernel {
    type Error = &'static str;

    fn commit(&mut self, _: &Image) -> Result<Commit, Self::Error> {
        if self.broken {
            return Err("the table is full");
        }
        self.commits += 1;
        self.generation += 1;
        let (stage, total) = (Duration::from_millis(1), Duration::from_millis(2));
        Ok(Commit { generation: self.generation, changed: true, written: 1, removed: 0, stage, total })
    }

    fn set_workloads(&mut self, _: &Image) -> Result<usize, Self::Error> {
        self.workloads += 1;
        Ok(1)
    }

    fn verify(&self, _: Option<&Image>) -> Result<Drift, Self::Error> {
        let entry = || DriftEntry {
            table: "WORKLOADS",
            key: Key::Workload(7),
            held: None,
            wanted: Some("identity 5".to_owned()),
        };
        let mut drift = Drift::default();
        drift.entries.extend((0..self.drifted).map(|_| entry()));
        Ok(drift)
    }

    fn repair(&mut self, _: &Drift, _: Option<&Image>) -> Result<u64, Self::Error> {
        if self.broken {
            return Err("it is read-only");
        }
        self.drifted = 0;
        self.generation += 1;
        Ok(self.generation)
    }
}

#[derive(Default)]
struct Script(VecDeque<Result<Loaded, Refusal>>);

impl Policies for Script {
    fn load(&mut self) -> Result<Loaded, Refusal> {
        self.0.pop_front().unwrap_or(Ok(Loaded::Same))
    }
}

#[derive(Debug)]
struct NoKernel;

impl Source for NoKernel {
    fn generation(&self) -> u64 {
        0
    }
    fn audit(&self) -> bool {
        false
    }
    fn counters(&self) -> Rows<(CounterKey, Counter)> {
        Ok(vec![])
    }
    fn losses(&self) -> Rows<(bulkhead_abi::names::Loss, u64)> {
        Ok(vec![])
    }
    fn usage(&self) -> Rows<MapUsage> {
        Ok(vec![])
    }
    fn programs(&self) -> Rows<ProgramStats> {
        Ok(vec![])
    }
    fn failsafe(&self) -> Rows<(bulkhead_abi::tables::FailsafeKey, u64)> {
        Ok(vec![])
    }
    fn flows_ended(&self) -> Vec<(Reason, u64)> {
        vec![]
    }
    fn guard(&self) -> crate::guard::Counts {
        crate::guard::Counts::default()
    }
    fn flow_table(&self) -> crate::sockets::FlowTable {
        crate::sockets::FlowTable { full: true, episodes: 3 }
    }
    fn label(&self, _: Identity) -> Arc<str> {
        "".into()
    }
}

struct Scene {
    _dir: tempfile::TempDir,
    shared: Arc<Shared>,
    metrics: Metrics,
    reconciler: Reconciler<FakeKernel, Script>,
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let (state, numbers, labels) = StateFile::open(&dir.path().join("numbers.json"), false).unwrap();
    let shared = Arc::new(Shared::default());
    let metrics = Metrics::new(Arc::new(NoKernel)).unwrap();
    let reconciler = Reconciler::new(
        FakeKernel::default(),
        Script::default(),
        (state, Compiler::new(numbers), labels),
        Facts::default(),
        Arc::clone(&shared),
        metrics.agent.clone(),
    );
    Scene { _dir: dir, shared, metrics, reconciler }
}

impl Scene {
    fn reload(&mut self, result: Result<Loaded, Refusal>) -> Outcome {
        self.reconciler.policies.0.push_back(result);
        self.reconciler.reload()
    }

    fn kernel(&self) -> (u64, usize, usize) {
        let FakeKernel { generation, commits, workloads, .. } = self.reconciler.kernel;
        (generation, commits, workloads)
    }

    #[track_caller]
    fn metric(&self, line: &str) {
        let text = String::from_utf8(self.metrics.text().unwrap()).unwrap();
        assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
    }
}

fn policy(octet: u8) -> Result<Loaded, Refusal> {
    let mut zone = Zone::new("web");
    zone.cidrs = vec![Prefix::new(Addr::v4([10, octet, 0, 0]), 96 + 16)];
    zone.cgroups = vec![CgroupPattern::new("web*").unwrap()];
    Ok(Loaded::New(Arc::new(Model::new(vec![zone.into()], vec![]))))
}

fn facts(cgroups: &[(u64, &str)]) -> Facts {
    let cgroups = cgroups.iter().map(|(id, path)| (*id, (*path).to_owned())).collect();
    Facts { cgroups, ..Facts::default() }
}

#[test]
fn a_new_policy_is_committed_once() {
    let mut scene = scene();
    assert_eq!(scene.reload(policy(1)), Outcome::Committed);
    assert_eq!(scene.reload(policy(1)), Outcome::Unchanged, "the same tables are not written again");
    assert_eq!(scene.reload(Ok(Loaded::Same)), Outcome::Unchanged);
    assert_eq!(scene.kernel(), (1, 1, 0));
    assert_eq!(scene.reload(policy(2)), Outcome::Committed);
    assert_eq!(scene.kernel(), (2, 2, 0));
    assert_eq!(scene.shared.snapshot().generation, 2);
    scene.metric("bulkhead_policy_last_reload_success 1");
}

#[test]
fn a_bad_folder_leaves_everything_as_it_was_and_shows_everywhere() {
    let mut scene = scene();
    scene.reload(policy(1));
    let before = scene.shared.snapshot();
    assert_eq!(scene.reload(Err(Refusal::because("db.toml:3: unknown zone `wb`"))), Outcome::Failed);
    let after = scene.shared.snapshot();
    assert_eq!(scene.kernel(), (1, 1, 0));
    assert_eq!((&after.image, after.generation), (&before.image, 1));
    let failure = after.failure.clone().unwrap();
    assert!(failure.text.contains("unknown zone"));
    scene.metric("bulkhead_policy_last_reload_success 0");
    scene.metric("bulkhead_policy_reload_errors_total 1");

    scene.reload(Err(Refusal::because("another")));
    assert_eq!(scene.shared.snapshot().failure.clone().unwrap().since, failure.since);
    assert_eq!(scene.reload(Ok(Loaded::Same)), Outcome::Unchanged, "put back as it was");
    assert_eq!(scene.shared.snapshot().failure, None);
    scene.metric("bulkhead_policy_last_reload_success 1");
}

#[test]
fn what_the_kernel_refused_is_tried_again() {
    let mut scene = scene();
    scene.reload(policy(1));
    scene.reconciler.kernel().broken = true;
    assert_eq!(scene.reload(policy(2)), Outcome::Failed);
    assert!(scene.shared.snapshot().failure.clone().unwrap().text.contains("the table is full"));
    scene.reconciler.kernel().broken = false;
    assert_eq!(scene.reload(Ok(Loaded::Same)), Outcome::Committed);
    assert_eq!(scene.shared.snapshot().failure, None);
    assert_eq!(scene.kernel(), (2, 2, 0));
}

#[test]
fn workloads_that_come_are_membership_and_no_generation() {
    let mut scene = scene();
    scene.reload(policy(1));
    assert_eq!(scene.reconciler.observe(facts(&[(7, "other")])), Outcome::Unchanged);
    assert_eq!(scene.reconciler.observe(facts(&[(7, "other"), (8, "web1")])), Outcome::Membership);
    assert_eq!(scene.kernel(), (1, 1, 1));
    assert!(scene.shared.snapshot().image.as_ref().unwrap().workloads.contains_key(&8));
    assert_eq!(scene.reconciler.observe(facts(&[(7, "other"), (8, "web1")])), Outcome::Unchanged);
    assert_eq!(scene.reconciler.observe(facts(&[(7, "other")])), Outcome::Membership);
}

#[test]
fn facts_that_came_before_any_policy_count_for_it() {
    let mut scene = scene();
    assert_eq!(scene.reconciler.observe(facts(&[(8, "web1")])), Outcome::Unchanged);
    scene.reload(policy(1));
    assert!(scene.shared.snapshot().image.as_ref().unwrap().workloads.contains_key(&8));
}

#[test]
fn numbers_are_stored_before_the_kernel_hears_of_them() {
    let mut scene = scene();
    scene.reconciler.kernel().broken = true;
    scene.reload(policy(1));
    assert_eq!(scene.kernel(), (0, 0, 0));
    let path = scene._dir.path().join("numbers.json");
    let (_, numbers, _) = StateFile::open(&path, true).unwrap();
    assert!(!numbers.is_empty());
}

#[test]
fn drift_is_written_right_and_shown_until_the_next_look() {
    let mut scene = scene();
    let gauge = |scene: &Scene| {
        let page = String::from_utf8(scene.metrics.text().unwrap()).unwrap();
        let row = |name: &str| {
            page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap()
        };
        (row("bulkhead_policy_drift_entries "), row("bulkhead_policy_drift_repaired_total "))
    };
    assert!(scene.reconciler.verify().unwrap().drift.is_empty());
    assert_eq!(gauge(&scene), (0, 0));
    scene.reconciler.kernel.drifted = 3;
    assert!(scene.reconciler.verify().unwrap().repaired);
    assert_eq!(gauge(&scene), (3, 3));
    assert_eq!(scene.shared.snapshot().generation, 1, "flows are judged again");
    let drift = scene.shared.snapshot().drift;
    assert_eq!((drift.entries, drift.repaired), (3, 3));
    assert!(scene.reconciler.verify().unwrap().drift.is_empty());
    assert_eq!(gauge(&scene), (0, 3));
    (scene.reconciler.kernel.drifted, scene.reconciler.kernel.broken) = (2, true);
    assert!(!scene.reconciler.verify().unwrap().repaired);
    assert_eq!(gauge(&scene), (2, 3));
}
