//! What goes on in a company where nothing is wrong.

use std::time::Duration;

use bulkhead_abi::{App, Class, Reason, Tls};
use bulkhead_detect::findings::{Edge, Observation, Strength, Time, TlsFacts};

use crate::random::Random;
use crate::world::{Actor, STEP, Scene, World, after, flow, later, start};

const DAY: f64 = 86_400.0;

/// Zones that talk to each other in the office's hours: from, to, flows a minute at noon, bytes a flow.
const EDGES: [(&str, &str, f64, f64); 10] = [
    ("world", "web", 600.0, 30_000.0),
    ("web", "api", 900.0, 8_000.0),
    ("api", "db", 300.0, 20_000.0),
    ("api", "cache", 1200.0, 900.0),
    ("api", "queue", 60.0, 4_000.0),
    ("workers", "queue", 90.0, 4_000.0),
    ("workers", "db", 40.0, 60_000.0),
    ("office", "web", 200.0, 40_000.0),
    ("office", "mail", 30.0, 90_000.0),
    ("node", "world", 20.0, 15_000.0),
];

/// Everybody who is always there.
pub(crate) fn company(world: &mut World) -> Vec<Box<dyn Actor>> {
    let random = &mut world.scene.random;
    let mut actors: Vec<Box<dyn Actor>> = Vec::new();
    for (number, (from, to, flows, bytes)) in EDGES.into_iter().enumerate() {
        actors.push(Box::new(Office {
            edge: Edge::new(from, to),
            flows: flows * random.between(0.5, 2.0),
            bytes: bytes * random.between(0.5, 2.0),
            night: random.between(0.02, 0.5),
            weekend: random.between(0.1, 1.0),
            growth: random.between(1.0, 1.02),
            noise: random.between(0.05, 0.3),
            busy: Vec::new(),
            campaign: (random.among(0..14), random.between(1.0, 3.5)),
            port: 5000 + number as u16,
        }));
    }
    actors.push(Box::new(Backup { edge: Edge::new("db", "store"), hour: random.among(0..5), weekly: false }));
    actors.push(Box::new(Backup {
        edge: Edge::new("mail", "store"),
        hour: random.among(0..5),
        weekly: true,
    }));
    actors.push(Box::new(Monitor {
        hosts: random.among(20..60) as u32,
        moved: random.between(3.0, 13.0) * DAY,
    }));
    if random.chance(0.2) {
        actors.push(Box::new(Newcomer { hosts: random.among(10..60) as u32, comes: start_of(random) }));
    }
    actors
        .push(Box::new(Retrier { a_minute: random.between(1.0, 60.0), edge: Edge::new("workers", "mail") }));
    actors.push(Box::new(Internet { a_minute: random.between(1.0, 30.0) }));
    actors.push(Box::new(Mixed));
    actors.push(Box::new(Probe));
    actors.push(Box::new(Certificates));
    actors.push(Box::new(Users));
    actors.push(Box::new(Node));
    actors.push(Box::new(Updater));
    let times = (0..8).map(|_| start_of(random)).collect();
    actors.push(Box::new(Deploy { times }));
    actors
}

fn start_of(random: &mut Random) -> f64 {
    random.unit() * 13.9 * DAY
}

/// Seconds since the beginning.
pub(crate) fn seconds(at: Time) -> f64 {
    at.since(start()).as_secs_f64()
}

/// More by day than by night, less at the weekend, a little more every day, up to three and a half times as
/// much on one special day, and never twice the same; now and then an outage, after which everybody comes
/// at once.
struct Office {
    edge: Edge,
    flows: f64,
    bytes: f64,
    night: f64,
    weekend: f64,
    growth: f64,
    noise: f64,
    busy: Vec<(f64, f64, f64)>,
    campaign: (u64, f64),
    port: u16,
}

impl Actor for Office {
    fn act(&mut self, at: Time, scene: &mut Scene) {
        let now = seconds(at);
        let hour = now / 3600.0 % 24.0;
        // A day with shoulders, not a switch.
        let by_day = (1.0 - ((hour - 13.0).abs() / 7.0).powi(2)).clamp(0.0, 1.0);
        let weekday = if now / DAY % 7.0 >= 5.0 { self.weekend } else { 1.0 };
        let (day, more) = self.campaign;
        let special = if day == (now / DAY) as u64 { more } else { 1.0 };
        let trend = weekday * special * self.growth.powf(now / DAY);
        let level = (self.night + (1.0 - self.night) * by_day) * trend;
        // Once in some days something is slow for ten minutes, and then is made up for.
        if scene.random.chance(STEP.as_secs_f64() / (4.0 * DAY)) {
            let more = scene.random.between(1.5, 2.5);
            self.busy = vec![(now, now + 600.0, 0.3), (now + 600.0, now + 1200.0, more)];
        }
        let busy = self.busy.iter().find(|(from, until, _)| (*from..*until).contains(&now));
        let busy = busy.map_or(1.0, |(_, _, factor)| *factor);
        let mean = self.flows * level * busy * scene.random.noise(self.noise) * STEP.as_secs_f64() / 60.0;
        let flows = scene.random.whole(mean);
        if flows == 0 {
            return;
        }
        let bytes = (flows as f64 * self.bytes * scene.random.noise(self.noise * 2.0)) as u64;
        scene.count(at, &self.edge, flows, bytes / 700 + flows * 6, bytes);
        if scene.random.chance(0.3) {
            let who = scene.random.among(1..20) as u32;
            let seen = flow(&self.edge, who, 1000 + u32::from(self.port), self.port);
            scene.classify(at, seen, Class::Tls, App::Unknown, Tls::Report);
        }
    }
}

/// A lot at night; the clocks change in the second week.
struct Backup {
    edge: Edge,
    hour: u64,
    weekly: bool,
}

impl Actor for Backup {
    fn act(&mut self, at: Time, scene: &mut Scene) {
        let now = seconds(at);
        let day = (now / DAY) as u64;
        let hour = self.hour + u64::from(day >= 10);
        let begins = (day as f64) * DAY + (hour as f64) * 3600.0 + 300.0;
        let lasts = if self.weekly && day % 7 == 6 { 7200.0 } else { 2400.0 };
        if (begins..begins + lasts).contains(&now) {
            let bytes = (2e9 * scene.random.noise(0.3)) as u64;
            scene.count(at, &self.edge, 4, bytes / 1400, bytes);
        }
    }
}

/// Asks every host each minute; some of them it may not, and some day it is moved to another port for
/// which the rule comes an hour late.
struct Monitor {
    hosts: u32,
    moved: f64,
}

impl Actor for Monitor {
    fn act(&mut self, at: Time, scene: &mut Scene) {
        let now = seconds(at);
        if !(now as u64).is_multiple_of(120) {
            return;
        }
        let edge = Edge::new("monitor", "web");
        let locked_out = (self.moved..self.moved + 3600.0).contains(&now);
        let port = if now >= self.moved { 9101 } else { 9100 };
        let mut denied = 0;
        for host in 0..self.hosts {
            let seen = flow(&edge, 77, 2000 + host, port);
            if host % 23 == 7 || locked_out {
                denied += 1;
                scene.deny(at, seen);
            } else {
                scene.classify(at, seen, Class::Clear, App::Http1, Tls::Off);
            }
        }
        let allowed = u64::from(self.hosts) - denied;
        scene.count(at, &edge, allowed, allowed * 20, allowed * 30_000);
        if denied > 0 {
            scene.count_denied(at, &edge, denied, Reason::Default);
        }
    }
}

/// A second monitor that comes six hours before its rule. Nobody could tell it from somebody who looks
/// around, so it costs precision.
struct Newcomer {
    hosts: u32,
    comes: f64,
}

impl Actor for Newcomer {
    fn act(&mut self, at: Time, scene: &mut Scene) {
        let now = seconds(at);
        if !(self.comes..self.comes + 21_600.0).contains(&now) || !(now as u64).is_multiple_of(60) {
            return;
        }
        let edge = Edge::new("monitor", "web");
        for host in 0..self.hosts {
            scene.deny(at, flow(&edge, 78, 2000 + host, 9200));
        }
        scene.count_denied(at, &edge, u64::from(self.hosts), Reason::Default);
    }
}

/// Somebody who is denied and never learns.
struct Retrier {
    a_minute: f64,
    edge: Edge,
}

impl Actor for Retrier {
    fn act(&mut self, at: Time, scene: &mut Scene) {
        let mean = self.a_minute * scene.random.noise(0.2) * STEP.as_secs_f64() / 60.0;
        let flows = scene.random.whole(mean);
        if flows > 0 {
            scene.count_denied(at, &self.edge, flows, Reason::Default);
            scene.deny(at, flow(&self.edge, 31, 3000, 25));
        }
    }
}

/// Strangers who try a door or two.
struct Internet {
    a_minute: f64,
}

impl Actor for Internet {
    fn act(&mut self, at: Time, scene: &mut Scene) {
        let edge = Edge::new("world", "web");
        let tries = scene.random.whole(self.a_minute * STEP.as_secs_f64() / 60.0);
        for _ in 0..tries {
            let src = scene.random.among(1 << 16..1 << 23) as u32;
            let host = 2000 + scene.random.among(0..8) as u32;
            for _ in 0..scene.random.among(1..4) {
                let port = scene.random.among(1..10_000) as u16;
                scene.deny(later(at, 1.0), flow(&edge, src, host, port));
            }
        }
        if tries > 0 {
            scene.count_denied(at, &edge, tries * 2, Reason::Default);
        }
    }
}

/// A database that speaks TLS to some and clear text to others.
struct Mixed;

impl Actor for Mixed {
    fn act(&mut self, at: Time, scene: &mut Scene) {
        let class = if scene.random.chance(0.7) { Class::Tls } else { Class::Clear };
        let who = scene.random.among(1..9) as u32;
        let seen = flow(&Edge::new("workers", "db"), who, 4000, 5432);
        scene.classify(at, seen, class, App::Postgresql, Tls::Off);
    }
}

/// Once in a while somebody's `curl` speaks clear text to a port that is TLS.
struct Probe;

impl Actor for Probe {
    fn act(&mut self, at: Time, scene: &mut Scene) {
        let edge = Edge::new("office", "api");
        if scene.random.chance(0.5) {
            scene.classify(at, flow(&edge, 5, 4100, 8443), Class::Tls, App::Unknown, Tls::Off);
        }
        if scene.random.chance(STEP.as_secs_f64() / DAY) {
            for _ in 0..scene.random.among(1..3) {
                scene.classify(at, flow(&edge, 5, 4100, 8443), Class::Clear, App::Http1, Tls::Off);
            }
        }
        scene.count(at, &edge, 1, 20, 9000);
    }
}

/// Certificates of 90 days, renewed at 30, and TLS as it should be.
struct Certificates;

impl Actor for Certificates {
    fn act(&mut self, at: Time, scene: &mut Scene) {
        let who = scene.random.among(0..40);
        let age = (seconds(at) / DAY + who as f64 * 1.7) % 60.0;
        let not_after = at.plus(Duration::from_secs_f64((90.0 - age) * DAY));
        let facts = TlsFacts {
            version: Some(3 + (who % 2) as u8),
            strength: if who.is_multiple_of(5) { Strength::Legacy } else { Strength::Strong },
            not_after: Some(not_after),
            ..TlsFacts::default()
        };
        scene.shake_hands(at, flow(&Edge::new("web", "api"), 1, 4200 + who as u32, 443), facts);
    }
}

/// People who mistype, and a program whose token is stale for a minute.
struct Users;

impl Actor for Users {
    fn act(&mut self, at: Time, scene: &mut Scene) {
        if !scene.random.chance(0.02) {
            return;
        }
        let src = flow(&Edge::node(), scene.random.among(1..200) as u32, 0, 0).src;
        for number in 0..scene.random.among(1..5) {
            let edge = Edge::new("office", "api");
            let failed = Observation::AuthenticationFailed { edge, src, why: "credential" };
            scene.see(later(at, number as f64 * 5.0), failed);
        }
    }
}

/// Tables that are half full at noon, a listener that is short for a moment.
struct Node;

impl Actor for Node {
    fn act(&mut self, at: Time, scene: &mut Scene) {
        let hour = seconds(at) / 3600.0 % 24.0;
        let share = 0.2 + 0.4 * (1.0 - ((hour - 13.0) / 13.0).abs());
        let entries = (65_536.0 * share * scene.random.noise(0.05)) as u64;
        scene.see(at, Observation::Table { table: "FLOWS", entries, capacity: 65_536, refusing: false });
        let overflows = if scene.random.chance(0.001) { scene.random.among(1..30) } else { 0 };
        scene.see(at, Observation::Backlog { cookies: 0, overflows });
    }
}

/// A workload that looks for updates at many mirrors, and may not.
struct Updater;

impl Actor for Updater {
    fn act(&mut self, at: Time, scene: &mut Scene) {
        if scene.random.chance(STEP.as_secs_f64() / 7200.0) {
            let edge = Edge::new("workers", "world");
            for _ in 0..3 {
                let mirror = 1 << 20 | scene.random.among(0..300) as u32;
                scene.deny(at, flow(&edge, 40, mirror, 443));
            }
            scene.count_denied(at, &edge, 3, Reason::Default);
        }
    }
}

/// A new version: connections are made anew, packets of old ones come late, one port was forgotten in the
/// policy, and now and then there is a new zone.
struct Deploy {
    times: Vec<f64>,
}

impl Actor for Deploy {
    fn act(&mut self, at: Time, scene: &mut Scene) {
        let now = seconds(at);
        for (number, begun) in self.times.clone().into_iter().enumerate() {
            let passed = now - begun;
            if !(0.0..1200.0).contains(&passed) {
                continue;
            }
            let stray = scene.random.among(50..400);
            scene.count_denied(at, &Edge::new("web", "api"), stray, Reason::Stray);
            let new = Edge::new("web", "cache");
            let forgotten = scene.random.among(0..12);
            scene.count_denied(at, &new, forgotten, Reason::Default);
            scene.deny(at, flow(&new, 9, 2500, 6379 + number as u16 % 3));
            if number % 3 == 0 {
                let zone = format!("new-{number}");
                scene.count(at, &Edge::new("api", &*zone), 5, 60, 20_000);
                scene.count(at, &Edge::new(&*zone, "db"), 5, 60, 20_000);
            }
        }
    }
}

/// When something of `lasts` seconds may begin, so that it ends before the scenario does.
pub(crate) fn moment(random: &mut Random, lasts: f64) -> Time {
    let first = crate::world::QUIET_DAYS as f64 * DAY;
    let last = crate::world::DAYS as f64 * DAY - lasts - 7200.0;
    after(first + random.unit() * (last - first).max(0.0))
}
