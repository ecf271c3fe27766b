//! The clock, who acts, and what is true.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bulkhead_abi::{App, Class, Reason, Tls, Verdict};
use bulkhead_detect::findings::{
    Change, Edge, Findings, Flow, Kind, Memory, Observation, Settings, Time, TlsFacts, What,
};

use crate::random::Random;
use crate::score::Score;

/// Time between two reads of the counters.
pub(crate) const STEP: Duration = Duration::from_secs(30);
/// How long a scenario lasts.
pub(crate) const DAYS: u64 = 14;
/// When things may begin to happen: learning is over.
pub(crate) const QUIET_DAYS: u64 = 9;
/// A Monday, 00:00 UTC.
const MONDAY: u64 = 1_700_438_400;

/// Something that happens over time.
pub(crate) trait Actor {
    /// What it does from `at` for one [`STEP`].
    fn act(&mut self, at: Time, scene: &mut Scene);
}

/// Where actors put what is seen of them.
pub(crate) struct Scene {
    pub(crate) random: Random,
    seen: Vec<(Time, Observation)>,
}

/// Something that should be found.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub(crate) kind: Kind,
    pub(crate) edge: Edge,
    pub(crate) from: Time,
    pub(crate) until: Time,
    /// Whether missing it is a miss, or finding it just no mistake.
    pub(crate) wanted: bool,
}

pub(crate) struct World {
    pub(crate) scene: Scene,
    findings: Findings,
    truths: Vec<Truth>,
    openings: Vec<Change>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            scene: Scene { random: Random::new(seed), seen: Vec::new() },
            findings: Findings::new(&Settings::default(), Memory::default(), start()),
            truths: Vec::new(),
            openings: Vec::new(),
        }
    }

    /// This should be found.
    pub(crate) fn expect(&mut self, kind: Kind, edge: &Edge, from: Time, lasts: Duration) {
        self.say(kind, edge, from, lasts, true);
    }

    /// To find this is no mistake: a fast scan is a burst of denials as well.
    pub(crate) fn tolerate(&mut self, kind: Kind, edge: &Edge, from: Time, lasts: Duration) {
        self.say(kind, edge, from, lasts, false);
    }

    fn say(&mut self, kind: Kind, edge: &Edge, from: Time, lasts: Duration, wanted: bool) {
        self.truths.push(Truth { kind, edge: edge.clone(), from, until: from.plus(lasts), wanted });
    }

    pub(crate) fn play(&mut self, mut actors: Vec<Box<dyn Actor>>) {
        let end = start().plus(Duration::from_secs(DAYS * 86_400));
        let mut now = start();
        while now < end {
            for actor in &mut actors {
                actor.act(now, &mut self.scene);
            }
            self.scene.seen.sort_by_key(|(at, _)| *at);
            for (at, seen) in self.scene.seen.drain(..) {
                self.findings.observe(at, &seen);
            }
            now = now.plus(STEP);
            self.findings.tick(now);
            let opened =
                self.findings.take_changes().into_iter().filter(|change| change.what == What::Opened);
            self.openings.extend(opened);
        }
    }

    pub(crate) fn score(&self) -> Score {
        Score::new(&self.truths, &self.openings)
    }
}

impl Scene {
    pub(crate) fn see(&mut self, at: Time, seen: Observation) {
        self.seen.push((at, seen));
    }

    /// Counters of allowed flows.
    pub(crate) fn count(&mut self, at: Time, edge: &Edge, flows: u64, packets: u64, bytes: u64) {
        let (verdict, reason) = (Verdict::Allow, Reason::AllowRule);
        self.see(at, Observation::Counted { edge: edge.clone(), verdict, reason, flows, packets, bytes });
    }

    /// Counters of denied flows.
    pub(crate) fn count_denied(&mut self, at: Time, edge: &Edge, flows: u64, reason: Reason) {
        let (verdict, packets, bytes) = (Verdict::Deny, flows + flows / 10, (flows + flows / 10) * 60);
        self.see(at, Observation::Counted { edge: edge.clone(), verdict, reason, flows, packets, bytes });
    }

    /// The event of a denied flow; its counters are told apart.
    pub(crate) fn deny(&mut self, at: Time, flow: Flow) {
        self.see(at, Observation::Denied { flow, verdict: Verdict::Deny, reason: Reason::Default });
    }

    pub(crate) fn classify(&mut self, at: Time, flow: Flow, class: Class, app: App, level: Tls) {
        self.see(at, Observation::Classified { flow, class, app, level, verdict: Verdict::Allow });
    }

    pub(crate) fn shake_hands(&mut self, at: Time, flow: Flow, facts: TlsFacts) {
        self.see(at, Observation::Handshake { flow, facts });
    }
}

/// The first moment.
pub(crate) fn start() -> Time {
    Time::from_secs(MONDAY)
}

/// So long after the first moment.
pub(crate) fn after(seconds: f64) -> Time {
    Time::from_millis(start().millis() + (seconds * 1000.0) as u64)
}

/// Later by so much within a step.
pub(crate) fn later(at: Time, seconds: f64) -> Time {
    Time::from_millis(at.millis() + (seconds * 1000.0) as u64)
}

pub(crate) fn flow(edge: &Edge, src: u32, dst: u32, port: u16) -> Flow {
    let address = |number: u32| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number));
    Flow { edge: edge.clone(), src: address(src), dst: address(dst), port, protocol: 6 }
}
