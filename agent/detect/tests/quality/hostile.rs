//! What should be found, of every size from far too small to far too large.

use std::net::IpAddr;
use std::time::Duration;

use bulkhead_abi::{App, Class, Reason, Tls};
use bulkhead_detect::findings::{Edge, Kind, Observation, Strength, Time, TlsFacts};

use crate::ordinary::moment;
use crate::world::{Actor, STEP, Scene, World, flow, later};

/// What one episode does for a stretch of time: from when, for how many seconds, and for how many.
type Deed = Box<dyn FnMut(Time, f64, &mut Scene)>;

struct Episode {
    from: Time,
    until: Time,
    deed: Deed,
}

impl Actor for Episode {
    fn act(&mut self, at: Time, scene: &mut Scene) {
        let end = at.plus(STEP);
        let (from, until) = (self.from.max(at), self.until.min(end));
        if from < until {
            (self.deed)(from, until.since(from).as_secs_f64(), scene);
        }
    }
}

/// Two of every kind.
pub(crate) fn episodes(world: &mut World) -> Vec<Box<dyn Actor>> {
    let mut actors: Vec<Box<dyn Actor>> = Vec::new();
    for round in 0..2 {
        actors.extend([
            plaintext(world, round),
            handshake(world, Kind::TlsTooOld, round),
            handshake(world, Kind::WeakCipher, round),
            handshake(world, Kind::CertificateExpired, round),
            handshake(world, Kind::CertificateExpiring, round),
            denied_burst(world, round),
            scan(world, Kind::PortScan, round),
            scan(world, Kind::HostSweep, round),
            new_edge(world, round),
            unusual_rate(world, round),
            unusual_volume(world, round),
            syn_flood(world, round),
            pressure(world),
            guessing(world, round),
            tampering(world, round),
            loss(world),
        ]);
        actors.extend(stopped(world, round));
    }
    actors
}

fn episode(
    world: &mut World,
    lasts: f64,
    expect: impl FnOnce(&mut World, Time, Duration),
    deed: impl FnMut(Time, f64, &mut Scene) + 'static,
) -> Box<dyn Actor> {
    let from = moment(&mut world.scene.random, lasts);
    expect(world, from, Duration::from_secs_f64(lasts));
    let until = from.plus(Duration::from_secs_f64(lasts));
    Box::new(Episode { from, until, deed: Box::new(deed) })
}

/// A client without TLS, under `report`.
fn plaintext(world: &mut World, round: u32) -> Box<dyn Actor> {
    let edge = Edge::new("web", ["api", "db"][round as usize % 2]);
    let lasts = world.scene.random.between(60.0, 7200.0);
    let expected = edge.clone();
    let expect = move |world: &mut World, from, lasts| {
        world.expect(Kind::Plaintext, &expected, from, lasts);
    };
    episode(world, lasts, expect, move |at, _, scene| {
        scene.classify(at, flow(&edge, 1, 5000, 8080), Class::Clear, App::Http1, Tls::Report);
    })
}

fn handshake(world: &mut World, kind: Kind, round: u32) -> Box<dyn Actor> {
    let edge = Edge::new("office", ["web", "mail"][round as usize % 2]);
    let lasts = world.scene.random.between(60.0, 7200.0);
    let server = 6000 + world.scene.random.among(0..1000) as u32;
    let days = world.scene.random.unit() * 13.9;
    let expected = edge.clone();
    let expect = move |world: &mut World, from, lasts| world.expect(kind, &expected, from, lasts);
    episode(world, lasts, expect, move |at, _, scene| {
        let mut facts = TlsFacts { version: Some(4), strength: Strength::Strong, ..TlsFacts::default() };
        let away = Duration::from_secs_f64(days * 86_400.0);
        match kind {
            Kind::TlsTooOld => facts.version = Some(scene.random.among(0..3) as u8),
            Kind::WeakCipher => facts.strength = Strength::Weak,
            Kind::CertificateExpiring => facts.not_after = Some(at.plus(away)),
            _ => {
                let before = at.millis() - u64::try_from(away.as_millis()).unwrap();
                facts.not_after = Some(Time::from_millis(before));
            }
        }
        scene.shake_hands(at, flow(&edge, 2, server, 443), facts);
    })
}

/// An edge at level `off` that was TLS, all of it or a part, often or rarely used.
fn stopped(world: &mut World, round: u32) -> [Box<dyn Actor>; 2] {
    let edge = Edge::new("api", format!("partner-{round}"));
    let random = &mut world.scene.random;
    let (mut a_minute, mut share, mut lasts) = (0.0, 0.0, 0.0);
    // What does not show is not there: at least four clear flows are to be expected.
    while a_minute * share * lasts / 60.0 < 4.0 {
        a_minute = random.between(0.03, 20.0);
        share = random.between(0.1, 1.0);
        lasts = random.between(900.0, 40_000.0);
    }
    let from = moment(random, lasts);
    let until = from.plus(Duration::from_secs_f64(lasts));
    world.expect(Kind::EncryptionStopped, &edge, from, until.since(from));
    let seen = flow(&edge, 3, 6500, 443);
    let habit = Habit { from, until, a_minute, share, seen };
    let edge_again = edge.clone();
    let used = move |at: Time, _: f64, scene: &mut Scene| scene.count(at, &edge_again, 1, 20, 8000);
    let begin = crate::world::start();
    [Box::new(habit), Box::new(Episode { from: begin, until, deed: Box::new(used) })]
}

struct Habit {
    from: Time,
    until: Time,
    a_minute: f64,
    share: f64,
    seen: bulkhead_detect::findings::Flow,
}

impl Actor for Habit {
    fn act(&mut self, at: Time, scene: &mut Scene) {
        for _ in 0..scene.random.whole(self.a_minute * STEP.as_secs_f64() / 60.0) {
            let regressed = (self.from..self.until).contains(&at) && scene.random.chance(self.share);
            let class = if regressed { Class::Clear } else { Class::Tls };
            scene.classify(at, self.seen.clone(), class, App::Http1, Tls::Off);
        }
    }
}

fn denied_burst(world: &mut World, round: u32) -> Box<dyn Actor> {
    let edge = Edge::new(["workers", "office"][round as usize % 2], "api");
    let a_minute = world.scene.random.between(90.0, 10_000.0);
    let lasts = world.scene.random.between(60.0, 3600.0);
    let expected = edge.clone();
    let expect = move |world: &mut World, from, lasts| {
        world.expect(Kind::DeniedBurst, &expected, from, lasts);
        world.tolerate(Kind::SynFlood, &expected, from, lasts);
    };
    episode(world, lasts, expect, move |at, seconds, scene| {
        for second in (0..seconds as u64).step_by(5) {
            let flows = scene.random.whole(a_minute / 12.0);
            scene.count_denied(later(at, second as f64), &edge, flows, Reason::Default);
            scene.deny(later(at, second as f64), flow(&edge, 8, 5100, 7000));
        }
    })
}

/// From twenty ports or hosts to two thousand, in ten seconds or a day and a half.
fn scan(world: &mut World, kind: Kind, round: u32) -> Box<dyn Actor> {
    let from = ["office", "world"][round as usize % 2];
    let edge = Edge::new(from, "db");
    let random = &mut world.scene.random;
    let things = random.between(20.0, 2000.0);
    let lasts = random.between(10.0, 130_000.0);
    let source = (1 << 22) + random.among(0..1 << 20) as u32;
    let (expected, burst) = (edge.clone(), things / lasts * 60.0 >= 60.0);
    let expect = move |world: &mut World, from, lasts| {
        world.expect(kind, &Edge::new(expected.from.clone(), "any"), from, lasts);
        if burst {
            world.tolerate(Kind::DeniedBurst, &expected, from, lasts);
            world.tolerate(Kind::SynFlood, &expected, from, lasts);
        }
    };
    let mut next = 1.0;
    episode(world, lasts, expect, move |at, seconds, scene| {
        let mean = things / lasts * seconds;
        let tries = scene.random.whole(mean);
        for number in 0..tries {
            let moment = later(at, seconds * number as f64 / tries as f64);
            next += 1.0;
            let (host, port) =
                if kind == Kind::PortScan { (5200, next as u16) } else { (10_000 + next as u32, 22) };
            scene.deny(moment, flow(&edge, source, host, port));
        }
        if tries > 0 {
            scene.count_denied(at, &edge, tries, Reason::Default);
        }
    })
}

fn new_edge(world: &mut World, round: u32) -> Box<dyn Actor> {
    let edge = Edge::new(["office", "mail"][round as usize % 2], ["db", "queue"][round as usize % 2]);
    let lasts = world.scene.random.between(30.0, 3600.0);
    let expected = edge.clone();
    let expect = move |world: &mut World, from, lasts| world.expect(Kind::NewEdge, &expected, from, lasts);
    episode(world, lasts, expect, move |at, _, scene| scene.count(at, &edge, 1, 30, 20_000))
}

/// Several times what the edge does at its busiest, or in the night what it does by day.
fn unusual_rate(world: &mut World, round: u32) -> Box<dyn Actor> {
    let (edge, usual) =
        [(Edge::new("api", "db"), 300.0), (Edge::new("workers", "queue"), 90.0)][round as usize % 2].clone();
    let times = world.scene.random.between(3.0, 60.0);
    let lasts = world.scene.random.between(300.0, 7200.0);
    let expected = edge.clone();
    let expect = move |world: &mut World, from, lasts| {
        world.expect(Kind::UnusualRate, &expected, from, lasts);
        world.tolerate(Kind::UnusualVolume, &expected, from, lasts);
    };
    episode(world, lasts, expect, move |at, seconds, scene| {
        let flows = scene.random.whole(usual * times * seconds / 60.0);
        scene.count(at, &edge, flows, flows * 12, flows * 3000);
    })
}

/// Somebody takes things away.
fn unusual_volume(world: &mut World, round: u32) -> Box<dyn Actor> {
    let edge = [Edge::new("office", "mail"), Edge::new("node", "world")][round as usize % 2].clone();
    let bytes = world.scene.random.between(5e8, 5e11);
    let lasts = world.scene.random.between(120.0, 7200.0);
    let expected = edge.clone();
    let expect = move |world: &mut World, from, lasts| {
        world.expect(Kind::UnusualVolume, &expected, from, lasts);
    };
    episode(world, lasts, expect, move |at, seconds, scene| {
        let bytes = (bytes * seconds / lasts) as u64;
        scene.count(at, &edge, 0, bytes / 1400, bytes);
    })
}

fn syn_flood(world: &mut World, round: u32) -> Box<dyn Actor> {
    let edge = Edge::new("world", ["web", "mail"][round as usize % 2]);
    let a_second = world.scene.random.between(100.0, 50_000.0);
    let lasts = world.scene.random.between(20.0, 1800.0);
    let size = 60 + world.scene.random.among(0..20);
    let expected = edge.clone();
    let expect = move |world: &mut World, from, lasts: Duration| {
        world.expect(Kind::SynFlood, &expected, from, lasts);
        world.tolerate(Kind::UnusualRate, &expected, from, lasts);
        world.tolerate(Kind::UnusualVolume, &expected, from, lasts);
        world.tolerate(Kind::NewEdge, &expected, from, lasts);
    };
    episode(world, lasts, expect, move |at, seconds, scene| {
        for second in (0..seconds as u64).step_by(5) {
            let flows = scene.random.whole(a_second * 5.0);
            let packets = flows + flows / 5;
            scene.count(later(at, second as f64), &edge, flows, packets, packets * size);
        }
    })
}

fn pressure(world: &mut World) -> Box<dyn Actor> {
    let share = world.scene.random.between(0.82, 1.0);
    let lasts = world.scene.random.between(60.0, 3600.0);
    let expect = |world: &mut World, from, lasts| {
        world.expect(Kind::FlowTablePressure, &Edge::node(), from, lasts);
    };
    episode(world, lasts, expect, move |at, _, scene| {
        let (capacity, refusing) = (65_536, share > 0.97);
        let entries = (share * 65_536.0) as u64;
        scene.see(later(at, 1.0), Observation::Table { table: "DENIALS", entries, capacity, refusing });
    })
}

/// Somebody guesses, eight times or a thousand.
fn guessing(world: &mut World, round: u32) -> Box<dyn Actor> {
    let edge = Edge::new(["world", "office"][round as usize % 2], "web");
    let tries = world.scene.random.between(10.0, 1000.0);
    let lasts = world.scene.random.between(10.0, 3600.0);
    let src = IpAddr::from([192, 0, 2, world.scene.random.among(1..250) as u8]);
    let expected = edge.clone();
    let expect = move |world: &mut World, from, lasts| {
        world.expect(Kind::AuthenticationFailures, &expected, from, lasts);
    };
    episode(world, lasts, expect, move |at, seconds, scene| {
        for number in 0..scene.random.whole(tries * seconds / lasts) {
            let edge = edge.clone();
            let failed = Observation::AuthenticationFailed { edge, src, why: "credential" };
            scene.see(later(at, number as f64 * 0.01), failed);
        }
    })
}

fn tampering(world: &mut World, round: u32) -> Box<dyn Actor> {
    let expect = |world: &mut World, from, lasts| world.expect(Kind::Tampering, &Edge::node(), from, lasts);
    episode(world, 30.0, expect, move |at, _, scene| {
        let name = format!("link-{round}");
        let (object, how, action) = ("link", "missing", "restored");
        scene.see(at, Observation::Tampered { object, name, how, action, count: 1 });
    })
}

fn loss(world: &mut World) -> Box<dyn Actor> {
    let expect = |world: &mut World, from, lasts| world.expect(Kind::EventLoss, &Edge::node(), from, lasts);
    let lasts = world.scene.random.between(10.0, 600.0);
    episode(world, lasts, expect, move |at, _, scene| {
        let count = scene.random.among(1..100_000);
        scene.see(at, Observation::Lost { what: "events", count });
    })
}
