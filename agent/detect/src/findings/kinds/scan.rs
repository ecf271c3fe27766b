//! One source that tries many ports, or many hosts, and is denied.
//!
//! What counts is what is *new*: a monitor that asks the same hundred hosts every minute has tried a
//! hundred things once. What a source was let through to, it knows as well, so a monitor that loses its
//! right is no sweep. Three stretches of time, so that a slow scan is found, too: it takes longer.
//!
//! Sources are addresses; those of IPv6 from outside are taken by /64, since one machine may use all of
//! it. Strangers have a table of their own, so that however many come, those in zones stay known. A table
//! that is full drops who was silent for longest, the suspicious last.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use bulkhead_abi::Reason;

use super::{Machine, make_room};
use crate::findings::finding::{Evidence, Key, Kind, Severity, Subject};
use crate::findings::ledger::Ledger;
use crate::findings::novelty::Novelty;
use crate::findings::observation::{Edge, Flow, Observation, Zone};
use crate::findings::time::{Time, days, hours, minutes};
use crate::findings::window::Window;

/// Sources in zones that are kept, and strangers: some 2 KiB each, 4 KiB after a day.
const SOURCES: [usize; 2] = [1024, 512];
/// Whoever tried so many new things within a day is suspicious.
const SUSPICIOUS: f64 = 5.0;
/// How long a tried thing is known.
const KNOWN: Duration = days(1);
/// Stretches of time.
const SPANS: [Duration; 3] = [minutes(1), hours(1), days(1)];
/// New ports within each that open a finding.
const PORTS: [f64; 3] = [15.0, 25.0, 40.0];
/// New hosts likewise: whoever talks to the world meets more hosts than ports.
const HOSTS: [f64; 3] = [20.0, 40.0, 80.0];

#[derive(Debug, Default)]
pub(super) struct Scan {
    insiders: HashMap<(Zone, IpAddr), Source>,
    strangers: HashMap<(Zone, IpAddr), Source>,
}

#[derive(Debug)]
struct Source {
    last: Time,
    ports: Tried,
    hosts: Tried,
}

/// New things of one sort.
#[derive(Debug)]
struct Tried {
    known: Novelty,
    windows: [Window; 3],
}

impl Machine for Scan {
    fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger) {
        let (flow, denied) = match seen {
            Observation::Denied { flow, reason, .. } if tells(*reason) => (flow, true),
            Observation::Opened(flow) | Observation::Classified { flow, .. } => (flow, false),
            _ => return,
        };
        let Some(source) = self.source(at, flow, denied) else { return };
        let port_is_new = source.ports.known.is_new(at, &(flow.protocol, flow.port));
        let host_is_new = source.hosts.known.is_new(at, &flow.dst);
        if !denied {
            return;
        }
        let from = &flow.edge.from;
        let subject = Subject::Source(group(from, flow.src));
        for (kind, is_new, tried, thresholds) in [
            (Kind::PortScan, port_is_new, &mut source.ports, PORTS),
            (Kind::HostSweep, host_is_new, &mut source.hosts, HOSTS),
        ] {
            if !is_new {
                continue;
            }
            let counts = tried.windows.each_mut().map(|window| window.add(at, 1));
            // By source alone: a scan goes over many zones.
            let key = Key::new(kind, Edge::new(from.clone(), "any"), subject.clone());
            let open = ledger.is_live(&key);
            let mut over =
                counts.iter().zip(thresholds).zip(SPANS).filter(|((count, most), _)| **count >= *most);
            let reached = over.next();
            if reached.is_none() && !open {
                continue;
            }
            let [_, _, day] = counts;
            let severity = if is_world(from) { Severity::Medium } else { Severity::High };
            let count = if open { 1 } else { day as u64 };
            let span = reached.map_or(0, |(_, span)| span.as_secs());
            ledger.raise(at, key, severity, count, || {
                Evidence::new()
                    .with("tried-within-a-day", day.round())
                    .with("seconds", span)
                    .with("last-destination", flow.dst)
                    .with("last-port", flow.port_name())
                    .with("last-zone", &flow.edge.to)
            });
        }
    }
}

impl Scan {
    /// What is known of the source; a stranger who does nothing wrong is nobody.
    fn source(&mut self, at: Time, flow: &Flow, denied: bool) -> Option<&mut Source> {
        let key = (flow.edge.from.clone(), group(&flow.edge.from, flow.src));
        let [insiders, strangers] = SOURCES;
        let stranger = is_world(&flow.edge.from);
        let (table, capacity) =
            if stranger { (&mut self.strangers, strangers) } else { (&mut self.insiders, insiders) };
        if !table.contains_key(&key) {
            if stranger && !denied {
                return None;
            }
            make_room(table, capacity, |source| (source.is_suspicious(at), source.last));
        }
        let tried = || Tried { known: Novelty::new(KNOWN), windows: SPANS.map(Window::new) };
        let source = table.entry(key).or_insert_with(|| Source { last: at, ports: tried(), hosts: tried() });
        source.last = at;
        Some(source)
    }
}

impl Source {
    fn is_suspicious(&self, at: Time) -> bool {
        let [_, _, ports] = &self.ports.windows;
        let [_, _, hosts] = &self.hosts.windows;
        ports.count(at) >= SUSPICIOUS || hosts.count(at) >= SUSPICIOUS
    }
}

fn is_world(zone: &Zone) -> bool {
    &**zone == "world"
}

/// Whether the denial says that somebody tried a door, rather than that a packet was odd.
const fn tells(reason: Reason) -> bool {
    matches!(reason, Reason::Default | Reason::DenyRule | Reason::UnknownProtocol)
}

fn group(from: &Zone, address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) if is_world(from) => IpAddr::V6(Ipv6Addr::from(u128::from(address) >> 64 << 64)),
        address => address,
    }
}
